"""Checkpoints and what is committed of them: deltas of the trainer, deltas folded from the log, snapshots."""

from __future__ import annotations

from .ground import Arguments, action, offsets
from .publishers import Publishing
from .values import (
    PARTITIONS,
    Changes,
    Checkpoint,
    Cutting,
    DenseName,
    Kind,
    Position,
    Publisher,
    Seen,
    State,
    Version,
    ViolationError,
)


class Checkpointing(Publishing):
    def cut_possible(self) -> list[Arguments]:
        if self.cutting:
            left = [p for p in PARTITIONS if p not in self.cutting.positions]
            return [("mark", p) for p in left] or [("finish" if self.cutting.seen else "look", "")]
        jobs = {"live": list(self.publishers.values())}
        if len(self.terms) == 1:
            jobs["zombie"] = list(self.zombies.values())
        return [
            ("start", job)
            for job, members in jobs.items()
            if members and len({p.timeline for p in members}) == 1 and all(p.ready and not p.unacknowledged for p in members)
        ]

    @action(cut_possible)
    def cut(self, step: str, argument: str) -> None:
        if step == "start":
            self.begin_cut(list((self.zombies if argument == "zombie" else self.publishers).values()))
        elif cutting := self.cutting:
            if step == "mark":
                marker = cutting.publishers[0].record(argument, "marker")
                self.log[argument].append(marker._replace(state=cutting.state))
                readers = tuple((p.id, (p.term, p.seq[argument])) for p in cutting.publishers)
                cutting.positions[argument] = Position(len(self.log[argument]), readers)
            elif step == "look":
                cutting.seen = Seen(self.live.timeline, self.ref.abandoned, dict(self.terms))
            else:
                self.cutting = None
                self.finish_cut(cutting)

    def begin_cut(self, publishers: list[Publisher]) -> None:
        """All flush; the intent; a number is never used twice."""
        self.number += 1
        owner = next(p for p in publishers if p.id == 0)
        if self.rule("dense-barrier"):
            owner.announcing = None  # an announcement that is under way is given up (or finished, before this step)
        self.cutting = Cutting((publishers[0].timeline, self.number), self.new_dense(owner), publishers)

    def finish_cut(self, cutting: Cutting) -> None:
        """Expired, fenced or superseded it counts for nothing: what was touched stays touched."""
        members, positions = cutting.publishers, cutting.positions
        if cutting.expired or not all(self.flushed(p, cutting) for p in members):
            return
        self.checkpoints[cutting.state] = Checkpoint(
            cutting.state,
            {key: row for p in members for key, row in p.rows.items()},
            max(p.through for p in members),
            positions,
            cutting.dense,
            frozenset[str]().union(*(p.touched for p in members)),
            frozenset[str]().union(*(p.unsent for p in members)),
            {p.id: dict(p.learned) for p in members},
        )
        for p in members:
            p.touched, p.unsent = set(), set()

    def flushed(self, publisher: Publisher, cutting: Cutting) -> bool:
        """By the store alone, without reading the log: the ref and the term were read after the last marker, and the claim
        of the timeline that would be next is looked for after that. It implies what the log says."""
        seen = cutting.seen
        if not seen:
            return False
        claimed = seen.timeline > publisher.timeline or max([seen.timeline, *seen.abandoned]) + 1 in self.claims
        superseded = seen.terms[publisher.id] != publisher.term
        if not claimed and not superseded and not self.clear(publisher, cutting.positions):
            raise ViolationError("flush: the store knows of no fence and no newer term, yet one precedes the positions")
        return not ((claimed and self.rule("flush-sees-fences")) or (superseded and self.rule("flush-sees-terms")))

    def clear(self, publisher: Publisher, positions: dict[str, Position]) -> bool:
        """By the log: no fence of a later timeline and no newer term of this publisher precede the positions."""
        before = [record for p in PARTITIONS for record in self.log[p][: positions[p].offset]]
        return not any(
            r.timeline > publisher.timeline and r.timeline not in self.ref.abandoned
            if r.kind == "fence"
            else r.publisher == publisher.id and r.term > publisher.term
            for r in before
        )

    # ---- commits -----------------------------------------------------------------------------------------------------

    def committable(self) -> list[Checkpoint]:
        return [
            c
            for state, c in self.checkpoints.items()
            if not c.expired and state[0] == self.live.timeline and state > self.live.state
        ]

    def since_live(self, c: Checkpoint) -> list[Checkpoint]:
        """The checkpoints that a delta to `c` covers, those never published included."""
        return [d for d in self.checkpoints.values() if self.live.state < d.state <= c.state]

    @action(lambda w: [(c.state,) for c in w.committable()])
    def commit(self, state: State) -> None:
        """The trainer's delta: the touched keys, as its state has them."""
        c = self.checkpoints[state]
        self.publish_delta("delta", c, {key: c.rows.get(key) for d in self.since_live(c) for key in d.touched}, c.dense)

    @action(
        lambda w: [
            (c.state,) for c in w.committable() if not w.rule("fold-needs-all-sent") or not any(d.unsent for d in w.since_live(c))
        ]
    )
    def fold_delta(self, state: State) -> None:
        """A delta from the log alone, without the trainer's rows: of a checkpoint that nobody has committed."""
        c = self.checkpoints[state]
        found = self.fold(self.live, offsets(c.positions))
        self.publish_delta("folded", c, found.rows, found.dense(self.live.dense))
        self.counts["folded, rows"] += len(found.rows)
        if self.live.table != c.rows:
            raise ViolationError(f"fold: version {self.live.id} is not the state {state}")

    def publish_delta(self, kind: Kind, c: Checkpoint, rows: Changes, dense: DenseName) -> None:
        base, reserved = self.live, self.reserved(self.live, offsets(c.positions))
        self.publish(Version(-1, kind, c.state, base.id, rows, c.positions, c.through, reserved, dense, {}))

    @action(lambda w: [(v.id,) for v in w.lineage(w.ref.version) if v.state in w.checkpoints])
    def snapshot(self, version: int) -> None:
        """A slow snapshot, or a compaction, is an alternate base: its digest must be that of the chain."""
        if self.checkpoints[self.versions[version].state].rows != self.versions[version].table:
            raise ViolationError(f"table digest: the snapshot of version {version} is not what its chain says")
