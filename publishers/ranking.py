"""What waits for a log that cannot keep up, by how much it matters: of each key the newest row, in levels of how far it has moved
since the last one sent, relative to the table's own changes, times how often the key is asked for. Within a level the newest
goes first. What has waited for `max_staleness` goes before all else, and what there is no room for gives way from the bottom.

The idea is that of Ekko's update scheduler (Sima et al., OSDI 2022): significance, freshness, traffic. Rows of different times
wait together, so they go out under the newest: safe for a rollback, whose cut gets coarser while this is in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.records import NO_ROWS
from penstock.pipeline.core.schema import ModelSchema
from penstock.pipeline.core.times import EventTime, WallTime

from .outbox import OVERHEAD_BYTES, Keys, Parcel
from .ranking_kernels import (
    LEVELS,
    SIZE,
    Slots,
    add_rows,
    new_slots,
    remember,
    restore_rows,
    take_highest,
    take_lowest,
    take_oldest,
    with_room,
)
from .sent_rows import Sent, new_sent, weigh

SLOT_BYTES = 64
"""What a row that waits takes beside its bytes: key, level, age, links, sketch, index."""


@dataclass(slots=True)
class _Room:
    """One table's rows that wait, and what is remembered of those sent."""

    codec: str
    dim: int
    width: int
    slots: Slots
    sent: Sent
    signs: NDArray[np.float32]

    @property
    def rows(self) -> int:
        return int(self.slots.sizes[SIZE])

    @property
    def oldest(self) -> int:
        """Since when its oldest row waits; there is one."""
        return int(self.slots.since[self.slots.ends[LEVELS, 0] - 1])

    def values(self, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        return codec(self.codec).decode(rows, self.dim) if len(rows) else np.empty((0, self.dim), np.float32)


@dataclass(slots=True)
class Ranking:
    """`queue_bytes` bounds it together with what is under way; `sketched_keys` how many keys of a table are remembered,
    rounded to a power of two. Its memory is made for the bound and taken by the pages that are used."""

    schema: ModelSchema
    queue_bytes: int
    max_staleness_us: int
    sketched_keys: int
    _rooms: dict[str, _Room] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(room.rows * (room.width + SLOT_BYTES) for room in self._rooms.values())

    def add(self, batch: Parcel, *, now: WallTime) -> None:
        room = self._room(batch.table)
        room.slots = with_room(room.slots, len(batch.keys))
        rows = batch.rows.reshape(-1, room.width)
        add_rows(room.slots, room.sent, room.signs, batch.keys, rows, room.values(rows), now)

    def weigh(self, table: str, keys: NDArray[np.int64], counts: NDArray[np.float64]) -> None:
        """How often int64[n] keys were asked for of late, float64[n]: told anew it replaces what was told before."""
        weigh(self._room(table).sent, keys, counts)

    def give_way(self, limit: int) -> Keys:
        over = self.nbytes - limit
        if over <= 0:
            return {}
        counts = self._share(over, {table: room.width + SLOT_BYTES for table, room in self._rooms.items()}, order=slice(None))
        return {
            table: self._rooms[table].slots.keys[take_lowest(self._rooms[table].slots, count)] for table, count in counts.items()
        }

    def take(self, room: int, *, through: EventTime, now: WallTime) -> list[Parcel]:
        """About `room` bytes of it."""
        parcels = [self._parcel(table, taken, through) for table, taken in self._overdue(room, now - self.max_staleness_us)]
        left = room - sum(parcel.nbytes - OVERHEAD_BYTES for parcel in parcels)
        if left > 0:
            sizes = {table: found.width + 8 for table, found in self._rooms.items()}
            for table, count in self._share(left, sizes, order=slice(None, None, -1)).items():
                parcels.append(self._parcel(table, take_highest(self._rooms[table].slots, count), through))
        return parcels

    def next_through(self, through: EventTime) -> EventTime:
        return through

    def restock(self, parcels: list[Parcel], *, through: EventTime) -> None:
        """Of each key the newest, unless a newer one waits."""
        for parcel in reversed(parcels):
            room = self._room(parcel.table)
            room.slots = with_room(room.slots, len(parcel.keys))
            rows = parcel.rows.reshape(-1, room.width)
            restore_rows(room.slots, room.signs, parcel.keys, rows, room.values(rows))

    def keys(self) -> Keys:
        found = {}
        for table, room in self._rooms.items():
            if room.rows:
                places = room.slots.places
                found[table] = room.slots.keys[places[places > 0] - 1]
        return found

    def _room(self, table: str) -> _Room:
        if table not in self._rooms:
            found = self.schema.table(table)
            # A batch is added before others give way; that is all that it may have to grow for.
            capacity = 16 + self.queue_bytes // (found.width + SLOT_BYTES)
            self._rooms[table] = _Room(
                codec=found.codec, dim=found.dim, width=found.width, slots=new_slots(capacity, found.width),
                sent=new_sent(1 << max(self.sketched_keys, 1).bit_length() - 1),
                signs=np.random.default_rng(0).choice(np.array([-1, 1], np.float32), found.dim),
            )  # fmt: skip
        return self._rooms[table]

    def _share(self, budget: int, sizes: dict[str, int], *, order: slice) -> dict[str, int]:
        """How many rows of each table `budget` bytes are, whole levels first, in the `order` of the levels; `sizes` of a row."""
        tables = [table for table, room in self._rooms.items() if room.rows]
        if not tables:
            return {}
        counts = np.stack([self._rooms[table].slots.level_rows[order] for table in tables])
        size = np.array([sizes[table] for table in tables])
        summed = np.cumsum(size @ counts)
        whole = int(np.searchsorted(summed, budget, side="right"))
        rows = counts[:, :whole].sum(axis=1)
        left = budget - (int(summed[whole - 1]) if whole else 0)
        for at in range(len(tables) if whole < LEVELS else 0):
            some = min(int(counts[at, whole]), max(0, -(-left // int(size[at]))))
            rows[at] += some
            left -= some * int(size[at])
        return {table: int(count) for table, count in zip(tables, rows, strict=True) if count}

    def _overdue(self, room: int, before: int) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """What waits since earlier than `before`, the oldest of all tables first, up to about `room` bytes."""
        while room > 0 and (waiting := sorted((found.oldest, table) for table, found in self._rooms.items() if found.rows)):
            oldest, table = waiting[0]
            if oldest >= before:
                return
            # Up to where another table's are older; equal ages need a step past them.
            until = max(waiting[1][0], oldest + 1) if len(waiting) > 1 else before
            size = self._rooms[table].width + 8
            taken = take_oldest(self._rooms[table].slots, min(until, before), -(-room // size))
            room -= len(taken) * size
            yield table, taken

    def _parcel(self, table: str, taken: NDArray[np.int64], through: EventTime) -> Parcel:
        slots, sent = self._rooms[table].slots, self._rooms[table].sent
        remember(sent, slots, taken)
        deleted = slots.deleted[taken]
        puts = taken[~deleted]
        return Parcel(
            table=table, keys=slots.keys[np.concatenate((puts, taken[deleted]))],
            rows=slots.rows[puts] if len(puts) else NO_ROWS, through=through,
        )  # fmt: skip
