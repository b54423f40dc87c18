"""Publishers: rows, reservations and announcements into the log, terms, crashes, zombies, and how one resumes."""

from __future__ import annotations

from .ground import Arguments, Ground, action
from .values import DENSE, PARTITIONS, Checkpoint, DenseName, Publisher, Record, Row, State, Who, overlay

OUTCOMES = (*["acknowledged"] * 4, "shed", "unknown", "in flight")


class Publishing(Ground):
    def publisher(self, who: Who) -> Publisher:
        return (self.zombies if who[0] == "zombie" else self.publishers)[who[1]]

    def held(self, publisher: Publisher) -> bool:
        """At the barrier of a checkpoint."""
        cutting = self.cutting if self.rule("cut-barrier") else None
        return cutting is not None and any(publisher is other for other in cutting.publishers)

    def writers(self) -> list[Who]:
        whos: list[Who] = [("live", i) for i, p in self.publishers.items() if p.ready]
        whos += [("zombie", i) for i in self.zombies]
        return [who for who in whos if not self.held(self.publisher(who))]

    def owned(self, i: int) -> list[str]:
        return [key for key in self.keys if int(key[1]) % len(self.terms) == i]

    # ---- what goes into the log --------------------------------------------------------------------------------------

    def append(self, publisher: Publisher, p: str, record: Record, about: str, outcome: str) -> None:
        if outcome == "in flight":
            self.in_flight.append((p, record))
        else:
            self.log[p].append(record)
        if outcome != "acknowledged":
            publisher.unacknowledged.add(about)
            self.lossless = False
        else:
            publisher.unsent.discard(about)

    def send(self, publisher: Publisher, key: str, outcome: str = "acknowledged") -> None:
        record = publisher.record(key[0], "row")._replace(key=key, row=publisher.rows.get(key))
        self.append(publisher, key[0], record, key, outcome)

    @action(
        lambda w: [
            (who, key, op, outcome)
            for who in w.writers()
            for key in w.owned(who[1])
            for op in ("put", "put", "delete")
            for outcome in OUTCOMES
        ]
    )
    def write(self, who: Who, key: str, op: str, outcome: str) -> None:
        publisher = self.publisher(who)
        self.serial += 1
        row = Row(self.serial, tuple(sorted(publisher.learned.items())), publisher.timeline) if op == "put" else None
        publisher.rows = overlay(publisher.rows, {key: row})
        publisher.touched.add(key)  # a shed row is in the next delta, as every touched one is
        if outcome == "shed":
            publisher.unsent.add(key)
            self.lossless = False
        else:
            self.send(publisher, key, outcome)

    def new_dense(self, publisher: Publisher) -> DenseName:
        """The dense slice as it is now, as an object in the store."""
        self.serial, publisher.denses = self.serial + 1, publisher.denses + 1
        name = DenseName(publisher.timeline, publisher.term, publisher.denses)
        self.denses[name] = Row(self.serial, tuple(sorted(publisher.learned.items())), publisher.timeline)
        return name

    def announceable(self) -> list[Arguments]:
        """The dense slice has one owner, as a key has."""
        whos = [who for who in self.writers() if who[1] == 0]
        return [
            (who, p, outcome)
            for who in whos
            for p in PARTITIONS
            if not self.publisher(who).announcing or p not in self.publisher(who).announced
            for outcome in OUTCOMES
        ]

    @action(announceable)
    def announce(self, who: Who, p: str, outcome: str) -> None:
        """A dense update goes out by its name, in one partition after the other; shed, it is given up."""
        publisher = self.publisher(who)
        if not publisher.announcing:
            publisher.announcing, publisher.announced = self.new_dense(publisher), set()
        if outcome == "shed":
            publisher.announcing = None
            return
        publisher.announced.add(p)
        record = publisher.record(p, "dense")._replace(dense=publisher.announcing)
        self.append(publisher, p, record, DENSE, outcome)
        if publisher.announced == set(PARTITIONS):
            publisher.announcing = None

    @action(lambda w: [(who, p) for who in w.writers() for p in PARTITIONS])
    def reserve(self, who: Who, p: str) -> None:
        publisher = self.publisher(who)
        publisher.reserved[p] = publisher.through + 2
        self.log[p].append(publisher.record(p, "beat", publisher.reserved[p]))

    @action(
        lambda w: [
            (who,)
            for who in w.writers()
            if len(w.terms) == 1
            or not w.rule("reserve-ahead")
            or min(w.publisher(who).reserved.values()) > w.publisher(who).through
        ]
    )
    def train(self, who: Who) -> None:
        publisher = self.publisher(who)
        publisher.through += 1
        publisher.learned[publisher.timeline] = max(publisher.through, publisher.learned.get(publisher.timeline, 0))

    @action(
        lambda w: [
            (who, other)
            for who in w.writers()
            for other in w.writers()
            if who[0] == "live" and who[1] != other[1] and w.publisher(who).timeline == w.publisher(other).timeline
        ]
    )
    def share(self, who: Who, other: Who) -> None:
        """Dense weights are shared: one publisher's rows learn from another's data without its knowledge."""
        mine, others = self.publisher(who).learned, self.publisher(other).learned
        mine.update({timeline: max(event, mine.get(timeline, 0)) for timeline, event in others.items()})

    @action(lambda w: [(who[1],) for who in w.writers() if who[0] == "live" and w.publisher(who).unacknowledged])
    def resend(self, i: int) -> None:
        """After unknown outcomes: a new term (a zombie's swap would fail), then the current row of every such key."""
        publisher = self.publishers[i]
        publisher.term = self.terms[i] = self.terms[i] + 1
        publisher.denses, publisher.announcing = 0, None
        for p in PARTITIONS:
            self.log[p].append(publisher.record(p, "open"))
        for key in sorted(publisher.unacknowledged - {DENSE}):
            self.send(publisher, key)
        if DENSE in publisher.unacknowledged:
            for p in PARTITIONS:
                self.announce(("live", i), p, "acknowledged")
        publisher.unacknowledged = set()

    # ---- what the world does to them ---------------------------------------------------------------------------------

    @action(lambda w: [(n,) for n in range(len(w.in_flight))])
    def land(self, n: int) -> None:
        p, record = self.in_flight.pop(n)
        self.log[p].append(record)

    @action(
        lambda w: [
            (p, offset)
            for p in PARTITIONS
            for offset in range(max(0, len(w.log[p]) - 6), len(w.log[p]))
            if w.log[p][offset].kind not in ("fence", "beat")
        ]
    )
    def duplicate(self, p: str, offset: int) -> None:
        self.log[p].append(self.log[p][offset])

    @action(lambda w: [(i,) for i, p in w.publishers.items() if p.ready])
    def crash(self, i: int) -> None:
        self.publishers[i].ready, self.publishers[i].origin = False, None
        if self.cutting and any(self.publishers[i] is member for member in self.cutting.publishers):
            self.cutting = None

    # ---- resume ------------------------------------------------------------------------------------------------------

    def resumable(self) -> list[State]:
        """Checkpoints before every later cut."""
        dead = self.rollbacks() if self.rule("resume-before-cuts") else []
        return [
            state
            for state, c in self.checkpoints.items()
            if state[0] not in self.ref.abandoned
            and all(c.positions[p].offset <= d.cut[p] for v, d in dead if v.timeline > state[0] for p in PARTITIONS)
        ]

    def exported(self) -> list[int]:
        """Versions whose state a trainer may be given to go on from."""
        return [v.id for v in (self.lineage(self.ref.version) if self.rule("resume-before-cuts") else self.versions)]

    def origin(self, name: State | int) -> Checkpoint:
        """A checkpoint by its state, or a version's state as a checkpoint: all of it is delivered, so nothing is touched."""
        if isinstance(name, tuple):
            return self.checkpoints[name]
        v, none = self.versions[name], frozenset[str]()
        learned = {i: self.learned_in(v) for i in self.terms}
        return Checkpoint(v.state, v.table, v.through, v.positions, v.dense, none, none, learned)

    def resume_possible(self) -> list[Arguments]:
        origins = [*self.resumable()[-3:], *self.exported()[-2:]]
        steps: list[Arguments] = []
        for i, publisher in self.publishers.items():
            steps += [("begin", i, origin, mode) for origin in origins for mode in ("keep", "undo")]
            if publisher.origin and not publisher.ready:
                left = [p for p in PARTITIONS if p not in publisher.opened]
                steps += ([("open", i, p, "") for p in left] or [("finish", i, "", "")]) * 16
        return steps

    @action(resume_possible)
    def resume(self, step: str, i: int, argument: State | int | str, on_restart: str) -> None:
        """A new incarnation from a state; the old one, if it still runs, is a zombie from now on."""
        if not isinstance(argument, str):
            previous = self.publishers.get(i)
            if previous and previous.ready:
                self.zombies[i] = previous
            self.begin(i, self.origin(argument), on_restart)
        elif step == "open":
            publisher = self.publishers[i]
            publisher.opened[argument] = len(self.log[argument])
            if self.rule("open-then-scan"):
                self.log[argument].append(publisher.record(argument, "open"))
        else:
            publisher = self.publishers[i]
            self.terms[i] = max(self.terms[i], publisher.term)
            publisher.ready, publisher.touched = True, self.dirty(publisher) & set(self.owned(i))
            publisher.unsent = set(publisher.touched) if self.rule("dirty-is-unsent") else set()
            for key in sorted(publisher.touched if publisher.on_restart == "undo" else ()):
                self.send(publisher, key)

    def begin(self, i: int, c: Checkpoint, on_restart: str) -> None:
        """The term by compare-and-swap, the timeline as the ref says now."""
        term = self.terms[i] + 1
        if self.rule("term-before-open"):
            self.terms[i] = term
        rows = {key: row for key, row in c.rows.items() if key in self.owned(i)}
        self.publishers[i] = Publisher(i, term, self.live.timeline, rows, dict(c.learned[i]), c.through, c, on_restart)
        self.lossless = self.lossless and term == 1

    def dirty(self, publisher: Publisher) -> set[str]:
        """Keys whose served row may not be that of the state which the publisher resumes from."""
        c, lineage = publisher.origin, self.lineage(self.ref.version)
        keys: set[str] = set()
        if not c:
            return keys
        published = {v.state for v in self.versions}
        for other in [self.cutting, *self.checkpoints.values()] if self.rule("resume-expires") else ():
            if other and other.state[1] > c.state[1] and other.state not in published:
                other.expired = True  # by a swap of its intent
        if self.rule("dirty-on-resume"):
            for p in PARTITIONS:
                path = self.path(p, c.positions[p].offset, c.state[0], publisher.opened[p])
                keys |= {record.key for _, record in path if record.kind == "row"}
        if self.rule("dirty-from-versions"):
            keys |= {key for v in lineage if v.state[1] > c.state[1] for key in v.rows}
        if self.rule("dirty-before-checkpoint"):
            below = max(v.state[1] for v in lineage if v.state[1] <= c.state[1])
            keys |= {key for d in self.checkpoints.values() if below < d.state[1] <= c.state[1] for key in d.touched}
        return keys

    def resume_at_once(self, i: int, name: State | int) -> None:
        self.resume("begin", i, name, "keep")
        for p in PARTITIONS:
            self.resume("open", i, p, "")
        self.resume("finish", i, "", "")
