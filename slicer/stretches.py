"""Cuts the common order of several runs into stretches that fit a budget of rows. Reads keys only where one bucket alone is
too large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .runs import Run

SAMPLES = 64
"""Keys that are looked at for each part of a bucket that has to be cut."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Positions [lows[i], highs[i]) of run i, for each of `runs`: all their keys of one part of the order."""

    runs: Sequence[Run]
    lows: NDArray[np.int64]
    highs: NDArray[np.int64]

    def parts(self) -> Iterator[tuple[int, Run, int, int]]:
        """Number, run, and positions of every run that has keys here."""
        for number in np.flatnonzero(self.highs > self.lows).tolist():
            yield number, self.runs[number], int(self.lows[number]), int(self.highs[number])

    def keys(self) -> list[NDArray[np.int64]]:
        return [run.keys_at(low, high) for _, run, low, high in self.parts()]


def stretches(runs: Sequence[Run], buckets: range, *, rows: int) -> Iterator[Stretch]:
    """In order; each has keys, and about `rows` of them at most, of all runs together."""
    if not runs:
        return
    starts = np.array([run.offsets[buckets.start : buckets.stop + 1] for run in runs])
    before = (starts - starts[:, :1]).sum(axis=0)
    bucket = 0
    while bucket < len(buckets):
        stop = max(bucket + 1, int(np.searchsorted(before, before[bucket] + rows, side="right")) - 1)
        held = int(before[stop] - before[bucket])
        if held > rows:
            yield from _parts(Stretch(runs, starts[:, bucket], starts[:, stop]), -(-held // rows))
        elif held:
            yield Stretch(runs, starts[:, bucket], starts[:, stop])
        bucket = stop


def _parts(whole: Stretch, parts: int) -> Iterator[Stretch]:
    """About equal parts of one bucket, cut between the same keys in every run."""
    step = max(1, int((whole.highs - whole.lows).sum()) // (parts * SAMPLES))
    found = [(number, run.keys_at(low, high), low) for number, run, low, high in whole.parts()]
    sample = np.sort(np.concatenate([keys[::step] for _, keys, _ in found]))
    pivots = np.unique(sample[np.arange(1, parts) * len(sample) // parts])
    cuts = np.tile(whole.lows, (len(pivots) + 2, 1))
    cuts[-1] = whole.highs
    for number, keys, low in found:
        cuts[1:-1, number] = low + np.searchsorted(keys, pivots)
    for lows, highs in pairwise(cuts):
        if (highs > lows).any():
            yield Stretch(whole.runs, lows, highs)
