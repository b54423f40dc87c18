"""One partition of the log as a replica has it: how far it is, what it remembers, why it stands still. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.ids import Offset, Partition, PublisherId, Reader, State, Term, Timeline, Version
from penstock.pipeline.core.times import NEVER, EventTime, WallTime

from .holding import Digests

Masks = dict[str, NDArray[np.bool_]]
"""bool[buckets] per table."""


def add_buckets(masks: Masks, table: str, buckets: NDArray[np.integer], bucket_count: int) -> None:
    masks.setdefault(table, np.zeros(bucket_count, np.bool_))[buckets] = True


@dataclass(slots=True)
class Overruled:
    """Of keys at a marker, rising, what a delta says instead of what the table keeps: the hash of the row, 0 where none is."""

    keys: NDArray[np.int64]
    hashes: NDArray[np.uint64]

    def counted(self, keys: NDArray[np.int64], hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """uint64[n]: what counts of these keys, where the table says `hashes`."""
        if not len(self.keys):
            return hashes
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.hashes[at], hashes)

    def add(self, keys: NDArray[np.int64], hashes: NDArray[np.uint64]) -> None:
        """Of distinct keys."""
        others = ~np.isin(self.keys, keys)
        keys, hashes = np.concatenate((self.keys[others], keys)), np.concatenate((self.hashes[others], hashes))
        order = np.argsort(keys)
        self.keys, self.hashes = keys[order], hashes[order]


@dataclass(slots=True)
class Marked:
    """What a replica remembers of a marker: the digests at it, and those of the intervals that end at it, by the older state
    that they begin at. `unsure[table]` (bool[buckets]): where a row at the marker cannot be served any more, since a delta
    corrected one that was written again behind it; `unknown[table]`: where for the same reason not even the digest is known."""

    digests: Digests
    intervals: dict[State, Digests]
    unsure: Masks = field(default_factory=dict)
    unknown: Masks = field(default_factory=dict)
    overruled: dict[str, Overruled] = field(default_factory=dict)

    def doubt(self, table: str, buckets: NDArray[np.integer], bucket_count: int) -> None:
        add_buckets(self.unsure, table, buckets, bucket_count)

    def lose(self, table: str, buckets: NDArray[np.integer], bucket_count: int) -> None:
        add_buckets(self.unknown, table, buckets, bucket_count)

    @property
    def is_sure(self) -> bool:
        return not any(mask.any() for mask in self.unsure.values())

    @property
    def is_known(self) -> bool:
        return not any(mask.any() for mask in self.unknown.values())


@dataclass(frozen=True, slots=True)
class Waypoint:
    """A place in the log at which the rows are remembered under `label`: the next record is at `offset`, on `timeline`, and these
    had been taken of every publisher. `rows`: how many had been counted."""

    label: Hashable
    offset: Offset
    timeline: Timeline
    readers: Mapping[PublisherId, Reader]
    rows: int


@dataclass(slots=True)
class Gap:
    """A hole before a record of this publisher and term: held until a newer term of it, or a fence, is in sight. `scanned`:
    looked up to here."""

    publisher: PublisherId
    term: Term
    scanned: Offset


class Arrival(NamedTuple):
    """What a record brought that was taken."""

    table: str
    rows: int
    written_at: WallTime
    trained_through: EventTime


@dataclass(slots=True)
class Counters:
    """Since the replica started; nothing is dropped without being counted.

    Of records: `records` taken, `dropped` as not newer, `ignored` as of another timeline, `dead` as taken back by the rollback of
    a table, `skipped` since they cannot be read. Of adopting: `adopted_free` without moving a byte, `adopted_taken` with rows of
    the delta, `jumped` over what the log has, `reloaded` from the chain, of which `disagreed` after all. Of rollbacks: `recalled`
    keys set back to what was remembered of them, for which `replayed` rows of the log were read again, `fetched` ones whose rows
    were read. Of rows and tombstones written: `rows` and `bytes` of the log, `delta_` ones of deltas and rollbacks,
    `loaded_` ones of a chain that was loaded anew; bytes are of keys and encoded rows."""

    records: int = 0
    rows: int = 0
    bytes: int = 0
    dropped: int = 0
    ignored: int = 0
    dead: int = 0
    skipped: int = 0
    gaps: int = 0
    fences: int = 0
    adopted_free: int = 0
    adopted_taken: int = 0
    jumped: int = 0
    reloaded: int = 0
    disagreed: int = 0
    recalled: int = 0
    replayed: int = 0
    fetched: int = 0
    delta_rows: int = 0
    delta_bytes: int = 0
    loaded_rows: int = 0
    loaded_bytes: int = 0


@dataclass(slots=True)
class PartitionState:
    """`marked` is in the order of the markers, the adopted version's state first. `excused`: up to which offset gaps of a
    publisher are passed over. `alarm`: what stopped the partition, "" while it runs; `failed` the generation of the refs at
    which it could not adopt what comes next."""

    partition: Partition
    offset: Offset
    readers: dict[PublisherId, Reader]
    timeline: Timeline
    version: Version
    marked: dict[State, Marked]
    held: list[State] = field(default_factory=list)
    """States of older versions that can still be served, oldest first."""
    waypoints: list[Waypoint] = field(default_factory=list)
    """Of all that the tables remember, oldest first: one for each state in `marked` and `held`, and some in between."""
    trained_through: EventTime = NEVER
    heard_at: WallTime = WallTime(0)
    """When the log took the newest record that was read; `written_at` is when its publisher wrote it."""
    written_at: WallTime = WallTime(0)
    gap: Gap | None = None
    excused: dict[PublisherId, Offset] = field(default_factory=dict)
    taken_at: dict[PublisherId, Offset] = field(default_factory=dict)
    """Where the newest record of a publisher was that has been taken here."""
    arrived: list[Arrival] = field(default_factory=list)
    """What the newest step has taken."""
    passed_over: Masks = field(default_factory=dict)
    """Where rows of the log were not taken, since a rollback yet to be adopted takes them back."""
    applying: Offset | None = None
    """Where a step began whose rows are not all written yet."""
    paused: bool = False
    alarm: str = ""
    unread: Offset | None = None
    """The record that cannot be read, if that is what stopped the partition."""
    failed: int = -1
    disagrees: bool = False
    """The rows are not those of the version: it is loaded anew before anything else is adopted."""
    counters: Counters = field(default_factory=Counters)

    def stop(self, reason: str, *, at: Offset | None = None) -> None:
        self.alarm, self.unread = reason, at

    def go_on(self) -> None:
        self.alarm, self.unread = "", None

    @property
    def applied(self) -> Offset:
        """All rows before it are written. From any thread: what is under way is asked for last."""
        offset, began = self.offset, self.applying
        return offset if began is None else min(offset, began)

    @property
    def state(self) -> State:
        """The adopted version's."""
        return next(iter(self.marked))

    @property
    def labels(self) -> list[Hashable]:
        """What the tables remember for the partition, oldest first."""
        return [waypoint.label for waypoint in self.waypoints]

    @property
    def reads_from(self) -> Offset:
        """The next offset to poll: beyond the one that is held, while a way past a gap is looked for."""
        return self.offset if self.gap is None else self.gap.scanned
