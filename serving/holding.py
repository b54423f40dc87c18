"""What a replica holds: a range of buckets of every table, in memory. Knows no position, no version, no store."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.hashing import bucket_range, buckets_of
from penstock.pipeline.core.ids import Partition
from penstock.pipeline.core.schema import ModelSchema, TableSchema

from .index import Span
from .memory import frozen
from .table import Table
from .writes import first_outside

Digests = dict[str, NDArray[np.uint64]]
"""Per table, uint64[buckets]; zero outside the partition."""


@dataclass(slots=True)
class Holding:
    """`image_bytes` is shared among the tables that there are at first; `max_labels` is per partition. `tables` is replaced,
    never changed: a reader takes it as it is."""

    schema: ModelSchema
    buckets: range
    image_bytes: int
    max_labels: int
    tables: Mapping[str, Table] = field(init=False, default_factory=dict)

    _whole: list[range] = field(init=False)
    _parts: list[range] = field(init=False)
    _bounds: list[tuple[np.uint64, np.uint64]] = field(init=False)

    def __post_init__(self) -> None:
        buckets, partitions = self.schema.buckets, self.schema.partitions
        self._whole = [bucket_range(p, bucket_count=buckets, partition_count=partitions) for p in range(partitions)]
        self._parts = [_overlap(whole, self.buckets) for whole in self._whole]
        spans = [Span(buckets, whole.start, whole.stop) for whole in self._whole]
        self._bounds = [(np.uint64(span.low), np.uint64(span.high)) for span in spans]
        self.tables = {name: self._new_table(found) for name, found in self.schema.tables.items()}

    def _new_table(self, found: TableSchema) -> Table:
        return Table(
            codec=found.codec, dim=found.dim, width=found.width, bucket_count=self.schema.buckets,
            partition_count=self.schema.partitions, held=self.buckets, max_labels=self.max_labels,
            image_bytes=self.image_bytes // max(1, len(self.schema.tables)),
        )  # fmt: skip

    def grow(self, schema: ModelSchema, labels: Mapping[Partition, Sequence[Hashable]]) -> bool:
        """Tables that were born since, empty at all these labels; whether there are any. A schema that was read earlier may come
        later; none loses a table."""
        if schema.tables.keys() < self.schema.tables.keys():
            return False
        self.schema = schema
        new = {name: self._new_table(found) for name, found in schema.tables.items() if name not in self.tables}
        for table in new.values():
            for partition, found in labels.items():
                for label in found:
                    table.mark(partition, label)
        self.tables = {**self.tables, **new}
        return bool(new)

    # ---- which part ----------------------------------------------------------------------------------------------------

    def partitions(self) -> Iterator[Partition]:
        """Those that have buckets held."""
        for p in map(Partition, range(self.schema.partitions)):
            if self.part(p):
                yield p

    def of_partition(self, partition: Partition) -> range:
        """All buckets of a partition."""
        return self._whole[partition]

    def part(self, partition: Partition) -> range:
        """The buckets held of a partition."""
        return self._parts[partition]

    @property
    def is_complete(self) -> bool:
        return len(self.buckets) == self.schema.buckets

    def is_whole(self, partition: Partition) -> bool:
        return self.part(partition) == self.of_partition(partition)

    def stranger(self, partition: Partition, keys: NDArray[np.int64]) -> int | None:
        """The first of these keys that does not belong to a partition, if there is one."""
        at = first_outside(frozen(keys), *self._bounds[partition])
        return None if at < 0 else int(keys[at])

    def holds(self, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which keys lie in the buckets held."""
        buckets = buckets_of(keys, self.schema.buckets)
        return (buckets >= self.buckets.start) & (buckets < self.buckets.stop)

    # ---- digests and labels, of all tables -------------------------------------------------------------------------------

    def digests(self, partition: Partition) -> Digests:
        """Of the rows as they are."""
        at, found = slice(self.part(partition).start, self.part(partition).stop), {}
        for name, table in self.tables.items():
            digests = np.zeros(self.schema.buckets, np.uint64)
            digests[at] = table.digests[at]
            found[name] = digests
        return found

    def interval(self, partition: Partition, since: Hashable) -> Digests | None:
        """Of what was written since a label, row or tombstone; None when that is not known."""
        found = {}
        for name, table in self.tables.items():
            keys = table.written_since(partition, since)
            if keys is None:
                return None
            found[name] = table.interval(keys)
        return found

    def share_written(self, partition: Partition) -> float:
        """As of `Table`, of the table of which it is the most."""
        return max((table.share_written(partition) for table in self.tables.values()), default=0.0)

    def mark(self, partition: Partition, label: Hashable) -> None:
        for table in self.tables.values():
            table.mark(partition, label)

    def forget(self, partition: Partition, label: Hashable) -> None:
        for table in self.tables.values():
            table.forget(partition, label)


def _overlap(one: range, other: range) -> range:
    first = max(one.start, other.start)
    return range(first, max(first, min(one.stop, other.stop)))
