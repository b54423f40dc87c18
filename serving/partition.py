"""One partition of the log as a replica has it: how far it is, what it remembers, why it stands still. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.ids import Offset, Partition, PublisherId, Reader, State, Term, Timeline, Version
from penstock.pipeline.core.times import NEVER, EventTime, WallTime

Digests = dict[str, NDArray[np.uint64]]
"""Per table, uint64[buckets]; zero outside the partition."""


@dataclass(slots=True)
class Marked:
    """What a replica remembers of a marker: the digests at it, and those of the intervals that end at it, by the older state
    that they begin at. `unsure[table]` (bool[buckets]) are buckets whose digest at the marker is not known any more."""

    digests: Digests
    intervals: dict[State, Digests]
    unsure: dict[str, NDArray[np.bool_]] = field(default_factory=dict)


@dataclass(slots=True)
class Gap:
    """A hole before a record of this publisher and term: held until a newer term of it, or a fence, is in sight. `scanned`: looked up to here."""

    publisher: PublisherId
    term: Term
    scanned: Offset


@dataclass(slots=True)
class Counters:
    """Since the replica started; nothing is dropped without being counted."""

    records: int = 0
    rows: int = 0
    dropped: int = 0
    ignored: int = 0
    dead: int = 0
    gaps: int = 0
    fences: int = 0
    adopted_free: int = 0
    adopted_taken: int = 0
    jumped: int = 0
    reloaded: int = 0
    disagreed: int = 0


@dataclass(slots=True)
class PartitionState:
    """`marked` is in the order of the markers, the adopted version's state first. `excused`: up to which offset gaps of a
    publisher are passed over. `alarm`: what stopped the partition for good, "" while it runs."""

    partition: Partition
    offset: Offset
    readers: dict[PublisherId, Reader]
    timeline: Timeline
    version: Version
    marked: dict[State, Marked]
    held: list[State] = field(default_factory=list)
    """Markers of older versions that can still be served, oldest first."""
    trained_through: EventTime = NEVER
    heard_at: WallTime = WallTime(0)
    written_at: WallTime = WallTime(0)
    gap: Gap | None = None
    excused: dict[PublisherId, Offset] = field(default_factory=dict)
    paused: bool = False
    alarm: str = ""
    counters: Counters = field(default_factory=Counters)

    @property
    def reads_from(self) -> Offset:
        """The next offset to poll: beyond the one that is held, while a way past a gap is looked for."""
        return self.offset if self.gap is None else self.gap.scanned
