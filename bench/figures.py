"""What a bench gives back: figures, each beside what it is compared with, on the same machine at the same time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` in `unit`; `peer` says what it is compared with and what that took, `ratio` is value over peer, and `target` what
    it ought to be, as in "ratio <= 0.9"."""

    name: str
    value: float
    unit: str
    peer: str = ""
    ratio: float | None = None
    target: str = ""


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternating(rounds: int, *works: Callable[[], object], tidy: Callable[[], object] = lambda: None) -> list[list[float]]:
    """Seconds of each work in each round, one after the other in every round, so that a slow moment strikes all alike. `tidy`
    ends a round, and is not counted."""
    taken = []
    for _ in range(rounds):
        taken.append([seconds(work) for work in works])
        tidy()
    return [list(column) for column in zip(*taken, strict=True)]


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios round by round."""
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))
