"""What both sides of `penstock bench realtime` know: the table, the rows of a put, and the probes among them.

Every put writes one probe row a partition, whose first float is the number of the put. A reader that finds number n under a
probe knows that everything of put n in that partition can be read. Knows no log, no replica, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..core.errors import InvalidInput
from ..core.hashing import buckets_of, partitions_of

TABLE = "bench"
MOST_PUTS = 1 << 24
"""Whole numbers up to here are exact in float32."""
PREPARED = 64
"""How many different puts there are; they come in turn."""
_SEARCHED = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`rate` rows a second of `dim` floats, put `batch` at a time, on a table of `rows` rows."""

    rate: int
    dim: int
    batch: int
    rows: int
    buckets: int
    partitions: int

    def __post_init__(self) -> None:
        if self.batch < self.partitions:
            raise InvalidInput(f"{self.batch} rows a put: each of the {self.partitions} partitions needs one")

    @property
    def period_s(self) -> float:
        """From put to put."""
        return self.batch / self.rate

    def puts(self, seconds: float) -> int:
        count = round(seconds / self.period_s)
        if count >= MOST_PUTS:
            raise InvalidInput(f"{count} puts: at most {MOST_PUTS} can be told apart; take a larger batch, or less time")
        return count

    def probes(self) -> NDArray[np.int64]:
        """int64[partitions]: negative keys, one in each partition in turn."""
        keys = -1 - np.arange(_SEARCHED, dtype=np.int64)
        where = self.partitions_of(keys)
        found = [keys[where == p] for p in range(self.partitions)]
        return np.array([own[0] for own in found])

    def partitions_of(self, keys: NDArray[np.int64]) -> NDArray[np.int32]:
        buckets = buckets_of(keys, self.buckets)
        return partitions_of(buckets, bucket_count=self.buckets, partition_count=self.partitions)

    def keys(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """int64[batch]: the probes, then other keys of the table."""
        return np.concatenate((self.probes(), rng.integers(0, self.rows, self.batch - self.partitions)))

    def values(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        """float32[count, dim]"""
        return rng.standard_normal((count, self.dim), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a reader saw, in order: int64[n] each. From `at_ns` of the monotonic clock on, everything up to put `number` could be
    read in `partition`."""

    partition: NDArray[np.int64]
    number: NDArray[np.int64]
    at_ns: NDArray[np.int64]

    def latencies_ms(self, put_at_ns: NDArray[np.int64], *, first: int, partitions: int) -> NDArray[np.float64]:
        """One for each put from number `first` on and each partition; put n began at `put_at_ns[n]`. What was never seen is
        infinite."""
        found = []
        for p in range(partitions):
            own = self.partition == p
            number, at = self.number[own], self.at_ns[own]
            wanted = np.arange(first, len(put_at_ns))
            # The first look that saw this put, or a later one.
            place = np.searchsorted(number, wanted)
            seen = place < len(number)
            taken = np.full(len(wanted), np.inf)
            taken[seen] = (at[place[seen]] - put_at_ns[wanted[seen]]) / 1e6
            found.append(taken)
        return np.concatenate(found)


class Noted:
    """Notes what a reader sees; `newest` is the newest put of each partition."""

    def __init__(self, partitions: int) -> None:
        self.newest = np.full(partitions, -1, np.int64)
        self._found: list[tuple[NDArray[np.int64], ...]] = []

    def look(self, numbers: NDArray[np.int64], at_ns: NDArray[np.int64]) -> None:
        """The put that was seen in each partition, and since when."""
        changed = np.flatnonzero(numbers != self.newest)
        if changed.size:
            self._found.append((changed, numbers[changed], at_ns[changed]))
            self.newest = numbers

    def seen(self) -> Seen:
        nothing = (np.empty(0, np.int64),) * 3
        return Seen(*(np.concatenate(column) for column in zip(nothing, *self._found, strict=True)))


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds, over `count` samples."""

    p50: float
    p90: float
    p99: float
    p999: float
    max: float
    count: int


def latency_of(samples_ms: NDArray[np.float64]) -> Latency:
    p50, p90, p99, p999 = np.percentile(samples_ms, (50, 90, 99, 99.9), method="higher").tolist()
    return Latency(p50=p50, p90=p90, p99=p99, p999=p999, max=float(samples_ms.max()), count=samples_ms.size)
