"""Follows the log: records in, rows out, per partition. Step functions: no thread, no clock, no store.

What it knows of the catalog is given to it (`learn`). It stops where it must not go on: at a fence until the refs decide what
became of it, at a cut that is known, at frozen positions, at a gap, at a record that cannot be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.dense import DenseFold
from penstock.pipeline.core.errors import Corrupt, PenstockError
from penstock.pipeline.core.hashing import bucket_range, buckets_of
from penstock.pipeline.core.history import Entry, History, Verdict, verdict
from penstock.pipeline.core.ids import Offset, Partition, Reader, State
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.records import Record, RecordKind
from penstock.pipeline.core.refs import Ref, Refs
from penstock.pipeline.core.schema import ModelSchema

from .partition import Digests, Gap, Marked, PartitionState
from .table import Table


class UnknownTable(PenstockError):
    """A record names a table that the schema, as it was last read, does not have: read it anew, and step again."""


@dataclass(slots=True)
class Follower:
    """`buckets` are those that the replica holds; `markers` bounds how many are remembered per partition."""

    schema: ModelSchema
    tables: dict[str, Table]
    buckets: range
    partitions: dict[Partition, PartitionState]
    history: History
    refs: Refs
    ref: str
    markers: int
    dense: DenseFold = field(init=False)

    def __post_init__(self) -> None:
        self.dense = DenseFold(self.schema.partitions)

    def learn(self, refs: Refs, history: History) -> None:
        """The refs and the history as they are now."""
        self.refs, self.history = refs, history
        for state in self.partitions.values():
            state.paused = False

    @property
    def known(self) -> Ref:
        return self.refs.ref(self.ref)

    def next_version(self, state: PartitionState) -> Manifest | None:
        """What the partition adopts next on its way to the ref's version."""
        return self.history.next_to_adopt(state.version, self.known.version)

    def may_poll(self, state: PartitionState) -> bool:
        """Whether the partition has to be read on; if not, it waits for a decision, for an adoption, or for a person."""
        if state.alarm or state.paused or self.known.follow != "log" or self._frozen(state.partition, state.offset):
            return False
        version = self.next_version(state)
        taken = None if version is None else version.rollback
        # A known rollback of the whole model is jumped over, not read through.
        return taken is None or taken.tables is not None or state.offset < taken.cut[state.partition]

    def step(self, partition: Partition, entries: Sequence[Entry]) -> int:
        """Goes through entries that follow each other from `reads_from` on; returns the rows applied. Stops early where it must.
        `UnknownTable` leaves the record that names it unread."""
        state = self.partitions[partition]
        if state.gap is not None:
            self._look_past(state, state.gap, entries)
            return 0
        rows = 0
        for at, entry in enumerate(entries):
            if not self.may_poll(state):
                break
            if entry.offset != state.offset:
                state.alarm = f"partition {partition}: offset {state.offset} was asked for, {entry.offset} came"
                break
            applied = self._take(state, entry, entries[at + 1 :])
            if applied is None:
                break
            rows += applied
        state.counters.rows += rows
        return rows

    def refuse(self, partition: Partition, reason: str) -> None:
        """Stops a partition at a record that cannot be read, while the others serve on; it is never skipped in silence."""
        self.partitions[partition].alarm = reason

    # ---- one record ----------------------------------------------------------------------------------------------------

    def _take(self, state: PartitionState, entry: Entry, rest: Sequence[Entry]) -> int | None:
        """Takes effect of one record and moves on; None where the partition has to stop before it."""
        record, rows = entry.record, 0
        if record.kind == RecordKind.FENCE:
            if record.timeline > state.timeline and record.timeline not in self.refs.abandoned:
                state.paused = True
                return None
            state.counters.fences += 1
        elif record.timeline != state.timeline:
            state.counters.ignored += 1
        else:
            judged = verdict(state.readers, record)
            if judged == Verdict.GAP and entry.offset >= state.excused.get(record.publisher, Offset(0)):
                state.gap = Gap(record.publisher, record.term, Offset(entry.offset + 1))
                state.counters.gaps += 1
                self._look_past(state, state.gap, rest)
                if state.gap is not None:
                    return None
            if judged == Verdict.DROP:
                state.counters.dropped += 1
            else:
                applied = self._apply(state, entry)
                if applied is None:
                    return None
                rows = applied
                state.readers[record.publisher] = Reader(record.term, record.seq)
                state.trained_through = max(state.trained_through, record.trained_through)
        state.counters.records += 1
        state.heard_at, state.written_at = entry.appended_at, record.written_at
        state.offset = Offset(entry.offset + 1)
        return rows

    def _apply(self, state: PartitionState, entry: Entry) -> int | None:
        record = entry.record
        try:
            if record.kind == RecordKind.ROWS:
                return self._apply_rows(state, entry)
            if record.kind == RecordKind.MARKER:
                self._mark(state, record.state)
            elif record.kind == RecordKind.DENSE:
                self.dense.announce(state.partition, entry.offset, record, f"partition {state.partition} offset {entry.offset}")
        except Corrupt as error:
            self.refuse(state.partition, str(error))
            return None
        return 0

    def _apply_rows(self, state: PartitionState, entry: Entry) -> int:
        record = entry.record
        table = self.tables.get(record.table)
        if table is None:
            raise UnknownTable(f"partition {state.partition} offset {entry.offset}: table {record.table!r} is not in the schema")
        self._check(state, entry, self.schema.table(record.table).width)
        if self.history.dead(state.partition, entry.offset, record, state.timeline):
            state.counters.dead += 1
            return 0
        puts, rows, tombstones = self._held(state, record)
        table.apply(state.partition, puts, rows.reshape(len(puts), table.width), tombstones)
        return len(puts) + len(tombstones)

    def _check(self, state: PartitionState, entry: Entry, width: int) -> None:
        record, where = entry.record, f"partition {state.partition} offset {entry.offset}"
        if len(record.rows) and record.rows.shape[1] != width:
            raise Corrupt(f"{where}: rows of {record.rows.shape[1]} bytes, table {record.table} has {width}")
        own = bucket_range(state.partition, bucket_count=self.schema.buckets, partition_count=self.schema.partitions)
        buckets = buckets_of(record.keys, self.schema.buckets)
        strange = (buckets < own.start) | (buckets >= own.stop)
        if strange.any():
            raise Corrupt(
                f"{where}: key {int(record.keys[strange.argmax()])} of table {record.table} belongs to another partition"
            )

    def _held(self, state: PartitionState, record: Record) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
        """The part of a record that lies in the buckets held."""
        own = bucket_range(state.partition, bucket_count=self.schema.buckets, partition_count=self.schema.partitions)
        if own.start >= self.buckets.start and own.stop <= self.buckets.stop:
            return record.put_keys, record.rows, record.tombstones
        puts, deletes = (self.holds(keys) for keys in (record.put_keys, record.tombstones))
        return record.put_keys[puts], record.rows[puts], record.tombstones[deletes]

    def holds(self, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which keys lie in the buckets held."""
        buckets = buckets_of(keys, self.schema.buckets)
        return (buckets >= self.buckets.start) & (buckets < self.buckets.stop)

    # ---- markers, gaps -------------------------------------------------------------------------------------------------

    def _mark(self, state: PartitionState, marker: State) -> None:
        """Remembers the digests here and over the intervals since every older marker; the oldest beyond the bound is forgotten,
        but never the adopted version's, which comes first."""
        intervals = {older: self.written_digests(state.partition, older) for older in state.marked}
        found = {older: digests for older, digests in intervals.items() if digests is not None}
        for table in self.tables.values():
            table.mark(state.partition, marker)
        state.marked[marker] = Marked(self.digests_of(state.partition), found)
        while len(state.marked) > self.markers:
            self.forget(state, list(state.marked)[1])

    def written_digests(self, partition: Partition, since: State) -> Digests | None:
        """Interval digests of what was written in a partition since a marker; None when that is not known."""
        found = {}
        for name, table in self.tables.items():
            keys = table.written_since(partition, since)
            if keys is None:
                return None
            found[name] = table.interval(keys)
        return found

    def digests_of(self, partition: Partition) -> Digests:
        own = bucket_range(partition, bucket_count=self.schema.buckets, partition_count=self.schema.partitions)
        found = {}
        for name, table in self.tables.items():
            digests = np.zeros(self.schema.buckets, np.uint64)
            digests[own.start : own.stop] = table.digests[own.start : own.stop]
            found[name] = digests
        return found

    def forget(self, state: PartitionState, marker: State) -> None:
        """Markers are bounded: a version whose marker is forgotten is loaded anew when its turn comes."""
        state.marked.pop(marker, None)
        if marker in state.held:
            state.held.remove(marker)
        for found in state.marked.values():
            found.intervals.pop(marker, None)
        for table in self.tables.values():
            table.forget(state.partition, marker)

    def hold(self, state: PartitionState, marker: State, *, servable: bool) -> None:
        """A version was passed: it stays servable within the bound, unless rows were set right behind its back."""
        state.held.append(marker)
        bound = self.markers if servable else 0
        while len(state.held) > bound:
            self.forget(state, state.held.pop(0))

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

    def _frozen(self, partition: Partition, offset: Offset) -> bool:
        frozen = self.known.frozen
        return frozen is not None and offset >= frozen[partition]
