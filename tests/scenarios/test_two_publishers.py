"""Two publishers with watermarks of their own, dense weights that they share, late events, crashes, and a rollback.

A row carries what its trainer's state had truly learned from, which may be more than its publisher claims. The protocol does
not read that; the test does.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from penstock.pipeline.catalog.catalog import Actor, Catalog
from penstock.pipeline.config import parse_config
from penstock.pipeline.core.errors import Fenced, NotResumable
from penstock.pipeline.core.ids import Partition, Position, Positions, PublisherId, State
from penstock.pipeline.environment import Environment
from penstock.pipeline.ports.memory_log import MemoryLog
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.publishers.delta import publish_delta
from penstock.publishers.resuming import resume
from penstock.publishers.settings import RealtimeSettings
from penstock.publishers.snapshot import publish_snapshot
from penstock.publishers.sources import array_source
from penstock.publishers.updates import Updates
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event
from penstock.serving.replica import Replica

PARTITIONS, NOW = 2, 1_000_000_000_000
CONFIG = parse_config(
    """
    [store]
    url = "file:///unused"
    [log]
    url = "file:///unused"
    [models.m]
    buckets = 4
    [realtime]
    linger_ms = 0
    reserve_ahead = "3us"
    """,
    "test",
)
SETTINGS = RealtimeSettings.of(CONFIG.realtime)
NAMES = ("trainer-0", "trainer-1")


class Trainer:
    def __init__(self, env, number, state, rows, learned, through):
        self.number, self.rows, self.learned, self.through = number, dict(rows), learned, through
        self.updates = Updates(env, resume(env, PublisherId(NAMES[number]), state, SETTINGS), SETTINGS)

    def learn(self, event):
        """Never beyond what is reserved in every partition: `advance` waits for that."""
        self.through = max(self.through, event)
        self.updates.advance(self.through)
        self.learned = max(self.learned, event)

    def write(self, key, serial, *, delete):
        """The event behind it may be late; what was learned is what counts."""
        if delete:
            self.updates.delete("t", [key], trained_through=self.through)
            self.rows.pop(key, None)
        else:
            row = (float(self.learned), float(serial))
            self.updates.put("t", [key], np.array([row], np.float32), trained_through=self.through)
            self.rows[key] = row
        self.updates.flush()


class Story:
    def __init__(self, seed):
        self.chance = random.Random(seed)
        log = MemoryLog(PARTITIONS, clock=lambda: NOW)
        start = Positions(log.identity, tuple(Position(0, {}) for _ in range(PARTITIONS)))
        catalog = Catalog.create(MemoryStore(), "m", buckets=4, positions=start, actor=Actor(who="t", now=NOW))
        self.env = Environment(config=CONFIG, catalog=catalog, log=log, clock=lambda: NOW, who="test")
        self.trainers = [Trainer(self.env, n, None, {}, 1, 1) for n in range(2)]
        self.serial, self.checkpoints = 0, []
        for trainer in self.trainers:
            trainer.write(trainer.number, -1, delete=False)
        self.checkpoint()
        publish_snapshot(self.env, self.source(self.checkpoints[-1][1]), sidecar=self.checkpoints[-1][0])
        self.replicas = [Replica(self.env, name=f"r{n}") for n in range(2)]

    def close(self):
        for trainer in self.trainers:
            trainer.updates.close()

    def source(self, rows):
        keys = np.array(sorted(rows), np.int64)
        return array_source(
            {"t": (keys, np.array([rows[k] for k in keys.tolist()], np.float32).reshape(-1, 2))}, {}, CONFIG.models["m"]
        )

    def all_rows(self):
        return {key: row for trainer in self.trainers for key, row in trainer.rows.items()}

    def checkpoint(self):
        first, second = self.trainers
        receipt = second.updates.hold()
        sidecar = first.updates.mark(others=[receipt])
        second.updates.release(sidecar)
        self.checkpoints.append((sidecar, self.all_rows(), [(t.learned, t.through) for t in self.trainers]))

    def step(self):
        trainer = self.chance.choice(self.trainers)
        what = self.chance.choices(["learn", "write", "share", "checkpoint", "delta", "crash", "poll"], [4, 8, 2, 1, 1, 0.5, 4])[
            0
        ]
        if what == "learn":
            trainer.learn(trainer.through + self.chance.choice([1, 1, 2]))
        elif what == "write":
            self.serial += 1
            trainer.write(2 * self.chance.randrange(4) + trainer.number, self.serial, delete=self.chance.random() < 0.3)
        elif what == "share":
            # Shared dense weights: this trainer's rows learn from the other's data without its knowledge.
            trainer.learned = max(t.learned for t in self.trainers)
        elif what == "checkpoint":
            self.checkpoint()
        elif what == "delta":
            self.delta()
        elif what == "crash":
            self.crash(trainer.number)
        else:
            replica = self.chance.choice(self.replicas)
            replica.refresh()
            replica.step(0.0)

    def delta(self):
        sidecar, rows, _ = self.checkpoints[-1]
        if State.parse(sidecar.state).marker > self.env.catalog.history().newest.state.marker:
            publish_delta(self.env, self.source(rows), sidecar=sidecar)

    def crash(self, number):
        """Its zombie's records are in the log already; the others go on."""
        sidecar, rows, learned = self.checkpoints[-1]
        self.trainers[number].updates.close()
        own = {key: row for key, row in rows.items() if key % 2 == number}
        self.trainers[number] = Trainer(self.env, number, State.parse(sidecar.state), own, *learned[number])

    def roll_back(self):
        target = max(2, max(t.through for t in self.trainers) - self.chance.randrange(5))
        plan = plan_rollback(self.env, before_event(target))
        if plan.base == 0:
            return
        manifest = execute(self.env, plan, why="poison")
        for trainer in self.trainers:
            with pytest.raises(Fenced):
                trainer.updates.flush()
            trainer.updates.close()
        served = self.rest()
        assert all(row[0] < target for row in served.values()), (target, served)
        through = max(1, int(manifest.trained_through))
        self.trainers = [
            Trainer(self.env, n, manifest.state, {k: r for k, r in served.items() if k % 2 == n}, through, through)
            for n in range(2)
        ]
        self.checkpoints = []
        self.checkpoint()

    def rest(self):
        """Those that lived through it and a newcomer hold the same; returns it."""
        tables = []
        for replica in (*self.replicas, Replica(self.env, name="newcomer")):
            replica.refresh()
            for _ in range(10):
                replica.step(0.0)
            assert all(s.offset == self.env.log.end(Partition(p)) for p, s in replica.follower.partitions.items())
            keys = np.arange(8)
            answer = replica.lookup("t", keys)
            tables.append({int(k): tuple(map(float, r)) for k, r, f in zip(keys, answer.rows, answer.found, strict=True) if f})
            tables.append(replica.follower.tables["t"].digests.tolist())
        assert tables[0] == tables[2] == tables[4]
        assert tables[1] == tables[3] == tables[5]
        return tables[0]


@pytest.mark.parametrize("seed", range(60))
def test_no_row_has_learned_from_the_poison_and_nothing_is_lost(seed):
    story = Story(seed)
    try:
        for _ in range(3):
            for _ in range(story.chance.randrange(5, 40)):
                story.step()
            story.rest()
            story.roll_back()
        for _ in range(20):
            story.step()
        story.checkpoint()
        story.delta()
        assert story.rest() == story.all_rows()
    finally:
        story.close()


def test_a_poisoned_checkpoint_cannot_walk_back_in():
    story = Story(0)
    try:
        for trainer in story.trainers:
            trainer.learn(5)
            trainer.write(trainer.number, 7, delete=False)
        story.checkpoint()
        poisoned = State.parse(story.checkpoints[-1][0].state)
        execute(story.env, plan_rollback(story.env, before_event(4)), why="poison")
        with pytest.raises(NotResumable, match=r"2-\d+"):
            resume(story.env, PublisherId("trainer-0"), poisoned, SETTINGS)
    finally:
        story.close()
