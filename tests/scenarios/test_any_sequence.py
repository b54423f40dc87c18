"""Whatever is done in whatever order, every replica ends with the digest of a model of a few lines.

The system is the real one, on a store and a log in memory: publishers, catalog, slicer, replicas, rollback. Only threads and the
clock are left out: replicas are stepped one partition and a few records at a time.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock.pipeline.catalog.catalog import Actor, Catalog
from penstock.pipeline.config import parse_config
from penstock.pipeline.core.errors import Fenced, NotResumable
from penstock.pipeline.core.hashing import add_puts, buckets_of, digest_text, partitions_of
from penstock.pipeline.core.history import Entry
from penstock.pipeline.core.ids import Partition, Position, Positions, PublisherId, State
from penstock.pipeline.core.records import decode_record
from penstock.pipeline.environment import Environment
from penstock.pipeline.ports.memory_log import MemoryLog
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.publishers.compaction import compact
from penstock.publishers.delta import publish_delta
from penstock.publishers.export import sidecar_of_version
from penstock.publishers.folding import publish_delta_from_log
from penstock.publishers.resuming import resume
from penstock.publishers.settings import RealtimeSettings
from penstock.publishers.snapshot import publish_snapshot
from penstock.publishers.sources import array_source
from penstock.publishers.updates import Updates
from penstock.rollback.execution import execute
from penstock.rollback.freezing import freeze, thaw
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event
from penstock.serving.replica import Replica
from penstock.slicer.dense import read_dense

BUCKETS, PARTITIONS, DIM = 8, 3, 2
TABLES = ("a", "b")
KEYS = list(range(12))
NOW = 1_000_000_000_000
CONFIG = parse_config(
    """
    [store]
    url = "file:///unused"
    [log]
    url = "file:///unused"
    [models.m]
    buckets = 8
    [realtime]
    linger_ms = 0
    [replica]
    markers = 3
    """,
    "test",
)


def partition_of(key):
    bucket = buckets_of(np.array([key]), BUCKETS)
    return int(partitions_of(bucket, bucket_count=BUCKETS, partition_count=PARTITIONS)[0])


class Model:
    """What replicas must serve: per partition every write that counts, in order, with what its writer had learned from."""

    def __init__(self):
        self.live = [[] for _ in range(PARTITIONS)]  # (through, table, key, row or None); key None: a record without rows

    def write(self, through, table, key, row):
        self.live[partition_of(key)].append((through, table, key, row))

    def everywhere(self, through):
        for entries in self.live:
            entries.append((through, None, None, None))

    def marks(self):
        return [len(entries) for entries in self.live]

    def correct(self, marks, through, rows):
        """What a delta sets right counts as written at its marker."""
        for (table, key), row in rows.items():
            self.live[partition_of(key)].insert(marks[partition_of(key)], (through, table, key, row))

    def before(self, target):
        """Takes back everything from the first record on that had learned from the target."""
        for entries in self.live:
            cut = next((at for at, entry in enumerate(entries) if entry[0] >= target), len(entries))
            del entries[cut:]

    def state(self, marks=None):
        found = {}
        for p, entries in enumerate(self.live):
            for _, table, key, row in entries[: None if marks is None else marks[p]]:
                if key is not None:
                    found[table, key] = row
        return {at: row for at, row in found.items() if row is not None}


def digest_of(rows):
    tables = {table: np.zeros(BUCKETS, np.uint64) for table in TABLES}
    for (table, key), row in rows.items():
        add_puts(tables[table], np.array([key]), np.array([row], np.float32).view(np.uint8))
    return tables


class World(RuleBasedStateMachine):
    @initialize()
    def born(self):
        self.store, self.log = MemoryStore(), MemoryLog(PARTITIONS, clock=lambda: NOW)
        ends = Positions(self.log.identity, tuple(Position(0, {}) for _ in range(PARTITIONS)))
        catalog = Catalog.create(self.store, "m", buckets=BUCKETS, positions=ends, actor=Actor(who="t", now=NOW))
        self.env = Environment(config=CONFIG, catalog=catalog, log=self.log, clock=lambda: NOW, who="test")
        self.settings = RealtimeSettings.of(CONFIG.realtime)
        self.model, self.through, self.serial = Model(), 1, 0
        self.rows = {}  # what the trainer has
        self.checkpoints = []  # (sidecar, rows, through, marks in the model, published)
        self.updates = None
        self.frozen = False
        self.open(None)
        for table in TABLES:
            self.put(table, [1], delete=False)
        self.checkpoint()
        self.commit("snapshot")
        self.replicas = [Replica(self.env, name=f"r{n}") for n in range(2)]

    def teardown(self):
        if getattr(self, "updates", None) is not None:
            self.updates.close()

    # ---- the trainer ---------------------------------------------------------------------------------------------------

    def open(self, state):
        resumed = resume(self.env, PublisherId("trainer"), state, self.settings)
        if self.updates is not None:
            self.updates.close()
        self.updates = Updates(self.env, resumed, self.settings)
        self.model.everywhere(self.through)

    @rule(
        table=st.sampled_from(TABLES),
        keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=4, unique=True),
        delete=st.booleans(),
    )
    def put(self, table, keys, delete):
        if self.updates is None:
            return
        self.serial += 1
        rows = np.array([[self.through, self.serial + key / 100] for key in keys], np.float32)
        if delete:
            self.updates.delete(table, np.array(keys), trained_through=self.through)
        else:
            self.updates.put(table, np.array(keys), rows, trained_through=self.through)
        self.updates.flush()
        for key, row in zip(keys, rows, strict=True):
            new = None if delete else tuple(map(float, row))
            self.model.write(self.through, table, key, new)
            self.rows.pop((table, key), None)
            if new is not None:
                self.rows[table, key] = new

    @rule()
    def train(self):
        self.through += 1

    @rule()
    def announce(self):
        """A dense slice between deltas; it counts in every partition, as any record does."""
        self.serial += 1
        self.updates.put_dense({"w": np.array([self.serial, self.through], np.float32)}, trained_through=self.through)
        self.updates.flush()
        self.model.everywhere(self.through)

    @rule()
    def checkpoint(self):
        sidecar = self.updates.mark()
        marks = self.model.marks()
        self.model.everywhere(self.updates.trained_through)
        self.checkpoints.append([sidecar, dict(self.rows), int(self.updates.trained_through), marks, None])

    @precondition(lambda self: any(c[4] is None for c in self.checkpoints))
    @rule(kind=st.sampled_from(["delta", "delta", "delta", "log", "snapshot"]))
    def commit(self, kind):
        """Publishes the newest checkpoint."""
        sidecar, rows, through, marks, published = self.checkpoints[-1]
        newest = self.env.catalog.history().newest.state
        if published is not None or State.parse(sidecar.state).marker <= newest.marker:
            return  # resumed from: a newer one was published before the crash
        if kind == "log":
            if any(c[4] is None and self.unsent(c[0]) for c in self.checkpoints):
                return
            manifest = publish_delta_from_log(self.env)
        else:
            tables = {}
            for table in TABLES:
                keys = [key for name, key in rows if name == table]
                values = [rows[table, key] for key in keys]
                tables[table] = (np.array(keys, np.int64), np.array(values, np.float32).reshape(-1, DIM))
            source = array_source(tables, {}, CONFIG.models["m"])
            manifest = (publish_delta if kind == "delta" else publish_snapshot)(self.env, source, sidecar=sidecar)
        served = self.model.state(marks)
        wrong = {at: rows.get(at) for at in served.keys() | rows.keys() if served.get(at) != rows.get(at)}
        self.model.correct(marks, through, wrong)
        for p, entries in enumerate(self.model.live):  # later marks move with what was inserted before them
            more = sum(partition_of(key) == p for _, key in wrong)
            for other in self.checkpoints:
                if other[3][p] > marks[p]:
                    other[3][p] += more
            assert len(entries) >= marks[p]
        self.checkpoints[-1][4] = manifest.state

    def unsent(self, sidecar):
        from penstock.pipeline.catalog.checkpoints import marked_checkpoint

        found = marked_checkpoint(self.env.catalog, State.parse(sidecar.state))
        return any(t.unsent or t.whole for t in found.touched.values())

    @precondition(lambda self: self.checkpoints)
    @rule(back=st.integers(0, 2))
    def crash_and_resume(self, back):
        """From one of the last checkpoints; what was written past it stays served until the next delta."""
        at = max(0, len(self.checkpoints) - 1 - back)
        sidecar, rows, through, _, _ = self.checkpoints[at]
        try:
            was, self.through = self.through, max(through, 1)
            self.open(State.parse(sidecar.state))
        except NotResumable:
            self.through = was
            return
        del self.checkpoints[at + 1 :]
        self.rows = dict(rows)

    # ---- operators -----------------------------------------------------------------------------------------------------

    @rule(back=st.integers(0, 4))
    def roll_back(self, back):
        target = max(1, self.through - back)
        plan = plan_rollback(self.env, before_event(target))
        if plan.base == 0:
            return  # nothing that was published lies before it
        manifest = execute(self.env, plan, why="poison")
        self.frozen = False
        self.after_rollback(manifest, target)

    def after_rollback(self, manifest, target):
        with pytest.raises(Fenced):
            self.updates.flush()
        self.model.before(target)
        self.rows = self.model.state()
        self.through = max(1, int(manifest.trained_through))
        self.model.everywhere(-1)  # the fence
        assert all(row[0] < target for row in self.rows.values())
        sidecar = sidecar_of_version(self.env, manifest)
        self.checkpoints = [[sidecar, dict(self.rows), self.through, self.model.marks(), manifest.state]]
        self.open(State.parse(sidecar.state))

    @rule()
    def dense_after_rollback(self):
        """A newcomer at a version of a rollback serves no dense weights that learned from what it took back."""
        newest = self.env.catalog.history().newest
        if newest.rollback is not None and newest.dense is not None:
            learned = read_dense(self.store, newest.dense)["w"][1]
            assert learned < newest.rollback.target.time

    @rule()
    def stop_or_go(self):
        (thaw if self.frozen else freeze)(self.env, "live", why="look")
        self.frozen = not self.frozen

    @rule()
    def compaction(self):
        compact(self.env)

    # ---- the world -----------------------------------------------------------------------------------------------------

    @rule(p=st.integers(0, PARTITIONS - 1), back=st.integers(1, 5))
    def duplicate(self, p, back):
        """An old record comes again: retried by a broker, or by a zombie."""
        end = self.log.end(Partition(p))
        if end:
            entry = self.log.poll({Partition(p): max(0, end - back)}, timeout_s=0)[p][0]
            self.log.append(Partition(p), bytes(entry.payload))
            record = self.decode(p, entry).record
            if record.timeline == self.env.catalog.refs().timeline:
                self.model.live[p].append((record.trained_through, None, None, None))

    def decode(self, p, entry):
        schema = self.env.catalog.schema()
        return Entry(
            entry.offset, decode_record(entry.payload, model_id=schema.raw_id, partition=p, name="log"), entry.appended_at
        )

    @rule(n=st.integers(0, 1), p=st.integers(0, PARTITIONS - 1), count=st.integers(1, 4))
    def poll(self, n, p, count):
        replica = self.replicas[n]
        state = replica.follower.partitions[Partition(p)]
        if replica.follower.may_poll(state):
            entries = self.log.poll({Partition(p): state.reads_from}, timeout_s=0).get(p, [])[:count]
            if entries:
                replica._step(Partition(p), entries)

    @rule(n=st.integers(0, 1))
    def learn(self, n):
        self.replicas[n].refresh()

    @rule(n=st.integers(0, 1), p=st.integers(0, PARTITIONS - 1))
    def adopt(self, n, p):
        if self.replicas[n].adoption.adopt_next(Partition(p)):
            self.replicas[n]._record(self.replicas[n].follower.partitions[Partition(p)])

    @rule(n=st.integers(0, 1))
    def restart(self, n):
        self.replicas[n] = Replica(self.env, name=f"r{n}")

    @precondition(lambda self: not self.frozen)
    @rule()
    def rest(self):
        """All catch up; they, and a newcomer, hold what the model says, bit by bit."""
        expected = self.model.state()
        digests, dense = digest_of(expected), set()
        for replica in (*self.replicas, Replica(self.env, name="newcomer")):
            replica.refresh()
            for _ in range(30):
                replica.step(0.0)
            assert {s.version for s in replica.follower.partitions.values()} == {self.env.catalog.refs().trunk}
            assert all(s.offset == self.log.end(p) for p, s in replica.follower.partitions.items())
            for table in TABLES:
                found = replica.follower.tables[table]
                assert (found.digests == digests[table]).all(), (table, self.served(replica), expected)
            assert self.served(replica) == expected
            counters = [s.counters for s in replica.follower.partitions.values()]
            assert not any(c.disagreed for c in counters)
            assert replica.confirmed.digest == self.digest_at_adoption(replica)
            dense.add(self.dense_of(replica))
        assert len(dense) == 1

    def dense_of(self, replica):
        return None if replica.dense is None else tuple(replica.dense.tensors["w"].tolist())

    def digest_at_adoption(self, replica):
        manifest = replica.confirmed.manifest
        return digest_text(replica.confirmed.digests, () if manifest.dense is None else (manifest.dense.digest,))

    def served(self, replica):
        found = {}
        for table in TABLES:
            answer = replica.lookup(table, np.array(KEYS))
            found |= {
                (table, key): tuple(map(float, row))
                for key, row, there in zip(KEYS, answer.rows, answer.found, strict=True)
                if there
            }
        return found

    @invariant()
    def nothing_learned_too_much(self):
        """No row is served on a timeline that has learned from what a rollback to it took back."""
        if not hasattr(self, "replicas"):
            return
        rollbacks = [m for m in self.env.catalog.history().trunk if m.rollback is not None]
        for replica in self.replicas:
            for (_, key), row in self.served(replica).items():
                state = replica.follower.partitions[Partition(partition_of(key))]
                for manifest in rollbacks:
                    if manifest.timeline == state.timeline:
                        begun = state.offset <= manifest.rollback.fence[state.partition] + 1
                        assert not begun or row[0] < manifest.rollback.target.time, (key, row)


World.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
TestAnySequence = World.TestCase
