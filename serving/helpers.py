"""Threads that help a lookup of many keys while nobody else needs the cores. Knows no table, no network."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from .lookups import Job


@dataclass(frozen=True, slots=True)
class Help:
    """`threads` of them, the caller's among them."""

    threads: int
    _pool: ThreadPoolExecutor

    def run(self, jobs: Iterable[Job]) -> None:
        """Returns when all have ended; raises what one has raised."""
        left = deque(jobs)

        def work() -> None:
            while left:
                try:
                    job = left.popleft()
                except IndexError:
                    return  # another thread has taken the last one
                job()

        helping = [self._pool.submit(work) for _ in range(min(self.threads, len(left)) - 1)]
        try:
            work()
        finally:
            left.clear()
            wait(helping)  # they write into memory of the caller's
        for each in helping:
            each.result()


class Helpers:
    """`most` at a time, of all lookups together; they are started when they are needed first."""

    def __init__(self, most: int) -> None:
        self._pool = ThreadPoolExecutor(max(1, most), "penstock-helper")

    def up_to(self, threads: int) -> Help:
        return Help(max(1, threads), self._pool)
