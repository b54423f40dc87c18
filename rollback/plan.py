"""The plan of a rollback: what it goes back to and what will be lost, before anything moves. A forecast: cuts and undo are
computed anew after the last fence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from penstock.pipeline.core.coordination import Claim, Presence
from penstock.pipeline.core.documents import Document
from penstock.pipeline.core.history import History
from penstock.pipeline.core.ids import Offset, State, Timeline, Version
from penstock.pipeline.core.manifest import Manifest, Target
from penstock.pipeline.core.records import Record, RecordKind
from penstock.pipeline.core.refs import Refs
from penstock.pipeline.core.times import WallTime, format_time


class LostRows(Document, frozen=True, kw_only=True):
    """Rows of one table by one publisher that will not count: written in records that learned from `first` to `last`."""

    table: str
    publisher: str
    records: int
    rows: int
    tombstones: int
    first: str
    last: str


class Holder(Document, frozen=True, kw_only=True):
    """A live replica, and how many of its partitions have passed their cut."""

    replica: str
    version: Version
    partitions_beyond_cut: int


class Lost(Document, frozen=True, kw_only=True):
    """What a rollback takes away. `unsent`: rows that never went over the log go back to what was last
    delivered. `unreadable`: records that nobody could read, or has read."""

    rows: tuple[LostRows, ...]
    versions: tuple[Version, ...]
    checkpoints: tuple[str, ...]
    dense_updates: int
    unsent: int
    unreadable: int = 0

    @property
    def row_count(self) -> int:
        return sum(lost.rows + lost.tombstones for lost in self.rows)


class RollbackPlan(Document, frozen=True, kw_only=True):
    """`restart_from`: the newest state before the target that a trainer has a checkpoint of. `learned_too`: tables that have
    learned from the target or later and are not rolled back, where only some are."""

    model: str
    target: Target
    description: str
    timeline: Timeline
    parent: Timeline
    of: Timeline
    base: Version
    base_state: str
    base_trained_through: str
    cuts: tuple[Offset, ...]
    ends: tuple[Offset, ...]
    tables: tuple[str, ...] | None
    lost: Lost
    holders: tuple[Holder, ...]
    refs: tuple[str, ...]
    restart_from: str | None
    learned_too: tuple[str, ...]


@dataclass(slots=True)
class LossCount:
    """Counts what lies behind the cuts; `covers` are the tables that go back, None all."""

    covers: frozenset[str] | None
    _rows: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    dense: set[tuple[str, int, str]] = field(default_factory=set)
    learned_too: set[str] = field(default_factory=set)
    unreadable: int = 0

    def add(self, records: Iterable[Record]) -> None:
        for record in records:
            self.unreadable += record.kind == RecordKind.SKIPPED
            if record.kind == RecordKind.DENSE and self.covers is None:
                self.dense.add((record.publisher, record.term, record.text))
            if record.kind != RecordKind.ROWS:
                continue
            if self.covers is not None and record.table not in self.covers:
                self.learned_too.add(record.table)
                continue
            through = record.trained_through
            found = self._rows.setdefault((record.table, record.publisher), [0, 0, 0, through, through])
            for at, more in enumerate((1, len(record.rows), len(record.tombstones))):
                found[at] += more
            found[3], found[4] = min(found[3], through), max(found[4], through)

    def rows(self) -> tuple[LostRows, ...]:
        return tuple(
            LostRows(
                table=table, publisher=publisher, records=records, rows=rows, tombstones=tombstones,
                first=format_time(first), last=format_time(last),
            )
            for (table, publisher), (records, rows, tombstones, first, last) in sorted(self._rows.items())
        )  # fmt: skip


def taken_back(history: History, base: Manifest) -> list[Manifest]:
    """The trunk versions after the base that the live state is made of, and will not be any more."""
    after = {m.version for m in history.lineage(history.newest.version)} - {m.version for m in history.lineage(base.version)}
    return [m for m in history.trunk if m.version in after]


def moving_refs(refs: Refs, history: History, base: Manifest) -> tuple[str, ...]:
    """The refs that the commit moves: all that follow the log, and those that serve a version which is taken back."""
    kept = {m.version for m in history.lineage(base.version)}
    return tuple(sorted(name for name, ref in refs.refs.items() if ref.follow == "log" or ref.version not in kept))


def holders(presences: Iterable[Presence], cuts: tuple[Offset, ...]) -> tuple[Holder, ...]:
    return tuple(
        Holder(
            replica=presence.replica,
            version=presence.version,
            partitions_beyond_cut=sum(found.offset > cuts[found.partition] for found in presence.partitions),
        )
        for presence in presences
    )


def claim_of(plan: RollbackPlan, *, claim_id: str, who: str, at: WallTime, why: str) -> Claim:
    return Claim(
        id=claim_id, timeline=plan.timeline, parent=plan.parent, target=plan.target, of=plan.of, base=plan.base,
        tables=plan.tables, cuts=plan.cuts, who=who, at=at, why=why,
    )  # fmt: skip


def resumable_before(
    states: Iterable[tuple[State, tuple[Offset, ...]]], cuts: tuple[Offset, ...], timeline: Timeline
) -> State | None:
    """Of states and the offsets of their positions, the newest of `timeline` or older that lies at or before every cut."""
    found = [
        state
        for state, offsets in states
        if state.timeline <= timeline and all(o <= c for o, c in zip(offsets, cuts, strict=True))
    ]
    return max(found, key=lambda state: state.marker, default=None)
