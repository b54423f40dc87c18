"""The hot rows of one table, written through from the log, and the near cache beside them. Knows no versions, no network.

A follower writes to it as to a table; what is not hot is only dropped from the near cache. Rows are kept as float32, as the
cluster gives them. One thread writes; readers take no lock.

A row that is asked for from the cluster comes late, and the log goes on meanwhile. It is taken only if the log has not written
its key since it was asked for: then the answer is what the log would have made it, else the log's own row is the newer one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.hashing import buckets_of, partitions_of
from penstock.pipeline.core.ids import Partition
from penstock.pipeline.core.records import NO_KEYS
from penstock.pipeline.core.schema import ModelSchema, TableSchema
from penstock.pipeline.core.times import WallTime

from ..table import Table
from .members import Keys, Members
from .missing import Missing
from .near_cache import Flags, NearCache, Rows

Encoded = NDArray[np.uint8]
HOT_OVERHEAD = 64
"""About how many bytes a hot row takes beside its floats: in the index, and among the members."""


class Taken(NamedTuple):
    """What came of rows that were asked for: `new` were not here, `same` bit by bit as they were, `changed` another; `passed`
    were written by the log meanwhile."""

    new: int = 0
    same: int = 0
    changed: int = 0
    passed: int = 0

    def plus(self, other: Taken) -> Taken:
        return Taken(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True)
class Sought:
    """Keys that are asked for, as the table was then."""

    keys: Keys
    members: Members
    moment: int


def warm_hot(schema: ModelSchema) -> None:
    """Compiles what a hot table runs, of every kind that the schema has, before the first request waits for it."""
    for kind in {(table.codec, table.dim, table.width): table for table in schema.tables.values()}.values():
        table = HotTable(schema, kind, near_bytes=1 << 16, expiry_us=1)
        keys = np.arange(1, dtype=np.int64)
        partition = Partition(int(table.partitions_of(keys)[0]))
        rows, found, known = np.zeros((1, table.dim), np.float32), np.ones(1, np.bool_), np.zeros(1, np.bool_)
        table.choose(keys)
        table.take(table.sought(keys), found, found, rows)
        table.apply(partition, keys, np.zeros((1, table.width), np.uint8), NO_KEYS)
        table.apply(partition, NO_KEYS, np.zeros((0, table.width), np.uint8), keys)
        table.lookup(keys, rows)
        table.near.put(keys, found, rows, proven=found, tickets=table.near.tickets(keys), now=WallTime(1))
        table.near.get(keys, WallTime(1), known=known, found=found, out=rows)
        known[:] = False
        Missing.of(keys, known).spread(known, rows, found, rows, found)


class HotTable:
    """`width`: bytes of a row as the log has it."""

    def __init__(self, schema: ModelSchema, table: TableSchema, *, near_bytes: int, expiry_us: int) -> None:
        self.width, self.dim, self._codec = table.width, table.dim, codec(table.codec)
        self._buckets, self._partitions = schema.buckets, schema.partitions
        self._rows = Table(
            codec="float32", dim=table.dim, width=4 * table.dim, bucket_count=schema.buckets, partition_count=schema.partitions,
            held=range(schema.buckets), image_bytes=0,
        )  # fmt: skip
        self.members = Members(NO_KEYS)
        self.near = NearCache(dim=table.dim, nbytes=near_bytes, expiry_us=expiry_us)
        self._moment = 0

    @property
    def row_count(self) -> int:
        return self._rows.row_count

    @property
    def nbytes(self) -> int:
        """Of hot rows."""
        return self._rows.nbytes + self.members.nbytes

    # ---- reading -------------------------------------------------------------------------------------------------------

    def lookup(self, keys: Keys, out: Rows) -> tuple[Flags, Flags]:
        """int64[n] -> bool[n] known, bool[n] found; `out` (float32[n, dim]) has the rows found, and zeros."""
        found = self._rows.lookup(keys, out)[1]
        known = found.copy()
        missing = np.flatnonzero(~found)
        if missing.size:
            members = self.members
            places = members.places(keys[missing])
            known[missing] = (places >= 0) & members.absent[places] if members.keys.size else False
        return known, found

    # ---- the log ---------------------------------------------------------------------------------------------------------

    def apply(self, partition: Partition, keys: Keys, rows: Encoded, tombstones: Keys) -> None:
        """Puts int64[n] keys with uint8[n, width], then deletes int64[m], of those that are hot."""
        self._moment += 1
        self.near.drop(keys)
        self.near.drop(tombstones)
        hot = self._written(keys)
        if hot.any():
            put = keys[hot]
            self._rows.apply(partition, put, self._decoded(rows[hot]).view(np.uint8), NO_KEYS)
            self.members.absent[self.members.places(put)] = False
        hot = self._written(tombstones)
        if hot.any():
            self._rows.correct(partition, NO_KEYS, self._no_rows(), tombstones[hot])
            self.members.absent[self.members.places(tombstones[hot])] = True

    def _written(self, keys: Keys) -> Flags:
        places = self.members.places(keys)
        hot = places >= 0
        self.members.written[places[hot]] = self._moment
        return np.asarray(hot)

    def _decoded(self, rows: Encoded) -> Rows:
        return np.ascontiguousarray(self._codec.decode(np.ascontiguousarray(rows), self.dim), np.float32)

    # ---- which are hot ---------------------------------------------------------------------------------------------------

    def choose(self, keys: Keys) -> Keys:
        """These are hot from now on, and no others. Returns those that were not, which are to be asked for."""
        before, self.members = self.members, self.members.replaced(keys)
        self._remove(before.keys[self.members.places(before.keys) < 0])
        return self.members.keys[before.places(self.members.keys) < 0]

    def sought(self, keys: Keys) -> Sought:
        return Sought(keys, self.members, self._moment)

    def take(self, asked: Sought, chosen: Flags, found: Flags, rows: Rows) -> Taken:
        """Rows (float32[n, dim]) and which were `found` (bool[n]) of keys that were asked for, where `chosen` (bool[n])."""
        if self.members is not asked.members:
            chosen = chosen & (self.members.places(asked.keys) >= 0)  # others are hot by now
        keys, found, rows = asked.keys[chosen], found[chosen], rows[chosen]
        places = self.members.places(keys)
        free = self.members.written[places] <= asked.moment
        held, there = self._rows.lookup(keys)
        same = (there == found) & ~(held.view(np.uint32) != rows.view(np.uint32)).any(axis=1) | ~(there | found)
        known = there | self.members.absent[places]
        put, gone = free & found & ~(there & same), free & ~found
        if put.any():
            self._rows.load(keys[put], np.ascontiguousarray(rows[put]).view(np.uint8))
            self.members.absent[places[put]] = False
        self._remove(keys[gone & there])
        self.members.absent[places[gone]] = True
        counts = (free & ~known, free & known & same, free & known & ~same, ~free)
        return Taken(*(int(np.count_nonzero(each)) for each in counts))

    def _remove(self, keys: Keys) -> None:
        if keys.size:
            owners = self.partitions_of(keys)
            for partition in np.unique(owners).tolist():
                self._rows.correct(Partition(partition), NO_KEYS, self._no_rows(), keys[owners == partition])

    def partitions_of(self, keys: Keys) -> NDArray[np.int32]:
        return partitions_of(buckets_of(keys, self._buckets), bucket_count=self._buckets, partition_count=self._partitions)

    def _no_rows(self) -> Encoded:
        return np.empty((0, 4 * self.dim), np.uint8)
