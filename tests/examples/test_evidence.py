from dataclasses import dataclass, replace

import numpy as np
import pytest
from trainer_world import World, claim, fence, roll_back, rows_of

from penstock.examples.retail.evidence import Remembered, digest_of, send_again
from penstock.examples.retail.story import story_stream
from penstock.examples.retail.stream import read_purchases
from penstock.examples.retail.trainer import OnlineTrainer, TableState, fresh_state
from penstock.pipeline.core.errors import PenstockError
from penstock.slicer.dense import dense_digest

BUCKETS = 16
DENSE = {"dense/w": np.ones(3, np.float32)}


@dataclass
class Rows:
    rows: int


@dataclass
class Status:
    tables: dict


class Replica:
    """Serves what it is given; its own client."""

    name = "replica-0"

    def __init__(self, tables, dense):
        self.tables, self.digest, self.client = {n: dict(zip(*t, strict=True)) for n, t in tables.items()}, dense, self

    def status(self):
        return Status({name: Rows(len(rows)) for name, rows in self.tables.items()})

    def lookup(self, table, keys):
        found = np.array([key in self.tables[table] for key in keys.tolist()])
        rows = [self.tables[table].get(key, np.zeros(16, np.float32)) for key in keys.tolist()]
        return np.array(rows, np.float32).reshape(-1, 16), found

    def dense(self):
        return self.digest, {}


@pytest.fixture
def remembered():
    generator = np.random.default_rng(3)
    state = fresh_state(seed=1)
    keys = np.unique(generator.integers(-(2**62), 2**62, 50))
    tables = {name: TableState(keys, generator.random((keys.size, 16), np.float32), None) for name in state.tables}
    return Remembered(replace(state, tables=tables), DENSE)


def tables_of(remembered):
    return {name: (table.keys.tolist(), table.rows) for name, table in remembered.state.tables.items()}


def test_who_serves_the_same_has_the_same_digest_in_any_order(remembered):
    served = {name: (keys[::-1], rows[::-1]) for name, (keys, rows) in tables_of(remembered).items()}
    digest = remembered.digest(BUCKETS)
    assert remembered.served_digest(Replica(served, dense_digest(DENSE)), BUCKETS) == digest
    backwards = {name: (np.array(keys), rows) for name, (keys, rows) in served.items()}
    assert digest_of(backwards, dense_digest(DENSE), buckets=BUCKETS) == digest


def test_one_bit_makes_another_digest(remembered):
    tables = {name: (keys, rows.copy()) for name, (keys, rows) in tables_of(remembered).items()}
    tables["hour"][1].view(np.uint32)[7, 3] ^= 1
    digest = remembered.digest(BUCKETS)
    assert remembered.served_digest(Replica(tables, dense_digest(DENSE)), BUCKETS) != digest
    other = dense_digest({"dense/w": np.zeros(3, np.float32)})
    assert remembered.served_digest(Replica(tables_of(remembered), other), BUCKETS) != digest


def test_a_row_too_many_or_too_few_is_told(remembered):
    tables = tables_of(remembered)
    keys, rows = tables["product"]
    fewer = tables | {"product": (keys[1:], rows[1:])}
    with pytest.raises(PenstockError, match=f"product has {len(keys) - 1} rows and lacks 1 of the {len(keys)}"):
        remembered.served_digest(Replica(fewer, dense_digest(DENSE)), BUCKETS)
    more = tables | {"product": ([5, *keys], np.concatenate([rows[:1], rows]))}
    with pytest.raises(PenstockError, match=f"product has {len(keys) + 1} rows and lacks 0"):
        remembered.served_digest(Replica(more, dense_digest(DENSE)), BUCKETS)


def test_what_is_remembered_is_a_copy_that_training_does_not_change():
    stream = story_stream(read_purchases())
    trainer = OnlineTrainer(fresh_state(seed=1))
    trainer.learn(stream.batch(0))
    kept = Remembered(trainer.state(), trainer.dense)
    before = kept.digest(BUCKETS)
    trainer.learn(stream.batch(0))
    assert kept.digest(BUCKETS) == before
    assert Remembered(trainer.state(), trainer.dense).digest(BUCKETS) != before


@pytest.fixture
def world():
    world = World()
    yield world
    world.close()


def test_late_messages_are_the_very_records_that_were_taken_back(world):
    world.born("a")
    updates = world.open()
    for turn in range(4):
        updates.put("a", np.arange(20), rows_of(np.full(20, turn)), trained_through=turn)
        updates.flush()
    claim(world)
    fences = fence(world)
    rollback = roll_back(world, fences)
    taken = {
        (p, bytes(e.payload)) for p, cut_off in enumerate(fences) for e in world.memory_log.poll({p: 0}, timeout_s=0)[p][:cut_off]
    }
    ends = [world.memory_log.end(p) for p in range(world.partitions)]
    sent = send_again(world.environment(), rollback, most=4)
    assert sent == 4
    for p, end in enumerate(ends):
        again = world.memory_log.poll({p: end}, timeout_s=0)[p]
        assert len(again) == 2
        assert all((p, bytes(entry.payload)) in taken for entry in again)
