"""Replicas: bootstrap, following the log, adopting versions, and what must hold of what they serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .ground import Arguments, action
from .rollback import RollingBack
from .values import PARTITIONS, DenseName, Part, Ref, Replica, State, Version, ViolationError, newest_in_all, overlay, within


class Serving(RollingBack):
    def newcomer(self) -> Replica:
        return Replica(self.ref, {p: self.load(p, self.live) for p in PARTITIONS}, self.live.dense)

    def load(self, p: str, version: Version) -> Part:
        position = version.positions[p]
        readers = dict(position.readers) if self.rule("readers-in-positions") else {}
        announced, since = frozenset({version.dense}), {version.state: set[str]()}
        rows = within(version.table, p)
        return Part(rows, position.offset, readers, version.timeline, version.id, announced, since)

    def next_version(self, part: Part, known: Ref) -> Version | None:
        """Versions in commit order; deltas that the next rollback takes back are passed over."""
        later = self.versions[part.version + 1 : known.version + 1]
        rollback = next((v for v in later if v.dead), None)
        if rollback and not self.rule("base-before-undo"):
            return rollback
        goal = self.lineage(rollback.base if rollback else known.version)
        return next((v for v in later if v is rollback or v in goal), None)

    def places(self, test: Callable[[Part, Version | None, Ref, str], object]) -> list[Arguments]:
        """(replica, partition) where test(part, version to adopt next, ref, partition) holds."""
        return [
            (n, p)
            for n, replica in enumerate(self.replicas)
            if replica.alive
            for p, part in replica.parts.items()
            if test(part, self.next_version(part, replica.known), replica.known, p)
        ]

    @action(lambda w: [(n,) for n, replica in enumerate(w.replicas) if replica.alive and replica.known != w.ref])
    def learn(self, n: int) -> None:
        self.replicas[n].known = self.ref

    # ---- following ---------------------------------------------------------------------------------------------------

    def pollable(self, part: Part, version: Version | None, known: Ref, p: str) -> bool:
        log = self.log[p]
        if part.offset >= len(log) or (known.frozen and part.offset >= known.frozen[PARTITIONS.index(p)]):
            return False
        if version and version.dead and part.offset >= version.dead.cut[p]:
            return False  # it jumps
        record = log[part.offset]
        if record.kind == "fence":  # it pauses until the ref says what became of it
            return record.timeline <= part.timeline or record.timeline in known.abandoned
        if record.timeline == part.timeline and self.verdict(part.readers, record) == "gap":
            return self.rule("gaps-end") and any(
                (r.publisher == record.publisher and r.term > record.term) or (r.kind == "fence" and r.timeline > part.timeline)
                for r in log[part.offset :]
            )
        return True

    @action(lambda w: w.places(w.pollable))
    def poll(self, n: int, p: str) -> None:
        part = self.replicas[n].parts[p]
        record = self.log[p][part.offset]
        part.offset += 1
        if record.kind == "fence" and not self.rule("void-fences"):
            part.timeline = max(part.timeline, record.timeline)
        if record.kind == "fence" or record.timeline != part.timeline or self.verdict(part.readers, record) == "drop":
            return
        part.readers[record.publisher] = (record.term, record.seq)
        if record.kind == "row":
            part.rows = overlay(part.rows, {record.key: record.row})
            for keys in part.since.values():
                keys.add(record.key)
        elif record.dense:
            part.announced |= {record.dense}
        elif record.state:
            written = {state: {key: part.rows.get(key) for key in keys} for state, keys in part.since.items()}
            part.interval[record.state], part.since[record.state] = written, set()
        self.check(n)

    # ---- adopting versions -------------------------------------------------------------------------------------------

    def adoptable(self, part: Part, version: Version | None, known: Ref, p: str) -> bool:
        if not version or known.frozen:
            return False
        return part.offset >= (version.dead.cut[p] if version.dead else version.positions[p].offset)

    @action(lambda w: w.places(w.adoptable))
    def adopt(self, n: int, p: str) -> None:
        replica = self.replicas[n]
        part = replica.parts[p]
        version = self.next_version(part, replica.known)
        if not version:
            return
        if version.dead:  # jump to F, apply the undo
            newest = max(v.id for v, _ in self.rollbacks() if v.id <= replica.known.version)
            undo = version.dead.undo if self.rule("older-undo-first") or version.id == newest else {}
            offset = max(part.offset, version.positions[p].offset)
            rows = overlay(part.rows, within(undo, p))
            replica.parts[p] = replace(self.load(p, version), rows=rows, offset=offset)
        elif version.state not in part.since:  # the marker was forgotten: loaded anew, while the others serve on
            replica.parts[p] = self.load(p, version)
        else:
            self.adopt_delta(p, part, version)
        self.check_adopted(n, p, version)

    def adopt_delta(self, p: str, part: Part, version: Version) -> None:
        """Where the interval digests agree it is here already; else it is taken, but for what was written past the marker."""
        rows, base = within(version.rows, p), self.versions[version.base].state
        interval = part.interval[version.state].get(base)
        self.counts["interval digests agreed" if interval == rows else "deltas taken"] += 1
        if self.lossless and interval is not None and interval != rows:
            raise ViolationError(f"interval digest of {p} up to {version.state} differs though nothing was lost")
        kept = set(rows) if interval == rows else part.since[version.state]
        part.rows = overlay(part.rows, {key: row for key, row in rows.items() if key not in kept})
        part.version = version.id
        part.announced = frozenset({version.dense, *(name for name in part.announced if name > version.dense)})
        part.since = {state: keys for state, keys in part.since.items() if state[1] >= version.state[1]}
        part.interval = {state: found for state, found in part.interval.items() if state[1] > version.state[1]}

    @action(
        lambda w: w.places(
            lambda part, version, known, p: (
                version and not version.dead and not known.frozen and part.offset < version.positions[p].offset
            )
        )
    )
    def jump(self, n: int, p: str) -> None:
        """A replica that lags takes the delta and seeks to its positions."""
        replica = self.replicas[n]
        part = replica.parts[p]
        if version := self.next_version(part, replica.known):
            replica.parts[p] = replace(self.load(p, version), rows=overlay(part.rows, within(version.rows, p)))
            self.check_adopted(n, p, version)

    @action(
        lambda w: [
            (n, p, state) for n, replica in enumerate(w.replicas) for p, part in replica.parts.items() for state in part.interval
        ]
    )
    def forget(self, n: int, p: str, state: State) -> None:
        """Outstanding markers are bounded."""
        part = self.replicas[n].parts[p]
        del part.interval[state], part.since[state]

    @action(lambda w: [(n,) for n in range(len(w.replicas))])
    def restart(self, n: int) -> None:
        """A replica crashes, or a crashed one starts anew."""
        self.replicas[n] = replace(self.replicas[n], alive=False) if self.replicas[n].alive else self.newcomer()

    # ---- what must hold ----------------------------------------------------------------------------------------------

    def served_dense(self, replica: Replica) -> DenseName:
        """The newest that has passed in every partition; while they are at different versions, the one before."""
        announced = [part.announced for part in replica.parts.values()]
        if not self.rule("dense-in-all"):
            return max(frozenset[DenseName]().union(*announced))
        return newest_in_all(announced) or replica.dense

    def check(self, n: int) -> None:
        replica = self.replicas[n]
        replica.dense = self.served_dense(replica)
        for part in replica.parts.values():
            for key, row in part.rows.items():
                if self.poisoned(row, part.timeline, key):
                    raise ViolationError(f"poison: {key} is served on timeline {part.timeline} and learned {row.learned}")
        if self.poisoned(self.denses[replica.dense], min(part.timeline for part in replica.parts.values())):
            raise ViolationError(f"poison: {replica.dense} is served")

    def check_adopted(self, n: int, p: str, version: Version) -> None:
        """Digests: what was not written since the marker is what the state says."""
        part = self.replicas[n].parts[p]
        for key in self.keys:
            if key[0] == p and key not in part.since[version.state] and part.rows.get(key) != version.table.get(key):
                raise ViolationError(f"table digest: {key} after version {version.id}, {version.kind} {version.state}")
        self.check(n)
