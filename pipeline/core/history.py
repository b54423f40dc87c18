"""What the committed versions mean together: lineage, chains, rollbacks, and which records of the log count. Pure.

The trunk's `previous` links give the commit order; `base` links give the lineage of one state, which jumps back over what
a rollback took away. All rules about dead ranges of the log stand here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import ChainBroken, NotFound
from .ids import Offset, Partition, PublisherId, Reader, State, Timeline, Version
from .manifest import Manifest, RunInfo
from .records import NO_KEYS, NO_ROWS, Record, RecordKind
from .times import NEVER, WallTime


class Entry(NamedTuple):
    """A record, where it was read, and when the log took it."""

    offset: Offset
    record: Record
    appended_at: WallTime = WallTime(0)


@dataclass(frozen=True, slots=True)
class History:
    """Committed versions: the trunk's in commit order, oldest first, and the alternate bases by state."""

    trunk: tuple[Manifest, ...]
    bases: Mapping[State, Manifest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for before, after in zip(self.trunk, self.trunk[1:], strict=False):
            if after.previous != before.version or after.version <= before.version:
                raise ChainBroken(
                    f"version {after.version} follows {after.previous}, but {before.version} was committed before it"
                )

    @property
    def newest(self) -> Manifest:
        return self.trunk[-1]

    def version(self, number: Version) -> Manifest:
        for manifest in (*self.trunk, *self.bases.values()):
            if manifest.version == number:
                return manifest
        raise NotFound(f"version {number} is not among those retained ({self.trunk[0].version} to {self.newest.version})")

    def after(self, number: Version, *, up_to: Version | None = None) -> list[Manifest]:
        """Trunk versions later than `number` in commit order."""
        return [m for m in self.trunk if m.version > number and (up_to is None or m.version <= up_to)]

    def rollbacks(self) -> list[Manifest]:
        return [m for m in self.trunk if m.rollback is not None]

    def stated_digests(self, of: Manifest, buckets: int) -> dict[str, NDArray[np.uint64]] | None:
        """uint64[buckets] per table of the state of `of`, where it is stated: by itself, or by a whole state beside it."""
        found, beside = of.state_digests(buckets), self.bases.get(of.state)
        return beside.state_digests(buckets) if found is None and beside is not None else found

    def lineage(self, number: Version) -> list[Manifest]:
        """The retained versions that the state of `number` is made of, oldest first, itself included."""
        by_number = {m.version: m for m in self.trunk}
        if number not in by_number:
            raise NotFound(f"version {number} is not on the trunk of versions retained")
        found = [by_number[number]]
        while (base := found[-1].base) is not None and base in by_number:
            if by_number[base].version >= found[-1].version:
                raise ChainBroken(f"version {found[-1].version} names {base} as its base, which is not older")
            found.append(by_number[base])
        return found[::-1]

    def of_state(self, state: State) -> Manifest | None:
        """The trunk version that committed `state`, if any."""
        return next((m for m in reversed(self.trunk) if m.state == state), None)

    def chain(self, number: Version) -> list[Manifest]:
        """What a newcomer loads for the state of trunk version `number`: a version with the whole state, then differences,
        oldest first. Starts at the newest base that there is. `ChainBroken` when a base is missing."""
        found: list[Manifest] = []
        for manifest in reversed(self.lineage(number)):
            beside = self.bases.get(manifest.state)
            if beside is not None and beside.full is not None:
                return [beside, *found[::-1]]
            found.append(manifest)
            if manifest.full is not None or manifest.kind == "birth":
                return found[::-1]
        raise ChainBroken(f"version {found[-1].version} is a difference to {found[-1].base}, which is not retained")

    def check_restorable(self, number: Version) -> None:
        """`NotFound` unless there is all of a version. Retention keeps some for their part in the history alone: what they are
        differences to may be gone."""
        if self.version(number).full is not None:
            return
        try:
            self.chain(number)
        except ChainBroken as error:
            raise NotFound(f"version {number} cannot be restored any more: {error}") from None

    def next_to_adopt(self, adopted: Version, known: Version) -> Manifest | None:
        """The version that a replica at `adopted` goes through next on its way to `known`: in commit order, where the deltas
        that the next rollback takes back are passed over, and no rollback ever is."""
        later = self.after(adopted, up_to=known)
        rollback = next((m for m in later if m.rollback is not None), None)
        goal = {m.version for m in self.lineage(known if rollback is None or rollback.base is None else rollback.base)}
        return next((m for m in later if m is rollback or m.version in goal), None)

    def dead(self, partition: Partition, offset: Offset, record: Record, timeline: Timeline) -> bool:
        """Whether a later rollback takes back this record of a reader that stands on `timeline`."""
        for manifest in self.rollbacks():
            taken = manifest.rollback
            assert taken is not None
            reached = manifest.timeline > timeline and taken.cut[partition] <= offset < taken.fence[partition]
            if reached and (taken.tables is None or (record.kind == RecordKind.ROWS and record.table in taken.tables)):
                return True
        return False

    def skip(self, partition: Partition, offset: Offset, timeline: Timeline) -> tuple[Offset, Timeline] | None:
        """Where a replay that has come to `offset` on `timeline` goes on, if a rollback of the whole model lies in its way."""
        for manifest in self.rollbacks():
            taken = manifest.rollback
            assert taken is not None
            if manifest.timeline > timeline and taken.tables is None and taken.cut[partition] <= offset:
                return Offset(max(offset, taken.fence[partition] + 1)), manifest.timeline
        return None

    def through_fence(self, offset: Offset, partition: Partition, timeline: Timeline) -> Timeline:
        """The timeline of a reader of `timeline` that has passed the fence at `offset`."""
        for manifest in self.rollbacks():
            taken = manifest.rollback
            assert taken is not None
            if taken.fence[partition] == offset:
                return Timeline(max(timeline, manifest.timeline))
        return timeline

    def timeline_at(self, partition: Partition, offset: Offset) -> Timeline:
        """The timeline of a reader of the live path that stands at an offset."""
        passed = [m.timeline for m in self.rollbacks() if m.rollback is not None and m.rollback.fence[partition] < offset]
        return max([self.trunk[0].timeline, *passed])

    def until(self, timeline: Timeline) -> History:
        """The history as it was before the first rollback that left `timeline`: on which a target of that timeline is found."""
        for index, manifest in enumerate(self.trunk):
            if manifest.rollback is not None and manifest.timeline > timeline:
                return History(self.trunk[:index], self.bases)
        return self


def table_layers(chain: Sequence[Manifest], table: str) -> list[tuple[RunInfo, ...]]:
    """The runs of one table in a chain as `History.chain` gives it, one layer a version, the oldest first."""
    layers = []
    for at, manifest in enumerate(chain):
        part = manifest.full if at == 0 and manifest.full is not None else manifest.changes
        if table in part:
            layers.append(part[table].runs)
    return layers


class LivePath:
    """Walks the records of one partition as every reader must see them: across a committed rollback, what it took back is
    passed over; what is not of the timeline reached does not count. A record whose rows the rollback of its table took back
    stands for its number in the sequence alone. Feed it records in offset order."""

    def __init__(self, history: History, partition: Partition, *, offset: Offset, timeline: Timeline) -> None:
        self.history, self.partition = history, partition
        self.offset, self.timeline = offset, timeline
        self._skip()

    def _skip(self) -> None:
        while (jump := self.history.skip(self.partition, self.offset, self.timeline)) is not None:
            self.offset, self.timeline = jump

    def step(self, entry: Entry) -> Entry | None:
        """What counts of the record at the next offset, if any of it; `offset` is then where to go on, maybe further on."""
        offset, record = entry.offset, entry.record
        if offset < self.offset:
            return None
        found: Entry | None = None
        if record.kind in (RecordKind.FENCE, RecordKind.SKIPPED):
            # A fence that cannot be read any more still stands in the version of its rollback.
            self.timeline = self.history.through_fence(offset, self.partition, self.timeline)
        elif record.timeline == self.timeline:
            is_dead = self.history.dead(self.partition, offset, record, self.timeline)
            found = entry._replace(record=emptied(record)) if is_dead else entry
        self.offset = Offset(offset + 1)
        self._skip()
        return found


def emptied(record: Record) -> Record:
    """The record without its rows, and without what it learned from."""
    return replace(record, keys=NO_KEYS, rows=NO_ROWS, trained_through=NEVER)


class Verdict:
    """What a reader does with a record: `TAKE` it, `DROP` it as not newer, or stop at a `GAP`."""

    TAKE, DROP, GAP = "take", "drop", "gap"


def verdict(readers: Mapping[PublisherId, Reader], record: Record) -> str:
    """By (term, seq): drop what is not newer than the newest taken of its publisher; a hole in the sequence is a gap. A
    term begins at 0, its opening record, or at 1 for a reader whose position lies behind that record."""
    newest = readers.get(record.publisher)
    if newest is not None and (record.term, record.seq) <= newest:
        return Verdict.DROP
    return Verdict.GAP if missing(readers, record) else Verdict.TAKE


def missing(readers: Mapping[PublisherId, Reader], record: Record) -> int:
    """How many records of its publisher's term lie between the newest that was taken and this one, which is newer."""
    newest = readers.get(record.publisher)
    expected = newest.seq + 1 if newest is not None and newest.term == record.term else 1
    return max(0, record.seq - expected)


def effective(entries: Iterable[Entry], readers: Mapping[PublisherId, Reader], timeline: Timeline) -> Iterator[Entry]:
    """Of the entries that count on the live path, from a position with these readers: what is not dropped as not newer. Gaps
    are passed over, since whatever follows one on the path was taken in the end."""
    taken = dict(readers)
    for entry in entries:
        record = entry.record
        if record.timeline != timeline:
            taken, timeline = {}, record.timeline
        if verdict(taken, record) != Verdict.DROP:
            taken[record.publisher] = Reader(record.term, record.seq)
            yield entry
