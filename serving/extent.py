"""What may be written to a table: which buckets, and rows of how many bytes. Knows no row that is there."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import InvalidInput
from penstock.pipeline.core.hashing import bucket_range
from penstock.pipeline.core.ids import Partition

from . import writes
from .index import Span
from .memory import frozen

Keys = NDArray[np.int64]
Rows = NDArray[np.uint8]
"""uint8[n, width]: encoded rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """`held`: the buckets, out of `bucket_count`, that may have rows; `parts`: those of each partition. Everything that it
    checks raises `InvalidInput`."""

    width: int
    bucket_count: int
    partition_count: int
    held: range
    parts: tuple[range, ...] = field(init=False)

    def __post_init__(self) -> None:
        held, buckets, partitions = self.held, self.bucket_count, self.partition_count
        if not (held.step == 1 and 0 <= held.start <= held.stop <= buckets and 1 <= partitions <= buckets):
            raise InvalidInput(f"buckets {held} of {buckets} over {partitions} partitions")
        object.__setattr__(self, "parts", tuple(self._part(partition) for partition in range(partitions)))

    def _part(self, partition: int) -> range:
        own = bucket_range(partition, bucket_count=self.bucket_count, partition_count=self.partition_count)
        first = max(own.start, self.held.start)
        return range(first, max(first, min(own.stop, self.held.stop)))

    def check_write(self, partition: Partition, keys: Keys, rows: Rows, tombstones: Keys) -> None:
        self.check_partition(partition)
        self.check_puts(keys, rows)
        self.check_keys(tombstones)
        self.check_inside(keys, self.parts[partition])
        self.check_inside(tombstones, self.parts[partition])

    def check_partition(self, partition: Partition) -> None:
        if not 0 <= partition < self.partition_count:
            raise InvalidInput(f"partition {partition}: there are {self.partition_count}")

    def check_keys(self, keys: Keys) -> None:
        if keys.dtype != np.int64 or keys.ndim != 1:
            raise InvalidInput(f"keys are {keys.dtype}{list(keys.shape)}, need int64[n]")

    def check_puts(self, keys: Keys, rows: Rows) -> None:
        self.check_keys(keys)
        if rows.dtype != np.uint8 or rows.shape != (keys.size, self.width):
            raise InvalidInput(f"rows are {rows.dtype}{list(rows.shape)}, need uint8[{keys.size}, {self.width}]")

    def check_inside(self, keys: Keys, buckets: range) -> None:
        at = 0 if keys.size else -1
        if buckets and keys.size:
            span = Span(self.bucket_count, buckets.start, buckets.stop)
            at = writes.first_outside(frozen(keys), np.uint64(span.low), np.uint64(span.high))
        if at >= 0:
            raise InvalidInput(f"key {keys[at]} does not belong to buckets {buckets.start}-{buckets.stop}")
