"""What was put and is not in the log yet: folded to the newest touch of each key, split by partition, cut into parcels. Pure.

Rows of one record share one `trained_through`, so that a rollback finds its cut between the puts of a trainer whose events
went on in between. Only when more than `MAX_STEPS` such steps wait (the log is slower than the trainer) neighbours are folded
together under the newer time; the rows stay safe, the cut gets coarser. It knows no log, no term and no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.ids import Partition
from penstock.pipeline.core.records import NO_ROWS, row_record_bytes
from penstock.pipeline.core.schema import ModelSchema
from penstock.pipeline.core.times import EventTime, WallTime
from penstock.slicer.packing import flat, gather

from .folding_kernels import newest_by_partition

Keys = dict[str, NDArray[np.int64]]
MAX_STEPS = 64
"""Steps of `trained_through` that are kept apart while they wait."""
TAKEN_BYTES = 8 << 20
"""What is folded together at a time: it fits into the caches, and the log does not run dry meanwhile."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """What parcels are cut for: `record_bytes` at most in a record of `publisher`."""

    schema: ModelSchema
    publisher: str
    record_bytes: int


class Waiting(Protocol):
    """What was put and was not taken yet. `nbytes` is what it holds. Not for several threads at once."""

    schema: ModelSchema

    @property
    def nbytes(self) -> int: ...

    def add(self, batch: Parcel, *, now: WallTime) -> None:
        """A batch, behind those before it; its arrays must not change any more."""

    def give_way(self, limit: int) -> Keys:
        """Drops what matters least until `nbytes` is within `limit`; the keys that were dropped, per table."""

    def take(self, room: int, *, through: EventTime, now: WallTime) -> list[Parcel]:
        """Batches to send now, in this order."""

    def next_through(self, through: EventTime) -> EventTime:
        """All that is taken later is sent at or after this; `through` is the newest time so far."""

    def restock(self, parcels: list[Parcel], *, through: EventTime) -> None:
        """Puts parcels whose fate is unknown before all that waits, to be sent again as of `through`, the newest time so far:
        within a term times only grow."""

    def keys(self) -> Keys:
        """The keys that wait, per table; one may be there more than once."""


@dataclass(slots=True)
class Outbox:
    """Waits in the order of the puts. Nothing gives way: whoever adds has asked for room before."""

    schema: ModelSchema
    nbytes: int = 0
    _batches: list[Parcel] = field(default_factory=list)

    def add(self, batch: Parcel, *, now: WallTime) -> None:
        self._batches.append(batch)
        self.nbytes += batch.nbytes

    def give_way(self, limit: int) -> Keys:
        return {}

    def take(self, room: int, *, through: EventTime, now: WallTime) -> list[Parcel]:
        """The oldest, `TAKEN_BYTES` at least where there are so many, so that what goes out is not kept waiting for the rest."""
        room, count = max(room, TAKEN_BYTES), 0
        while count < len(self._batches) and room > 0:
            room -= self._batches[count].nbytes
            count += 1
        taken, self._batches = self._batches[:count], self._batches[count:]
        self.nbytes -= sum(batch.nbytes for batch in taken)
        return taken

    def next_through(self, through: EventTime) -> EventTime:
        return self._batches[0].through if self._batches else through

    def restock(self, parcels: list[Parcel], *, through: EventTime) -> None:
        self._batches = [replace(parcel, through=through) for parcel in [*parcels, *self._batches]]
        self.nbytes = sum(parcel.nbytes for parcel in self._batches)

    def keys(self) -> Keys:
        return keys_of(self._batches)


def keys_of(parcels: Iterable[Parcel]) -> Keys:
    found: dict[str, list[NDArray[np.int64]]] = {}
    for parcel in parcels:
        found.setdefault(parcel.table, []).append(parcel.keys)
    return {table: np.concatenate(keys) for table, keys in found.items()}


def packed(batches: list[Parcel], packing: Packing, *, most_steps: int = MAX_STEPS) -> list[Parcel]:
    """The batches as parcels no larger than a record may be (one row at least), in the order to send them; of `most_steps` steps
    of time at most."""
    steps = _steps(batches)
    together = -(-len(steps) // most_steps) or 1
    parcels: list[Parcel] = []
    for at in range(0, len(steps), together):
        group = [batch for step in steps[at : at + together] for batch in step]
        tables: dict[str, list[Parcel]] = {}
        for batch in group:
            tables.setdefault(batch.table, []).append(batch)
        for table, same in tables.items():
            parcels += _folded(table, same, group[-1].through, packing)
    return parcels


def _folded(table: str, batches: list[Parcel], through: EventTime, packing: Packing) -> Iterator[Parcel]:
    schema, width = packing.schema, packing.schema.table(table).width
    keys = np.concatenate([batch.keys for batch in batches])
    puts = np.concatenate([np.arange(len(batch.keys)) < len(batch.rows) for batch in batches])
    filled = [batch.rows for batch in batches if len(batch.rows)] or [np.empty((0, width), np.uint8)]
    rows = filled[0] if len(filled) == 1 else np.concatenate(filled)
    row_at = np.cumsum(puts) - 1
    slots = np.empty(1 << max(1, (2 * len(keys) - 1).bit_length()), np.int64)
    order, bounds = newest_by_partition(keys, ~puts, schema.buckets, schema.partitions, slots)
    put = puts[order]
    # All at once: parcels are views of these, next to each other.
    keys, gathered = keys[order], np.empty((np.count_nonzero(put), width), np.uint8)
    gather(flat(rows), row_at[order[put]], width, flat(gathered))
    fixed = row_record_bytes(rows=0, tombstones=0, width=0, publisher=packing.publisher, table=table)
    room, begun = max(packing.record_bytes - fixed, 8 + width), 0
    for p in range(schema.partitions):
        at, deleted_at, end = bounds[2 * p : 2 * p + 3].tolist()
        while at < end:
            count = max(0, min(room // (8 + width), deleted_at - at))
            left = 0 if at + count < deleted_at else (room - count * (8 + width)) // 8
            stop = min(at + count + left, end)
            yield Parcel(
                table=table, keys=keys[at:stop], rows=gathered[begun : begun + count] if count else NO_ROWS, through=through,
                partition=Partition(p),
            )  # fmt: skip
            at, begun = stop, begun + count


def _steps(batches: list[Parcel]) -> list[list[Parcel]]:
    """Neighbours of equal time together."""
    steps: list[list[Parcel]] = []
    for batch in batches:
        if steps and steps[-1][-1].through == batch.through:
            steps[-1].append(batch)
        else:
            steps.append([batch])
    return steps
