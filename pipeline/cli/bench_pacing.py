"""Puts on time while a reader watches: how long each was on its way. Knows neither what a put does nor what reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InvalidInput
from .bench_probes import Load
from .bench_readers import Reader, Watch

Put = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`seconds` are measured, after `warmup_s`; `lookup_keys` (0: none) are looked up back to back meanwhile; `burst_rows` (0:
    none) are put as fast as they are taken."""

    load: Load
    seconds: float
    warmup_s: float
    lookup_keys: int
    burst_rows: int

    def __post_init__(self) -> None:
        if self.load.puts(self.warmup_s + self.seconds) <= self.load.puts(self.warmup_s):
            raise InvalidInput(f"{self.load.batch} rows a put at {self.load.rate} rows/s: not one put in {self.seconds:g} s")


@dataclass(frozen=True, slots=True)
class Paced:
    """`latencies_ms`: of each put and partition after the warm-up, infinite where it was never seen; `rows_per_s` were put."""

    latencies_ms: NDArray[np.float64]
    lookups_ms: NDArray[np.float64]
    rows_per_s: float


def watched(plan: Plan, seconds: float, reader: Reader, put: Put, *, lookup_keys: int = 0) -> Paced:
    """Puts for the warm-up and then so many seconds."""
    load = plan.load
    first = load.puts(plan.warmup_s)
    count = max(first + 1, load.puts(plan.warmup_s + seconds))
    reader.watch(Watch(lookup_keys))
    begun = _paced(load, count, put)
    observed = reader.observed(count - 1)
    latencies_ms = observed.seen.latencies_ms(begun, first=first, partitions=load.partitions)
    took_ns = int(begun[-1] - begun[first]) + load.period_s * 1e9
    return Paced(latencies_ms, observed.lookups_ms, (count - first) * load.batch * 1e9 / took_ns)


def _paced(load: Load, count: int, put: Put) -> NDArray[np.int64]:
    """Puts number 0 to `count` on time, or as soon after as can be; when each was begun, on the monotonic clock."""
    begun, start = np.empty(count, np.int64), time.monotonic()
    for number in range(count):
        if (early := start + number * load.period_s - time.monotonic()) > 0:
            time.sleep(early)
        begun[number] = time.monotonic_ns()
        put(number)
    return begun
