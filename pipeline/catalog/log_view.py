"""The update log as people look at it: what each record is, and whether it counts. Reads only, stops at nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ..core.errors import Corrupt
from ..core.history import Entry, History, LivePath, Verdict, missing, verdict
from ..core.ids import Offset, Partition, PublisherId, Reader, Timeline
from ..core.record_rules import check_record
from ..core.records import RecordKind, skipped_record
from ..core.schema import ModelSchema
from ..core.skips import Skips
from ..ports.log import LogEntry, UpdateLog
from .catalog import Catalog
from .replay import Unreadable, decoded, record_name
from .skipping import read_skips

Standing = Literal["live", "dead", "dropped", "skipped", "unreadable"]
"""What readers do with a record: take it; pass it over, since it was taken back or is of another timeline, or since it is not
newer than what its publisher had written; pass it over by decision; or stop at it."""


class Seen(NamedTuple):
    """A record, of kind SKIPPED if it cannot be read. `rule`: what is wrong with it then; `missing`: how many records of its
    publisher should have come before it, and did not."""

    entry: Entry
    size: int
    standing: Standing
    rule: str = ""
    missing: int = 0


@dataclass(slots=True)
class PartitionView:
    """Judges the records of one partition, in order, from an offset on. What came before that is not known: the first record of
    each publisher counts."""

    log: UpdateLog
    schema: ModelSchema
    history: History
    skips: Skips
    partition: Partition
    offset: Offset
    readers: dict[PublisherId, Reader] = field(default_factory=dict)
    _path: LivePath = field(init=False)
    _timeline: Timeline = field(init=False)

    def __post_init__(self) -> None:
        self.learn(self.history, self.skips)

    def learn(self, history: History, skips: Skips) -> None:
        """The history and the skips as they are now."""
        self.history, self.skips = history, skips
        self._timeline = history.timeline_at(self.partition, self.offset)
        self._path = LivePath(history, self.partition, offset=self.offset, timeline=self._timeline)

    def see(self, raw: LogEntry) -> Seen:
        """The next record."""
        size, name = len(raw.payload), record_name(self.log, self.partition, raw.offset)
        self.offset = Offset(raw.offset + 1)
        try:
            entry = decoded(raw, self.partition, self.skips.of_partition(self.partition), self.schema.raw_id, name)
        except Unreadable as error:
            return self._unreadable(raw, error, name)
        counted = self._path.step(entry)
        if entry.record.kind == RecordKind.SKIPPED:
            return Seen(entry, size, "skipped")
        if entry.record.kind == RecordKind.FENCE:
            return Seen(entry, size, "live" if self._is_committed(entry) else "dead")
        if counted is not entry:
            return Seen(entry, size, "dead")
        return self._counted(raw, entry, name)

    def _counted(self, raw: LogEntry, entry: Entry, name: str) -> Seen:
        record = entry.record
        if record.timeline != self._timeline:
            self.readers, self._timeline = {}, record.timeline
        if verdict(self.readers, record) == Verdict.DROP:
            return Seen(entry, len(raw.payload), "dropped")
        try:
            check_record(record, self.schema, name)
        except Corrupt as error:
            return self._unreadable(raw, error, name)
        lost = missing(self.readers, record) if record.publisher in self.readers else 0
        self.readers[record.publisher] = Reader(record.term, record.seq)
        return Seen(entry, len(raw.payload), "live", missing=lost)

    def _unreadable(self, raw: LogEntry, error: Corrupt, name: str) -> Seen:
        entry = Entry(raw.offset, skipped_record(self.partition, raw.appended_at), raw.appended_at)
        self._path.step(entry)
        return Seen(entry, len(raw.payload), "unreadable", str(error).removeprefix(f"{name}: "))

    def _is_committed(self, entry: Entry) -> bool:
        taken = [m.rollback for m in self.history.rollbacks() if m.timeline == entry.record.timeline]
        return any(found is not None and found.fence[self.partition] == entry.offset for found in taken)


def view(catalog: Catalog, log: UpdateLog, partition: Partition, start: Offset) -> PartitionView:
    """A view of the log with the refs as they are now."""
    schema, history = catalog.reload_schema(), catalog.history()
    return PartitionView(log, schema, history, read_skips(catalog), partition, start)


def tail(catalog: Catalog, log: UpdateLog, starts: Mapping[Partition, Offset], *, wait_s: float) -> Iterator[Seen | None]:
    """The records from these offsets on, as they come, for as long as the caller asks; None whenever there was none for `wait_s`.
    What a rollback decides meanwhile shows in the records that come after it."""
    refs = catalog.refs()
    views = {partition: view(catalog, log, partition, start) for partition, start in starts.items()}
    while True:
        found = log.poll({partition: seen.offset for partition, seen in views.items()}, timeout_s=wait_s)
        now = catalog.refs()
        if now.generation != refs.generation:
            refs, schema, history, skips = now, catalog.reload_schema(), catalog.history(now), read_skips(catalog)
            for seen in views.values():
                seen.schema = schema
                seen.learn(history, skips)
        for partition, entries in found.items():
            for entry in entries:
                yield views[partition].see(entry)
        if not found:
            yield None
