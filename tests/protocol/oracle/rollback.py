"""Rollback: claim, fences, undo, commit; or abandon. And the freeze that an operator may begin with."""

from __future__ import annotations

from .checkpoints import Checkpointing
from .ground import Arguments, action
from .values import (
    PARTITIONS,
    TABLES,
    Claim,
    Dead,
    Offsets,
    Position,
    Prepared,
    Record,
    Row,
    Tables,
    Version,
    ViolationError,
    overlay,
)

CHOICES: tuple[Tables, ...] = ((), (), *((table,) for table in TABLES))


class RollingBack(Checkpointing):
    def cuts(self, base: Version, target: int | None) -> Offsets:
        """Per partition the first record of the live path past the base, of any publisher and term, at or beyond the target,
        if there is one yet. Back to the base itself, its own positions."""
        found = {}
        for p in PARTITIONS:
            start, end = base.positions[p], len(self.log[p])
            records = self.path(p, start.offset, base.timeline, end)
            if not self.rule("cuts-count-dropped"):
                records = self.effective(p, start, base.timeline, end)
            beyond = [start.offset] if target is None else [n for n, record in records if record.through >= target]
            if beyond:
                found[p] = beyond[0]
        return found

    def bases(self, target: int) -> list[int]:
        """Versions of the live chain before the target, in what they learned and in what was reserved before them."""
        reserved = self.rule("reserved-in-versions")
        return [v.id for v in self.lineage(self.ref.version) if v.through < target and not (reserved and v.reserved >= target)]

    def claimable(self) -> list[Arguments]:
        if self.open_claim is not None:
            return []
        newest = max(p.through for p in self.publishers.values())
        before = [(event, self.bases(event)[-1]) for event in range(max(1, newest - 3), newest + 1)]
        to = [(None, v.id) for v in self.lineage(self.ref.version)[1:][-2:]]
        return [(target, base, tables) for target, base in [*before, *before, *to] for tables in CHOICES]

    @action(claimable)
    def claim(self, target: int | None, base: int, tables: Tables) -> None:
        """Lock and intent in one object, by create-if-absent."""
        self.claims[self.next_timeline] = Claim(target, tables, base, self.cuts(self.versions[base], target))

    def fenceable(self) -> list[Arguments]:
        timelines = [*self.claims, *([] if self.rule("claim-before-fence") else [self.next_timeline])]
        return [(p, t) for t in timelines for p in PARTITIONS for _ in range(4 if self.fence_of(p, t) is None else 1)]

    @action(fenceable)
    def append_fence(self, p: str, timeline: int) -> None:
        """By any run, also by one that died long ago: a fence may come twice, and late."""
        self.log[p].append(Record("fence", timeline))

    def fences(self) -> Offsets | None:
        found = {p: self.fence_of(p, self.open_claim) for p in PARTITIONS} if self.open_claim else {}
        fences = {p: offset for p, offset in found.items() if offset is not None}
        return fences if len(fences) == len(PARTITIONS) else None

    @action(lambda w: [(n,) for n in (0, 1) if w.fences()])
    def prepare(self, n: int) -> None:
        """The undo, by one of two runs; a run may die with it in hand, or come back with it when all is decided."""
        timeline, fence = self.open_claim, self.fences()
        if timeline is None or fence is None:
            return
        claim = self.claims[timeline]
        base, live = self.versions[claim.base], self.live
        found = self.cuts(base, claim.target) if self.rule("cuts-after-fences") else claim.forecast
        cut = {p: min(found.get(p, fence[p]), fence[p]) for p in PARTITIONS}
        dead = Dead(claim.target, claim.tables, cut, fence, {})
        back = self.fold(base, cut)
        rows, through, reserved, dense = back.rows, back.through, back.reserved, back.dense(base.dense)
        if not self.rule("dense-before-cuts"):
            dense = max([dense, *(name for names in self.fold(live, fence).announced.values() for name in names)])
        if claim.tables:
            other = live if self.rule("others-from-live") else base
            on = self.fold(other, fence)
            table = overlay(other.table, on.rows)
            after = {key for v in self.lineage(other.id) if v.id > base.id for key in v.rows} | set(on.rows)
            rows = {key: row for key, row in rows.items() if dead.covers(key)}
            rows |= {key: table.get(key) for key in after if not dead.covers(key)}
            through, reserved = max(through, on.through), max(reserved, on.reserved)
            dense = on.dense(other.dense)
        undone = {r.key for p in PARTITIONS for r in self.log[p][cut[p] : fence[p]] if r.kind == "row"}
        if self.rule("undo-later-deltas"):
            for v in self.versions[base.id + 1 :]:
                undone |= {*v.rows, *(v.dead.undo if v.dead else ())}
        whole = overlay(base.table, rows)
        dead = Dead(claim.target, claim.tables, cut, fence, {key: whole.get(key) for key in undone})
        self.prepared[n] = Prepared(timeline, self.ref.generation, base.id, rows, through, reserved, dense, dead)

    @action(lambda w: [(n,) for n in (0, 1) if w.prepared[n]])
    def decide(self, n: int) -> None:
        found, self.prepared[n] = self.prepared[n], None
        if not found or (
            found.generation != self.ref.generation and (self.rule("rollback-by-swap") or found.timeline != self.open_claim)
        ):
            return  # somebody else moved the ref
        self.number += 1
        before, state = self.live, (found.timeline, self.number)
        positions = {p: Position(found.dead.fence[p] + 1) for p in PARTITIONS}
        learned = (found.through, found.reserved, found.dense)
        self.publish(Version(-1, "rollback", state, found.base, found.rows, positions, *learned, {}, found.dead))
        self.counts["rolled back, " + ("one table" if found.dead.tables else "all")] += 1
        self.check_rollback(self.live, found.dead, before)

    def check_rollback(self, version: Version, dead: Dead, before: Version) -> None:
        """No poison, and every row is as it was last delivered: before the cut, or of a table left alone, before the fence."""
        for key, held in version.table.items():
            if self.poisoned(held, version.timeline, key):
                raise ViolationError(f"poison: version {version.id} holds {key}, which learned {held.learned}")
        if self.poisoned(self.denses[version.dense], version.timeline):
            raise ViolationError(f"poison: version {version.id} holds {version.dense}")
        for key in self.keys:
            p, (base, end) = key[0], (self.versions[version.base], dead.cut) if dead.covers(key) else (before, dead.fence)
            offset, row = self.delivered(p, end[p]).get(key, (-1, None))
            if version.table.get(key) != (row if offset >= base.positions[p].offset else base.table.get(key)):
                raise ViolationError(f"recovery: {key} of version {version.id} is not its row before the cut or fence")

    def delivered(self, p: str, end: int) -> dict[str, tuple[int, Row | None]]:
        """Ghost: key to (offset, row) last delivered before `end`, read from offset 0 with knowledge of everything."""
        last: dict[str, tuple[int, Row | None]] = {}
        newest: dict[int, tuple[int, int]] = {}
        timeline = 1
        for offset, record in enumerate(self.log[p][:end]):
            passed = max([1, *(v.timeline for v, d in self.rollbacks() if d.fence[p] <= offset)])
            timeline, newest = passed, newest if passed == timeline else {}
            if record.timeline == timeline and (record.term, record.seq) > newest.get(record.publisher, (0, 0)):
                newest[record.publisher] = (record.term, record.seq)
                if record.kind == "row" and not any(d.holds(p, offset, record) for _, d in self.rollbacks()):
                    last[record.key] = offset, record.row
        return last

    @action(lambda w: [()] if w.open_claim else [])
    def abandon(self) -> None:
        if self.open_claim:
            generation = self.ref.generation + self.rule("abandon-moves-ref")
            self.ref = self.ref._replace(generation=generation, abandoned=self.ref.abandoned | {self.open_claim})

    @action(lambda w: [()])
    def freeze(self) -> None:
        """Freeze at one recorded position, or thaw."""
        frozen = () if self.ref.frozen else tuple(len(self.log[p]) for p in PARTITIONS)
        self.ref = self.ref._replace(generation=self.ref.generation + 1, frozen=frozen)
