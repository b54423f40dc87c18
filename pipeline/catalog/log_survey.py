"""What a stretch of the update log holds, counted in one pass. Bounded: of what may be many, the newest are named."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import msgspec

from ..core.errors import Corrupt
from ..core.ids import Offset, Partition
from ..core.records import RecordKind
from ..core.times import NEVER, EventTime, WallTime, format_time
from ..ports.log import UpdateLog
from .catalog import Catalog
from .log_view import Seen, view
from .replay import payloads

NAMED = 100
"""How many publishers' terms, fences, markers and broken records of a partition are named."""


class TermSurvey(msgspec.Struct, kw_only=True):
    """The records of one term of a publisher. `missing`: holes in its sequence, as records."""

    publisher: str
    term: int
    timeline: int
    first_seq: int
    last_seq: int
    records: int
    rows: int
    missing: int


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A record by its offset: the state of a marker, the timeline of a fence, the rule that one breaks which cannot be read."""

    offset: int
    what: str
    standing: str


class PartitionSurvey(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in [`start`, `stop`) of a partition that holds [`begin`, `end`). `standings` counts the records by what
    readers do with them, `timelines` those of each timeline. `damage`: where the log itself could not be read on."""

    partition: int
    begin: int
    end: int
    start: int
    stop: int
    records: int
    bytes: int
    rows: int
    tombstones: int
    first_appended_at: str | None
    last_appended_at: str | None
    trained_through: str
    kinds: dict[str, int]
    standings: dict[str, int]
    timelines: dict[str, int]
    publishers: list[TermSurvey]
    fences: list[Placed]
    markers: list[Placed]
    unreadable: list[Placed]
    skipped: list[Placed]
    damage: str


def survey(
    catalog: Catalog, log: UpdateLog, partition: Partition, *, start: Offset | None = None, end: Offset | None = None
) -> PartitionSurvey:
    """Reads what the log has of [start, end), by default all of a partition."""
    begin, last = log.begin(partition), log.end(partition)
    first = begin if start is None else Offset(min(max(start, begin), last))
    stop = last if end is None else Offset(max(first, min(end, last)))
    counts, damage = _Counts(), ""
    judge = view(catalog, log, partition, first)
    try:
        for entry in payloads(log, partition, first, stop):
            counts.add(judge.see(entry))
    except Corrupt as error:
        damage = str(error)
    return PartitionSurvey(
        partition=partition, begin=begin, end=last, start=first, stop=judge.offset if damage else stop, records=counts.records,
        bytes=counts.bytes, rows=counts.rows, tombstones=counts.tombstones, first_appended_at=_time(counts.first),
        last_appended_at=_time(counts.last), trained_through=format_time(counts.through), kinds=counts.kinds,
        standings=counts.standings, timelines=counts.timelines, publishers=list(counts.terms.values()),
        fences=list(counts.fences), markers=list(counts.markers), unreadable=list(counts.unreadable),
        skipped=list(counts.skipped), damage=damage,
    )  # fmt: skip


def _time(at: WallTime | None) -> str | None:
    return None if at is None else format_time(at)


def _newest() -> deque[Placed]:
    return deque(maxlen=NAMED)


@dataclass(slots=True)
class _Counts:
    records: int = 0
    bytes: int = 0
    rows: int = 0
    tombstones: int = 0
    first: WallTime | None = None
    last: WallTime | None = None
    through: EventTime = NEVER
    kinds: dict[str, int] = field(default_factory=dict)
    standings: dict[str, int] = field(default_factory=dict)
    timelines: dict[str, int] = field(default_factory=dict)
    terms: dict[tuple[str, int, int], TermSurvey] = field(default_factory=dict)
    fences: deque[Placed] = field(default_factory=_newest)
    markers: deque[Placed] = field(default_factory=_newest)
    unreadable: deque[Placed] = field(default_factory=_newest)
    skipped: deque[Placed] = field(default_factory=_newest)

    def add(self, seen: Seen) -> None:
        record, appended_at = seen.entry.record, seen.entry.appended_at
        self.records += 1
        self.bytes += seen.size
        self.first = appended_at if self.first is None else self.first
        self.last = appended_at
        self.standings[seen.standing] = self.standings.get(seen.standing, 0) + 1
        if seen.standing in ("unreadable", "skipped"):
            (self.unreadable if seen.standing == "unreadable" else self.skipped).append(_placed(seen, seen.rule))
            return
        self.kinds[record.kind.name.lower()] = self.kinds.get(record.kind.name.lower(), 0) + 1
        timeline = str(record.timeline)
        self.timelines[timeline] = self.timelines.get(timeline, 0) + 1
        self.rows += len(record.put_keys)
        self.tombstones += len(record.tombstones)
        if record.kind == RecordKind.FENCE:
            self.fences.append(_placed(seen, timeline))
            return
        if record.kind == RecordKind.MARKER:
            self.markers.append(_placed(seen, record.text))
        self.through = max(self.through, record.trained_through)
        self._add_to_term(seen)

    def _add_to_term(self, seen: Seen) -> None:
        record = seen.entry.record
        key = (record.publisher, record.term, record.timeline)
        term = self.terms.get(key)
        if term is None:
            if len(self.terms) == NAMED:
                del self.terms[next(iter(self.terms))]
            term = self.terms[key] = TermSurvey(
                publisher=record.publisher, term=record.term, timeline=record.timeline, first_seq=record.seq, last_seq=record.seq,
                records=0, rows=0, missing=0,
            )  # fmt: skip
        term.records += 1
        term.rows += len(record.keys)
        term.last_seq = max(term.last_seq, record.seq)
        term.missing += seen.missing


def _placed(seen: Seen, what: str) -> Placed:
    return Placed(offset=seen.entry.offset, what=what, standing=seen.standing)
