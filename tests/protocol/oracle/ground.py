"""The store and the log as everybody sees them, and how the log must be read. Who writes them, and why, is not known here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from .rules import RULES
from .values import (
    KEYS,
    PARTITIONS,
    Changes,
    Checkpoint,
    Claim,
    Cutting,
    Dead,
    DenseName,
    Offsets,
    Position,
    Positions,
    Prepared,
    Publisher,
    Readers,
    Record,
    Ref,
    Replica,
    Row,
    State,
    Version,
    newest_in_all,
    overlay,
)

Arguments = tuple[Any, ...]
Step = TypeVar("Step", bound=Callable[..., None])
Verdict = Literal["take", "drop", "gap"]


@dataclass(frozen=True)
class Action:
    """One atomic step of the world, and the arguments that it may be taken with now."""

    step: Callable[..., None]
    possible: Callable[[Any], list[Arguments]]


ACTIONS: dict[str, Action] = {}


def action(possible: Callable[[Any], list[Arguments]]) -> Callable[[Step], Step]:
    """Registers a step of the world under its name."""

    def register(step: Step) -> Step:
        ACTIONS[step.__name__] = Action(step, possible)
        return step

    return register


@dataclass
class Fold:
    """What a stretch of the log comes to."""

    rows: Changes = field(default_factory=dict)
    through: int = 0
    reserved: int = 0
    announced: dict[str, frozenset[DenseName]] = field(default_factory=dict)

    def dense(self, base: DenseName) -> DenseName:
        return newest_in_all(names | {base} for names in self.announced.values()) or base


class Ground:
    def __init__(self, publishers: int = 1, without: tuple[str, ...] = (), keys: tuple[str, ...] = KEYS) -> None:
        self.without, self.keys, self.serial, self.number = frozenset(without), keys, 0, 0
        first = {key: Row(-n, (), 1) for n, key in enumerate(keys[:2], 1)}
        start = {p: Position(0) for p in PARTITIONS}
        dense = DenseName(1, 0, 0)
        self.denses = {dense: Row(0, (), 1)}
        self.log: dict[str, list[Record]] = {p: [] for p in PARTITIONS}
        self.versions = [Version(0, "birth", (1, 0), 0, {}, start, 0, 0, dense, first)]
        none: frozenset[str] = frozenset()
        learned: dict[int, dict[int, int]] = {i: {} for i in range(publishers)}
        self.checkpoints: dict[State, Checkpoint] = {(1, 0): Checkpoint((1, 0), first, 0, start, dense, none, none, learned)}
        self.ref = Ref(0)
        self.claims: dict[int, Claim] = {}
        self.prepared: list[Prepared | None] = [None, None]
        self.terms = dict.fromkeys(range(publishers), 0)
        self.publishers: dict[int, Publisher] = {}
        self.zombies: dict[int, Publisher] = {}
        self.in_flight: list[tuple[str, Record]] = []
        self.cutting: Cutting | None = None
        self.replicas: list[Replica] = []
        self.lossless = True
        """Ghost: nothing was shed, lost or taken back, so that interval digests must agree."""
        self.counts: Counter[str] = Counter()

    def rule(self, name: str) -> bool:
        return bool(RULES[name]) and name not in self.without

    # ---- the store ---------------------------------------------------------------------------------------------------

    @property
    def live(self) -> Version:
        return self.versions[self.ref.version]

    @property
    def open_claim(self) -> int | None:
        decided = {v.timeline for v in self.versions} | self.ref.abandoned
        return next((timeline for timeline in self.claims if timeline not in decided), None)

    @property
    def next_timeline(self) -> int:
        return max([1, *self.claims]) + 1

    def rollbacks(self) -> list[tuple[Version, Dead]]:
        return [(v, v.dead) for v in self.versions if v.dead]

    def lineage(self, version: int) -> list[Version]:
        """The versions that the state of `version` is made of, oldest first."""
        found = [self.versions[version]]
        while found[-1].id:
            found.append(self.versions[found[-1].base])
        return found[::-1]

    def publish(self, version: Version) -> None:
        """The manifest, then the ref by compare-and-swap. A rollback thaws: the frozen offsets may lie beyond a cut."""
        frozen = () if version.dead else self.ref.frozen
        table = overlay(self.versions[version.base].table, version.rows)
        self.versions.append(replace(version, id=len(self.versions), table=table))
        self.ref = Ref(len(self.versions) - 1, self.ref.generation + 1, frozen, self.ref.abandoned)

    # ---- the log -----------------------------------------------------------------------------------------------------

    def fence_of(self, p: str, timeline: int) -> int | None:
        found = [n for n, r in enumerate(self.log[p]) if r.kind == "fence" and r.timeline == timeline]
        return found[0 if self.rule("first-fence-counts") else -1] if found else None

    def path(self, p: str, offset: int, timeline: int, end: int) -> Iterator[tuple[int, Record]]:
        """(offset, record) of the live path of a partition: what a committed rollback took back is skipped."""
        dead = [(v.timeline, d) for v, d in self.rollbacks()] if self.rule("skip-dead-ranges") else []
        whole = [(t, d) for t, d in dead if not d.tables or not self.rule("dead-by-table")]
        committed = {v.timeline for v, _ in self.rollbacks()}
        while offset < end:
            over = next(((t, d) for t, d in whole if t > timeline and d.cut[p] <= offset), None)
            if over:
                timeline, offset = over[0], max(offset, over[1].fence[p] + 1)
                continue
            record = self.log[p][offset]
            if record.kind == "fence":
                timeline = max(timeline, record.timeline) if record.timeline in committed else timeline
            elif record.timeline == timeline:
                if not any(d.holds(p, offset, record) for _, d in dead):
                    yield offset, record
                elif self.rule("dead-rows-in-sequence"):
                    yield offset, record._replace(kind="dead", through=0)
            offset += 1

    def verdict(self, readers: Readers, record: Record) -> Verdict:
        if record.publisher not in readers and not self.rule("readers-in-positions"):
            return "take"
        term, seq = readers.get(record.publisher, (0, 0))
        if (record.term, record.seq) <= (term, seq):
            return "drop"
        return "take" if record.seq <= (seq + 1 if record.term == term else 1) else "gap"

    def effective(self, p: str, position: Position, timeline: int, end: int) -> Iterator[tuple[int, Record]]:
        """(offset, record) that count on the live path from `position` to `end`."""
        readers = dict(position.readers)
        for offset, record in self.path(p, position.offset, timeline, end):
            if record.timeline != timeline:
                readers, timeline = {}, record.timeline
            if self.verdict(readers, record) != "drop":
                readers[record.publisher] = (record.term, record.seq)
                yield offset, record

    def fold(self, base: Version, end: Offsets) -> Fold:
        """What the log comes to from the positions of `base` to `end`."""
        found = Fold(through=base.through, reserved=self.reserved(base, end))
        for p in PARTITIONS:
            names = set()
            for _, record in self.effective(p, base.positions[p], base.timeline, end[p]):
                found.through = max(found.through, record.through)
                if record.kind == "row":
                    found.rows[record.key] = record.row
                elif record.dense:
                    names.add(record.dense)
            found.announced[p] = frozenset(names)
        return found

    def reserved(self, base: Version, end: Offsets) -> int:
        """The newest reservation up to `end`, also of records that readers drop."""
        newest = base.reserved
        for p in PARTITIONS:
            records = self.path(p, base.positions[p].offset, base.timeline, end[p])
            newest = max([newest, *(record.through for _, record in records if record.kind == "beat")])
        return newest

    # ---- ghosts ------------------------------------------------------------------------------------------------------

    def poisoned(self, row: Row, timeline: int, key: str = "") -> bool:
        """True where a row learned from what a rollback up to `timeline` takes back. A rollback of one table promises that of
        the rows of this table which were written before it; what is written later may learn from the other tables."""
        return any(
            d.target is not None and event >= d.target
            for v, d in self.rollbacks()
            for origin, event in row.learned
            if origin < v.timeline <= timeline and (not d.tables or (key and d.covers(key) and row.born < v.timeline))
        )

    def learned_in(self, version: Version) -> dict[int, int]:
        """All that the rows and the dense slice of a version have learned from."""
        found: dict[int, int] = {}
        for row in (*version.table.values(), self.denses[version.dense]):
            for origin, event in row.learned:
                found[origin] = max(event, found.get(origin, 0))
        return found


def offsets(positions: Positions) -> Offsets:
    return {p: position.offset for p, position in positions.items()}
