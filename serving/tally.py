"""What a server has answered and refused, and how long it took lately. Knows no network."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from math import ceil, log2

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.metrics import Spread

from .status import Latency

SLICES = 6
SLICE_S = 10.0
PER_OCTAVE = 8
FASTEST_S = 1e-6
BUCKETS = 27 * PER_OCTAVE
"""Up to 2 minutes; what takes longer counts as that."""
FIRST_TOLD, LAST_TOLD = 7, 23
"""Octaves whose ends bound the histogram of all lookups: 128 µs to 8.4 s."""


class Tally:
    """Latencies of the last minute, in buckets that are 9 % wide, and of all lookups, in octaves. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changing = threading.Lock()
        self.lookups = self.keys = self.shed = self.refused = self.failed = 0
        self.spread = Spread([FASTEST_S * 2.0**octave for octave in range(FIRST_TOLD, LAST_TOLD + 1)])
        self._slices: deque[tuple[float, NDArray[np.int64]]] = deque(maxlen=SLICES)

    def answered(self, keys: int, took_s: float) -> None:
        bucket = min(max(0, ceil(PER_OCTAVE * log2(max(took_s, FASTEST_S) / FASTEST_S))), BUCKETS - 1)
        with self._changing:
            self.lookups += 1
            self.keys += keys
            self.spread.add(took_s)
            now = self._clock()
            if not self._slices or now - self._slices[-1][0] >= SLICE_S:
                self._slices.append((now, np.zeros(BUCKETS, np.int64)))
            self._slices[-1][1][bucket] += 1

    def was_shed(self) -> None:
        with self._changing:
            self.shed += 1

    def was_refused(self) -> None:
        with self._changing:
            self.refused += 1

    def has_failed(self) -> None:
        with self._changing:
            self.failed += 1

    def latency(self) -> Latency:
        """Over the last minute; the ends of the buckets, so never less than it was."""
        with self._changing:
            after = self._clock() - SLICES * SLICE_S
            counts = sum((found for began, found in self._slices if began > after), np.zeros(BUCKETS, np.int64))
        reached = np.cumsum(counts)
        total = int(reached[-1])
        if not total:
            return Latency(lookups=0, p50_ms=None, p99_ms=None)
        half, nearly_all = (self._end_ms(int(np.searchsorted(reached, ceil(share * total)))) for share in (0.5, 0.99))
        return Latency(lookups=total, p50_ms=half, p99_ms=nearly_all)

    @staticmethod
    def _end_ms(bucket: int) -> float:
        return float(1000 * FASTEST_S * 2.0 ** (bucket / PER_OCTAVE))
