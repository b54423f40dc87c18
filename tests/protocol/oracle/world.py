"""The whole world: how it begins, and what must hold when it has come to rest."""

from __future__ import annotations

from .ground import ACTIONS
from .replicas import Serving
from .values import KEYS, PARTITIONS, Row, Rows, State, ViolationError, overlay


class World(Serving):
    def __init__(self, publishers: int = 1, without: tuple[str, ...] = (), keys: tuple[str, ...] = KEYS) -> None:
        super().__init__(publishers, without, keys)
        for i in range(publishers):
            self.resume_at_once(i, (1, 0))
        self.replicas = [self.newcomer(), self.newcomer()]

    def compare(self, when: str) -> tuple[Rows, Row]:
        """What all replicas and a newcomer serve, once they have read everything."""
        self.replicas = [r if r.alive else self.newcomer() for r in self.replicas[:2]] + [self.newcomer()]
        for n, replica in enumerate(self.replicas):
            self.learn(n)
            while ready := [(name, at) for name in ("adopt", "poll") for at in ACTIONS[name].possible(self) if at[0] == n]:
                ACTIONS[ready[0][0]].step(self, *ready[0][1])
            for p, part in replica.parts.items():
                if part.offset < len(self.log[p]) or part.version != self.ref.version:
                    raise ViolationError(f"stuck: replica {n} at {p}:{part.offset}, version {part.version} of {self.ref.version}")
        served = [(overlay(r.parts["a"].rows, r.parts["b"].rows), r.dense) for r in self.replicas]
        if any(found != served[0] for found in served):
            raise ViolationError(f"replicas differ {when}: {served}")
        return served[0][0], self.denses[served[0][1]]

    def come_to_rest(self) -> None:
        """All is delivered or lost, decided and resumed; then the copies are compared, at last with the trainers' own rows."""
        self.in_flight = []
        if self.ref.frozen:
            self.freeze()
        if self.open_claim and sum(map(len, self.log.values())) % 3 == 0:
            self.abandon()
        while self.open_claim:
            for p in PARTITIONS:
                self.append_fence(p, self.open_claim)
            self.prepare(0)
            self.decide(0)
        while self.cutting:
            self.cut(*self.cut_possible()[0])
        for i, publisher in list(self.publishers.items()):
            if not publisher.ready or publisher.timeline != self.live.timeline:
                name: State | int = max(self.resumable()) if self.number % 2 else self.ref.version
                self.resume_at_once(i, name)
            self.resend(i)
        self.compare("at rest")
        for step in ("start", "live"), *(("mark", p) for p in PARTITIONS), ("look", ""), ("finish", ""):
            self.cut(*step)
        last = max(self.checkpoints)
        if last[1] != self.number:
            raise ViolationError("stuck: the last checkpoint was refused")
        self.commit(last)
        table, dense = self.compare("after the last delta")
        truth = {key: row for publisher in self.publishers.values() for key, row in publisher.rows.items()}
        if table != truth:
            raise ViolationError(f"oracle: the replicas serve {table}, the trainers have {truth}")
        if dense != self.denses[self.checkpoints[last].dense]:
            raise ViolationError(f"oracle: the replicas serve the dense slice {dense}, not that of {last}")
