"""What was put and is not in the log yet: folded to the newest touch of each key, split by partition, cut into parcels. Pure.

Rows of one record share one `trained_through`, so that a rollback finds its cut between the puts of a trainer whose events
went on in between. Only when more than `MAX_STEPS` such steps wait (the log is slower than the trainer) neighbours are folded
together under the newer time; the rows stay safe, the cut gets coarser. It knows no log, no term and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.ids import Partition
from penstock.pipeline.core.records import NO_ROWS, row_record_bytes
from penstock.pipeline.core.schema import ModelSchema
from penstock.pipeline.core.times import EventTime
from penstock.slicer.packing import flat, gather

from .folding_kernels import newest_by_partition

MAX_STEPS = 64
"""Steps of `trained_through` that are kept apart while they wait."""
OVERHEAD_BYTES = 256
"""What a batch or a parcel counts for beside its arrays, so that many empty ones are bounded too."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parcel:
    """Writes to one table in one partition, every key once: the content of one record. Without a partition (a batch as it was
    put) keys may repeat, and the last counts. `keys` int64[puts + deletes], puts first; `rows` uint8[puts, width]."""

    table: str
    keys: NDArray[np.int64]
    rows: NDArray[np.uint8]
    through: EventTime
    partition: Partition = Partition(-1)

    @property
    def nbytes(self) -> int:
        return OVERHEAD_BYTES + self.keys.nbytes + self.rows.nbytes


@dataclass(slots=True)
class Outbox:
    """Takes batches in the order of their puts; `drain` empties it. `nbytes` is what waits."""

    schema: ModelSchema
    publisher: str
    record_bytes: int
    nbytes: int = 0
    _waiting: list[Parcel] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, batch: Parcel) -> None:
        """Queues a batch behind those before it; its arrays must not change any more."""
        self._waiting.append(batch)
        self.nbytes += batch.nbytes

    def restock(self, parcels: list[Parcel], through: EventTime) -> None:
        """Puts parcels whose fate is unknown before all that waits, to be sent again as of `through`, the newest time so far:
        within a term times only grow."""
        again = [*parcels, *self._waiting]
        self._waiting = [Parcel(table=parcel.table, keys=parcel.keys, rows=parcel.rows, through=through) for parcel in again]
        self.nbytes = sum(parcel.nbytes for parcel in self._waiting)

    def drain(self) -> list[Parcel]:
        """All that waits as parcels no larger than `record_bytes` (one row at least), in the order to send them."""
        waiting, self._waiting, self.nbytes = self._waiting, [], 0
        steps = _steps(waiting)
        together = -(-len(steps) // MAX_STEPS) or 1
        parcels: list[Parcel] = []
        for at in range(0, len(steps), together):
            group = [batch for step in steps[at : at + together] for batch in step]
            tables: dict[str, list[Parcel]] = {}
            for batch in group:
                tables.setdefault(batch.table, []).append(batch)
            for table, batches in tables.items():
                parcels += self._folded(table, batches, group[-1].through)
        return parcels

    def keys(self) -> dict[str, list[NDArray[np.int64]]]:
        """The keys that wait, per table."""
        found: dict[str, list[NDArray[np.int64]]] = {}
        for batch in self._waiting:
            found.setdefault(batch.table, []).append(batch.keys)
        return found

    def _folded(self, table: str, batches: list[Parcel], through: EventTime) -> Iterator[Parcel]:
        schema, width = self.schema, self.schema.table(table).width
        keys = np.concatenate([batch.keys for batch in batches])
        puts = np.concatenate([np.arange(len(batch.keys)) < len(batch.rows) for batch in batches])
        filled = [batch.rows for batch in batches if len(batch.rows)] or [np.empty((0, width), np.uint8)]
        rows = filled[0] if len(filled) == 1 else np.concatenate(filled)
        row_at = np.cumsum(puts) - 1
        slots = np.empty(1 << max(1, (2 * len(keys) - 1).bit_length()), np.int64)
        order, bounds = newest_by_partition(keys, ~puts, schema.buckets, schema.partitions, slots)
        fixed = row_record_bytes(rows=0, tombstones=0, width=0, publisher=self.publisher, table=table)
        room = max(self.record_bytes - fixed, 8 + width)
        for p in range(schema.partitions):
            put_at, deleted_at = order[bounds[2 * p] : bounds[2 * p + 1]], order[bounds[2 * p + 1] : bounds[2 * p + 2]]
            while len(put_at) or len(deleted_at):
                some_puts, put_at = np.split(put_at, [room // (8 + width)])
                left = (room - len(some_puts) * (8 + width)) // 8
                some_deleted, deleted_at = np.split(deleted_at, [left])
                some = np.empty((len(some_puts), width), np.uint8) if len(some_puts) else NO_ROWS
                if len(some_puts):
                    gather(flat(rows), row_at[some_puts], width, flat(some))
                yield Parcel(
                    table=table, keys=keys[np.concatenate((some_puts, some_deleted))], rows=some, through=through,
                    partition=Partition(p),
                )  # fmt: skip


def _steps(batches: list[Parcel]) -> list[list[Parcel]]:
    """Neighbours of equal time together."""
    steps: list[list[Parcel]] = []
    for batch in batches:
        if steps and steps[-1][-1].through == batch.through:
            steps[-1].append(batch)
        else:
            steps.append([batch])
    return steps
