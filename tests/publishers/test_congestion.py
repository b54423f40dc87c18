"""The realtime publisher in front of a log that takes less than the trainer puts: what is sent, in which order, and who has the
rest. The log's speed is a budget that the test gives out; the clock is a value."""

import time
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_world import HOUR_US, NOW, World, check_sequences, rows_of

from penstock.pipeline.catalog.checkpoints import read_checkpoint, rows_owed
from penstock.pipeline.core.errors import InvalidInput, NotFound, OutcomeUnknown
from penstock.pipeline.core.ids import BIRTH, State
from penstock.pipeline.core.records import RecordKind
from penstock.publishers.key_runs import read_keys
from penstock.publishers.settings import RealtimeSettings


class Slow:
    """A pending append that is done once the log has got to it."""

    def __init__(self, log, partition, payload):
        self.log, self.partition, self.payload, self.pending = log, partition, payload, None

    def done(self):
        self.log.pump()
        return self.pending is not None

    def result(self, timeout_s):
        deadline = time.monotonic() + timeout_s
        while not self.done() and time.monotonic() < deadline:
            time.sleep(0.001)
        if self.pending is None:
            raise OutcomeUnknown("not acknowledged in time")
        return self.pending.result(timeout_s)


class SlowLog:
    """Takes `budget` bytes, in the order of the appends, then waits to be given more."""

    def __init__(self, inner):
        self.inner, self.budget, self.queue = inner, 1 << 40, deque()

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def append(self, partition, payload):
        self.queue.append(Slow(self, partition, payload))
        self.pump()
        return self.queue[-1] if self.queue else self.last

    def pump(self):
        while self.queue and self.budget >= len(self.queue[0].payload):
            self.last = self.queue.popleft()
            self.budget -= len(self.last.payload)
            self.last.pending = self.inner.append(self.last.partition, self.last.payload)


SETTINGS = {"beat_us": HOUR_US, "flush_timeout_s": 10.0, "linger_s": 0.0, "record_bytes": 2048, "queue_bytes": 16_384}


@pytest.fixture
def world():
    made = World()
    made.log = SlowLog(made.memory_log)
    yield made
    made.log.budget = 1 << 40
    made.close()


def opened(world, **settings):
    return world.open(settings=RealtimeSettings(**{**SETTINGS, "overflow": "priority", **settings}))


def turn(updates, now):
    """One round of the driver, at once."""
    with updates._stream.line:
        updates._stream.step(now=now)


def touched_keys(world, marker):
    touched = read_checkpoint(world.catalog, marker)[0].touched["trainer"]
    run = touched.keys["item"]
    found = np.concatenate(list(read_keys(world.catalog.store, world.catalog.reload_schema(), "item", run)))
    return set(found.tolist()), touched.unsent


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["priority", "shed"]))
def test_invariant_6_whatever_was_not_sent_is_in_the_next_delta(seed, overflow):
    rng, world = np.random.default_rng(seed), World()
    world.log = SlowLog(world.memory_log)
    try:
        updates = opened(world, overflow=overflow, queue_bytes=6000)
        world.log.budget, newest = 0, {}
        for step in range(60):
            keys = rng.choice(5000, 20, replace=False)
            if step % 7 == 3:
                updates.delete("item", keys)
                newest |= dict.fromkeys(keys.tolist())
            else:
                values = (1000 * step + keys).astype(np.float32)
                updates.put("item", keys, rows_of(values), trained_through=NOW + step)
                newest |= {key: (value, value) for key, value in zip(keys.tolist(), values.tolist(), strict=True)}
            world.log.budget += int(rng.integers(0, 400))
            turn(updates, NOW)
        unsent = set(updates._driver.touched.unsent_keys("item").tolist())
        shed, put = updates.rows_shed, updates.rows_put
        world.log.budget = 1 << 40
        updates.mark()
        served = world.served().get("item", {})
        wrong = {key for key, row in newest.items() if served.get(key) != row}
        assert wrong <= unsent, "what the log does not have as it is now is owed"
        touched, owed = touched_keys(world, 1)
        assert touched == set(newest)
        assert owed == len(unsent)
        assert shed > 0
        assert put == 60 * 20
        check_sequences(world)
        through = [[r.trained_through for _, _, r in world.records(p) if r.kind == RecordKind.ROWS] for p in range(2)]
        assert all(times == sorted(times) for times in through), "event time only grows, whatever the order of the rows"
    finally:
        world.log.budget = 1 << 40
        world.close()


def test_the_order_of_a_key_is_never_inverted(world):
    """Each row's value is the number of its put: what the log has of a key only grows, over new terms too."""
    rng, updates = np.random.default_rng(3), opened(world)
    world.log.budget = 0
    for step in range(1, 200):
        updates.put("item", rng.choice(300, 20, replace=False), rows_of(np.full(20, step)))
        world.log.budget += int(rng.integers(0, 500))
        turn(updates, NOW)
        if step % 40 == 0:
            with updates._stream.line:
                updates._stream.sender.broken = OutcomeUnknown("the connection was lost")
    world.log.budget = 1 << 40
    updates.flush()
    assert updates.term > 3
    newest, term = {}, {}
    for _, _, record in world.records():
        if record.kind == RecordKind.ROWS:
            for key, value in zip(record.put_keys.tolist(), record.rows.view("<f4")[:, 0].tolist(), strict=True):
                assert value >= newest.get(key, 0), f"key {key}: {newest[key]} in term {term[key]}, then {value}"
                newest[key], term[key] = value, record.term


def test_what_matters_arrives_while_the_rest_is_owed(world):
    updates = opened(world)
    updates.put("item", range(2000), rows_of(np.ones(2000)))
    updates.flush()
    updates.put("item", range(2000), rows_of(np.full(2000, 1.001)))
    updates.flush()
    updates.mark()
    world.log.budget = 0
    updates.put("item", range(1000, 2000), rows_of(np.full(1000, 1.0011)))
    updates.put("item", range(20), rows_of(np.full(20, 5.0)))
    world.log.budget = 1 << 40
    updates.flush()
    served = world.served()["item"]
    assert {served[key] for key in range(20)} == {(5.0, 5.0)}
    assert 500 < updates.unsent <= updates.rows_shed


def test_invariant_14_the_queue_keeps_its_bound_and_put_never_waits(world):
    updates = opened(world, flush_timeout_s=0.2)
    world.log.budget = 0
    for step in range(100):
        updates.put("item", range(100 * step, 100 * step + 100), rows_of(np.ones(100)))
        assert updates.queued_bytes <= SETTINGS["queue_bytes"] + 2048
    assert updates.rows_put == 10_000
    assert updates.unsent == updates.rows_shed > 9_000


def test_records_are_small_when_it_is_quiet_and_large_under_load(world):
    settings = {"overflow": "block", "queue_bytes": 1 << 20, "record_bytes": 1 << 16}
    updates = opened(world, **settings)
    updates.put("item", range(8), rows_of(np.ones(8)))
    updates.flush()
    quiet = [len(r.keys) for _, _, r in world.records() if r.kind == RecordKind.ROWS]
    world.log.budget = 0
    for step in range(100):
        updates.put("item", range(200 * step, 200 * step + 200), rows_of(np.ones(200)))
    world.log.budget = 1 << 40
    updates.flush()
    loaded = [len(r.keys) for _, _, r in world.records() if r.kind == RecordKind.ROWS][len(quiet) :]
    assert max(quiet) <= 8
    assert max(loaded) > 1000


def test_what_waits_is_folded_again_soon_only_where_keys_come_again(world):
    updates = opened(world, overflow="block", queue_bytes=1 << 20)
    stream, least = updates._stream, (1 << 20) // 8
    world.log.budget = 0
    for step in range(40):
        updates.put("item", np.arange(500), rows_of([step] * 500))
        turn(updates, NOW)
        assert stream._fold_from == least
    assert stream.outbox.nbytes + stream._ready_bytes < 2 * least
    for step in range(1, 30):
        updates.put("item", 1000 * step + np.arange(500), rows_of([step] * 500))
        turn(updates, NOW)
    assert stream._fold_from > least
    world.log.budget = 1 << 40
    updates.flush()
    assert stream._fold_from == least
    assert len(world.served()["item"]) == 500 + 29 * 500


def test_a_flush_ends_while_others_keep_putting(world):
    updates = opened(world, overflow="block", queue_bytes=1 << 20)
    world.log.budget = 0
    updates.put("item", [1], rows_of([1]))
    inner, world.log.pump = world.log.pump, lambda: None

    def pump():
        updates.put("item", [2], rows_of([2]))
        inner()

    world.log.budget = 1 << 40
    world.log.pump = pump
    updates.flush()
    world.log.pump = inner
    assert world.served()["item"][1] == (1, 1)


def test_a_dense_slice_comes_behind_the_rows_that_wait(world):
    updates = opened(world)
    world.log.budget = 0
    updates.put("item", range(100), rows_of(np.ones(100)))
    world.log.budget = 1 << 40
    updates.put_dense({"w": np.ones(3, np.float32)})
    updates.flush()
    for p in range(2):
        kinds = [record.kind for _, _, record in world.records(p)]
        assert kinds[-1] == RecordKind.DENSE
        assert RecordKind.ROWS in kinds


def test_traffic_is_checked(world):
    updates = opened(world)
    with pytest.raises(NotFound):
        updates.traffic("item", [1], [1])
    updates.put("item", [1, 2], rows_of([1, 2]))
    updates.traffic("item", [1, 2], [3, 0])
    for counts in ([1], [-1, 1], [np.nan, 1], ["a", "b"]):
        with pytest.raises(InvalidInput, match="table item"):
            updates.traffic("item", [1, 2], counts)


def test_what_is_owed_is_known_until_a_version_has_it(world):
    updates = opened(world)
    world.log.budget = 0
    updates.put("item", range(2000), rows_of(np.ones(2000)))
    world.log.budget = 1 << 40
    owed = updates.unsent
    assert owed == updates.rows_shed > 0
    updates.mark()
    updates.put("item", [1], rows_of([1]))
    updates.mark()
    assert rows_owed(world.catalog, BIRTH) == owed
    assert rows_owed(world.catalog, State(1, 1)) == 0
