"""Follows the log: records in, rows out, per partition. Step functions: no thread, no clock, no store.

What it knows of the catalog is given to it (`learn`). It stops where it must not go on: at a fence until the refs decide what
became of it, at a cut that is known, at frozen positions, at a gap, at a record that cannot be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from penstock.pipeline.core.dense import DenseFold
from penstock.pipeline.core.errors import Corrupt, InvalidInput, PenstockError
from penstock.pipeline.core.history import Entry, History, Verdict, missing, verdict
from penstock.pipeline.core.ids import Offset, Partition, Reader, Version
from penstock.pipeline.core.manifest import DenseInfo, Manifest
from penstock.pipeline.core.records import Record, RecordKind
from penstock.pipeline.core.refs import Ref, Refs
from penstock.pipeline.core.schema import ModelSchema
from penstock.pipeline.core.skips import Skips

from .holding import Holding
from .markers import Markers
from .partition import Arrival, Gap, PartitionState
from .pending import Pending
from .table import Table


class UnknownTable(PenstockError):
    """A record names a table that the schema, as it was last read, does not have: read it anew, and step again."""


@dataclass(slots=True)
class Follower:
    """`ends`: those of the log, read after the refs; what a version says of the log must lie before them."""

    holding: Holding
    history: History
    refs: Refs
    ref: str
    markers: Markers
    skips: Skips
    partitions: dict[Partition, PartitionState] = field(default_factory=dict)
    ends: Mapping[Partition, Offset] = field(default_factory=dict)
    dense: DenseFold = field(init=False)
    _places: dict[Partition, Partition] = field(init=False)
    _next: dict[Version, Manifest | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Who does not hold all buckets takes a dense slice when it has passed in the partitions that it follows. No marker comes
        # between the announcements of one slice, so at a version all agree.
        self._places = {p: Partition(place) for place, p in enumerate(self.holding.partitions())}
        self.dense = DenseFold(len(self._places))

    @property
    def schema(self) -> ModelSchema:
        return self.holding.schema

    @property
    def tables(self) -> Mapping[str, Table]:
        return self.holding.tables

    def learn(self, refs: Refs, history: History, ends: Mapping[Partition, Offset], skips: Skips) -> None:
        """The refs, the history and the skips as they are now. Who stands before a record that is skipped goes on."""
        self.refs, self.history, self.ends, self.skips = refs, history, ends, skips
        self._next.clear()
        for state in self.partitions.values():
            state.paused = False
            if state.unread is not None and skips.has(state.partition, state.unread):
                state.go_on()

    @property
    def known(self) -> Ref:
        return self.refs.ref(self.ref)

    @property
    def follows_log(self) -> bool:
        return self.known.follow == "log"

    def next_version(self, state: PartitionState) -> Manifest | None:
        """What the partition adopts next on its way to the ref's version; a ref that follows versions may also go back."""
        if state.version not in self._next:
            known = self.known.version
            is_back = known < state.version and not self.follows_log
            found = self.history.version(known) if is_back else self.history.next_to_adopt(state.version, known)
            self._next[state.version] = found
        return self._next[state.version]

    def may_poll(self, state: PartitionState) -> bool:
        """Whether the partition has to be read on; if not, it waits for a decision, for an adoption, or for a person."""
        return self.follows_log and not state.alarm and not state.paused and state.offset < self._limit(state)

    def _limit(self, state: PartitionState) -> float:
        """Where reading stops: frozen positions, or the cut of a known rollback of the whole model, which is jumped over."""
        frozen, version = self.known.frozen, self.next_version(state)
        taken = None if version is None else version.rollback
        limits = [float("inf")]
        if frozen is not None:
            limits.append(frozen[state.partition])
        if taken is not None and taken.tables is None:
            limits.append(taken.cut[state.partition])
        return min(limits)

    def step(self, partition: Partition, entries: Sequence[Entry]) -> int:
        """Goes through entries that follow each other from `reads_from` on; returns the rows applied. Stops early where it must.
        `UnknownTable` leaves the record that names it unread."""
        state = self.partitions[partition]
        if not self.may_poll(state):
            return 0
        if state.gap is not None:
            self._look_past(state, state.gap, entries)
            return 0
        state.arrived.clear()
        self.markers.pass_by(state)
        before, limit, pending, state.applying = state.counters.rows, self._limit(state), Pending(), state.offset
        try:
            for at, entry in enumerate(entries):
                if state.alarm or state.paused or state.gap is not None or state.offset >= limit:
                    break
                if entry.offset != state.offset:
                    raise Corrupt(f"partition {partition}: offset {state.offset} was asked for, {entry.offset} came")
                self._take(state, entry, entries[at + 1 :], pending)
        except UnknownTable:
            raise
        except PenstockError as error:
            self.refuse(partition, str(error), at=state.offset)
        finally:
            self._flush(state, pending)
            if not state.alarm:
                state.applying = None
        return state.counters.rows - before

    def refuse(self, partition: Partition, reason: str, *, at: Offset | None = None) -> None:
        """Stops a partition, maybe before the record `at`, which cannot be read, while the others serve on."""
        self.partitions[partition].stop(reason, at=at)

    # ---- one record ----------------------------------------------------------------------------------------------------

    def _take(self, state: PartitionState, entry: Entry, rest: Sequence[Entry], pending: Pending) -> None:
        """Takes effect of one record and moves on, unless the partition has to stop before it."""
        record = entry.record
        if record.kind == RecordKind.FENCE:
            if record.timeline > state.timeline and record.timeline not in self.refs.abandoned:
                state.paused = True
                return
            state.counters.fences += 1
        elif record.kind == RecordKind.SKIPPED:
            state.counters.skipped += 1
        elif record.timeline != state.timeline:
            state.counters.ignored += 1
        else:
            judged = verdict(state.readers, record)
            if judged == Verdict.GAP and not self._is_excused(state, entry):
                state.gap = Gap(record.publisher, record.term, Offset(entry.offset + 1))
                state.counters.gaps += 1
                self._look_past(state, state.gap, rest)
                if state.gap is not None:
                    return
            if judged == Verdict.DROP:
                state.counters.dropped += 1
            else:
                self._apply(state, entry, pending)
                state.readers[record.publisher] = Reader(record.term, record.seq)
                state.taken_at[record.publisher] = entry.offset
                state.trained_through = max(state.trained_through, record.trained_through)
        state.counters.records += 1
        state.heard_at, state.written_at = entry.appended_at, record.written_at
        state.offset = Offset(entry.offset + 1)

    def _is_excused(self, state: PartitionState, entry: Entry) -> bool:
        """Whether a hole before this record is known: it was looked past, or is not larger than what was skipped since the newest
        record of its publisher. Whose record was skipped is not known, so each publisher may have lost it."""
        publisher = entry.record.publisher
        if entry.offset < state.excused.get(publisher, Offset(0)):
            return True
        since = state.taken_at.get(publisher, Offset(0))
        return missing(state.readers, entry.record) <= self.skips.count(state.partition, since, entry.offset)

    def _apply(self, state: PartitionState, entry: Entry, pending: Pending) -> None:
        record, where = entry.record, f"partition {state.partition} offset {entry.offset}"
        if record.kind == RecordKind.ROWS:
            self._apply_rows(state, entry, where, pending)
        elif record.kind == RecordKind.MARKER:
            try:
                marker = record.state
            except InvalidInput as error:
                raise Corrupt(f"{where}: {error}") from None
            self._flush(state, pending)
            self.markers.mark(state, marker)
        elif record.kind == RecordKind.DENSE:
            self.dense.announce(self._places[state.partition], entry.offset, record, where)

    def _apply_rows(self, state: PartitionState, entry: Entry, where: str, pending: Pending) -> None:
        record, table = entry.record, self.tables.get(entry.record.table)
        if table is None:
            raise UnknownTable(f"{where}: table {record.table!r} is not in the schema")
        self._check(state.partition, record, table.width, where)
        if state.timeline < self.refs.timeline and self.history.dead(state.partition, entry.offset, record, state.timeline):
            state.counters.dead += 1
            self.markers.pass_over(state, record.table, record.keys)
            return
        keys, rows, tombstones = record.put_keys, record.rows, record.tombstones
        if not self.holding.is_whole(state.partition):
            puts, deletes = self.holding.holds(keys), self.holding.holds(tombstones)
            keys, rows, tombstones = keys[puts], rows[puts], tombstones[deletes]
        pending.add(record.table, keys, rows.reshape(len(keys), table.width), tombstones)
        count = len(keys) + len(tombstones)
        state.counters.rows += count
        state.counters.bytes += keys.nbytes + rows.nbytes + tombstones.nbytes
        state.arrived.append(Arrival(record.table, count, record.written_at, record.trained_through))
        if pending.is_full:
            self._flush(state, pending)

    def _check(self, partition: Partition, record: Record, width: int, where: str) -> None:
        """`Corrupt`: rows of another width, or a key of another partition."""
        if len(record.rows) and record.rows.shape[1] != width:
            raise Corrupt(f"{where}: rows of {record.rows.shape[1]} bytes, table {record.table} has {width}")
        strange = self.holding.stranger(partition, record.keys)
        if strange is not None:
            raise Corrupt(f"{where}: key {strange} of table {record.table} belongs to another partition")

    def _flush(self, state: PartitionState, pending: Pending) -> None:
        """Writes what was taken. What cannot be written is lost here: the partition stops until it is loaded anew."""
        try:
            pending.write(state.partition, self.tables)
        except PenstockError as error:
            self.refuse(state.partition, str(error))

    def _look_past(self, state: PartitionState, gap: Gap, entries: Sequence[Entry]) -> None:
        """Looks for what ends the gap: a newer term of the publisher, or a fence. Up to there its gaps are passed over."""
        for entry in entries:
            if entry.offset < gap.scanned:
                continue
            record = entry.record
            newer = record.publisher == gap.publisher and record.term > gap.term
            if newer or (record.kind == RecordKind.FENCE and record.timeline > state.timeline):
                state.excused[gap.publisher] = entry.offset
                state.gap = None
                return
            gap.scanned = Offset(entry.offset + 1)

    # ---- dense ---------------------------------------------------------------------------------------------------------

    def dense_at(self, version: Manifest) -> DenseInfo | None:
        """The slice to serve at a version that every partition has adopted: one announced behind its marker, else its own."""
        offsets = [version.positions.partitions[p].offset for p in self._places]
        return self.dense.newest(after=offsets) or version.dense
