"""Lookups of keys that were not asked for lately, beside a bare gather of as many rows. Figures are by the clock, ratios by the
time of the core, which other work disturbs less."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.serving.table import Table

from .figures import Figure, median_ratio, seconds
from .gathering import gather, slots_of
from .served import BATCH, drawn, keys_of

ROUNDS, DRAWN = 100, 64
Times = list[float]
TARGETS_MS = {("zipf", 1): 10, ("uniform", 1): 14, ("zipf", 2): 6, ("uniform", 2): 8}


class Took(NamedTuple):
    """Seconds by the clock, and of the core."""

    s: float
    core_s: float

    @classmethod
    def by(cls, work: Callable[[], object]) -> Took:
        began = time.thread_time()
        return cls(seconds(work), time.thread_time() - began)


class Asking:
    """`law`: of the keys."""

    def __init__(self, table: Table, rows: int, law: str) -> None:
        self.table, self.law, rng = table, law, np.random.default_rng(5)
        self.out = np.zeros((BATCH, table.dim), np.float32)
        self._encoded = np.zeros(BATCH * table.width, np.uint8)
        self._drawn = cycle([keys_of(drawn(law, rng, rows)) for _ in range(DRAWN)])

    def keys(self) -> NDArray[np.int64]:
        return next(self._drawn)

    def look(self) -> None:
        self.table.lookup(self.keys(), self.out)

    def one(self) -> Took:
        keys = self.keys()
        return Took.by(lambda: self.table.lookup(keys, self.out))

    def two(self, other: ThreadPoolExecutor) -> float:
        """Each of two threads looks half of the keys up."""
        keys, half = self.keys(), BATCH // 2

        def both() -> None:
            second = other.submit(self.table.lookup, keys[half:], self.out[half:])
            self.table.lookup(keys[:half], self.out[:half])
            second.result()

        return seconds(both)

    def bare(self) -> Took:
        slots = slots_of(self.table, self.keys())
        return Took.by(lambda: gather(self.table, slots, self._encoded))


def against_gather(asking: Asking) -> list[Figure]:
    """By one thread and by two."""
    bare, one, two = list[Took](), list[Took](), Times()
    with ThreadPoolExecutor(1) as other:
        for kept in (False, *[True] * ROUNDS):
            found = asking.bare(), asking.one(), asking.two(other)
            if kept:
                bare.append(found[0])
                one.append(found[1])
                two.append(found[2])
    core, peer_core = ([each.core_s for each in found] for found in (one, bare))
    what, law = f"lookup of {BATCH:,} keys, {asking.law}", asking.law
    peer, times = f"places known: {np.median([each.s for each in bare]) * 1e3:.1f} ms", [each.s for each in one]
    figures = [percentile(what, times, 50, peer, median_ratio(core, peer_core), "ratio <= 1.8")]
    figures.append(percentile(what, times, 99, "", None, f"<= {TARGETS_MS[law, 1]} ms"))
    figures.append(percentile(f"{what}, two threads", two, 99, "", None, f"<= {TARGETS_MS[law, 2]} ms"))
    rate = BATCH / float(np.median(core)) / 1e6
    return [*figures, Figure(what, rate, "M keys/s a core")]


def percentile(what: str, times: Times, percent: int, peer: str, ratio: float | None = None, target: str = "") -> Figure:
    return Figure(f"{what}, p{percent}", float(np.percentile(times, percent)) * 1e3, "ms", peer, ratio, target)
