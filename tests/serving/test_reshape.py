"""A replica is read while tables change their shape: never an error, never a row of another dim than the table has just then,
never zeros for a key that it has."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest
from recoveries import execute, plan_rollback
from served import counted, step
from shaping import Shaping
from shop import TABLES

from penstock.pipeline.core.errors import PenstockError, Refused, Unreachable, VersionGone
from penstock.pipeline.core.ids import Partition
from penstock.publishers.delta import publish_delta
from penstock.publishers.fanout import commit_parts, publish_part
from penstock.publishers.promotion import promote
from penstock.publishers.snapshot import publish_snapshot
from penstock.rollback.target import to_version
from penstock.serving import lookups
from penstock.serving.replica import Replica

KEYS = np.array(sorted(TABLES["item"]), np.int64)
DEADLINE_S = 60.0


@pytest.fixture
def shop():
    found = Shaping()
    yield found
    found.close()


def replica_of(shop, **options):
    return Replica(shop.env, name=options.pop("name", "replica"), **options)


def items(replica, **given):
    """The dim of the items, and their values by key; every known key has a row."""
    answer = replica.lookup("item", KEYS, **given)
    assert answer.found.all()
    assert (answer.rows == answer.rows[:, :1]).all()
    return answer.rows.shape[1], dict(zip(KEYS.tolist(), answer.rows[:, 0].tolist(), strict=True))


def snapshot(shop):
    return publish_snapshot(shop.env, shop.source(), sidecar=shop.mark())


def delta(shop):
    return publish_delta(shop.env, shop.source(), sidecar=shop.mark())


def heard(replica):
    """All is read that the log has, and nothing adopted."""
    replica.refresh()
    while replica._poll(0.0):
        pass


def adopt(replica, p):
    return replica.adoption.adopt_next(Partition(p))


def agrees(replica, shop):
    """With a newcomer, bit by bit."""
    newcomer = replica_of(shop, name="newcomer")
    step(newcomer)
    step(replica)
    assert not [state.alarm for state in replica.follower.partitions.values() if state.alarm]
    assert replica.version == newcomer.version
    for name, table in newcomer.follower.tables.items():
        assert np.array_equal(replica.follower.tables[name].digests, table.digests), name
        assert replica.follower.tables[name].row_count == table.row_count
    assert items(replica) == items(newcomer)
    assert counted(replica, "disagreed") == 0


OLD = dict(TABLES["item"])
WIDE = {key: value + 300 for key, value in OLD.items()}


def test_the_older_generation_is_read_until_the_last_partition_has_the_new_one(shop):
    shop.published()
    replica = replica_of(shop)
    shop.widen()
    snapshot(shop)
    shop.send("user", {-5: 2.0})
    delta(shop)
    heard(replica)
    assert items(replica) == (2, OLD)
    assert adopt(replica, 0)
    assert items(replica) == (2, OLD)
    assert not adopt(replica, 0)  # the delta would clear what is read
    assert items(replica) == (2, OLD)
    assert adopt(replica, 1)
    assert items(replica) == (3, WIDE)
    assert adopt(replica, 1)
    assert adopt(replica, 0)
    assert items(replica) == (3, WIDE)
    assert replica.follower.tables["item"].row_count == 0
    agrees(replica, shop)


def test_a_rollback_before_anything_was_cleared_is_read_through(shop):
    first = shop.published()
    replica = replica_of(shop)
    shop.widen()
    snapshot(shop)
    step(replica)
    assert items(replica) == (3, WIDE)
    execute(shop.env, plan_rollback(shop.env, to_version(first.version)), why="poison")
    heard(replica)
    assert adopt(replica, 1)
    assert items(replica) == (2, OLD)
    assert adopt(replica, 0)
    assert items(replica) == (2, OLD)
    agrees(replica, shop)


def test_a_rollback_that_brings_a_cleared_generation_back_lets_readers_wait(shop, monkeypatch):
    first = shop.published()
    replica = replica_of(shop)
    shop.widen()
    snapshot(shop)
    shop.send("item", {1: 5.0})
    delta(shop)
    step(replica)
    assert items(replica) == (3, {**WIDE, 1: 5.0})
    execute(shop.env, plan_rollback(shop.env, to_version(first.version)), why="poison")
    heard(replica)
    assert adopt(replica, 0)
    monkeypatch.setattr(lookups, "PATIENCE_S", 0.0)
    with pytest.raises(Unreachable, match="table item is going back to another shape"):
        items(replica)
    assert replica.lookup("user", np.array([-5])).found.all()
    waiting = threading.Thread(target=lambda: found.append(items(replica)))
    found: list = []
    monkeypatch.setattr(lookups, "PATIENCE_S", DEADLINE_S)
    waiting.start()
    assert adopt(replica, 1)
    waiting.join(DEADLINE_S)
    assert found == [(2, OLD)] == [items(replica)]
    agrees(replica, shop)
    shop.tables["item"], shop.dims = dict(OLD), {}
    shop.reopen()
    shop.widen()
    snapshot(shop)
    step(replica)
    assert items(replica) == (3, WIDE)
    agrees(replica, shop)


def test_rows_of_the_new_generation_may_come_before_the_version_that_brings_it(shop):
    shop.published()
    replica = replica_of(shop)
    shop.widen()
    sidecar = shop.mark()
    publish_part(shop.env, shop.source(), run="wide", part=1, of=1, sidecar=sidecar)
    shop.send("item", {1: 7.0})
    shop.updates.flush()
    step(replica)
    assert items(replica) == (2, OLD)
    commit_parts(shop.env, run="wide")
    step(replica)
    assert items(replica) == (3, {**WIDE, 1: 7.0})
    agrees(replica, shop)


def test_who_was_away_for_the_whole_of_it_catches_up_without_a_gap(shop):
    shop.published()
    replica = replica_of(shop)
    shop.widen()
    snapshot(shop)
    delta_keys = iter(range(1, 5))
    for dim in (3, 4, 5):
        if dim > 3:
            shop.widen(dim=dim)
            snapshot(shop)
        shop.send("item", {next(delta_keys): 1.0})
        delta(shop)
    replica.refresh()
    for _ in range(200):
        replica.step(0.0)
        assert items(replica)[0] in (2, 3, 4, 5)
    assert items(replica) == (5, shop.tables["item"])
    agrees(replica, shop)


def test_a_partition_that_is_loaded_anew_past_the_others_holds_none_of_them_up(shop, monkeypatch):
    shop.published()
    replica = replica_of(shop)
    shop.widen()
    snapshot(shop)
    shop.send("item", {1: 1.0})
    delta(shop)
    heard(replica)
    assert replica.adoption.load_newest(replica.follower.partitions[Partition(0)])
    monkeypatch.setattr(lookups, "PATIENCE_S", 0.0)
    with pytest.raises(Unreachable):
        items(replica)
    assert adopt(replica, 1)
    assert items(replica) == (3, shop.tables["item"])
    agrees(replica, shop)


def test_a_ref_that_follows_versions_shows_one_shape_at_a_time(shop):
    first = shop.published()
    promote(shop.env, first.version, ref="canary", why="")
    canary = replica_of(shop, ref="canary")
    shop.widen()
    beside = snapshot(shop)
    brought = shop.env.catalog.history().of_state(beside.state)
    shop.send("item", {1: 5.0})
    cleared = delta(shop)
    for version, expected in ((brought, (3, WIDE)), (cleared, (3, shop.tables["item"])), (first, (2, OLD)), (cleared, None)):
        promote(shop.env, version.version, ref="canary", why="")
        heard(canary)
        before = items(canary)
        assert adopt(canary, 0)
        assert items(canary) == before
        step(canary)
        assert items(canary) == (expected or (3, shop.tables["item"]))


def test_a_version_that_is_asked_for_has_its_own_shape(shop):
    first = shop.published()
    shop.widen()
    beside = snapshot(shop)
    brought = shop.env.catalog.history().of_state(beside.state)
    replica = replica_of(shop)
    assert items(replica, version=brought.version) == (3, WIDE)
    shop.send("user", {-5: 2.0})
    delta(shop)
    step(replica)
    assert items(replica)[0] == 3
    with pytest.raises(VersionGone):
        items(replica, version=first.version)
    assert items(replica_of(shop, name="old", at=first.version)) == (2, OLD)


def test_absent_rows_are_those_of_the_generation(shop):
    shop.published()
    shop.configure(item={"absent": [7.0, 7.0, 7.0]})
    shop.widen()
    snapshot(shop)
    answer = replica_of(shop).lookup("item", np.array([1, 999]))
    assert (answer.rows[1].tolist(), answer.found.tolist()) == ([7.0, 7.0, 7.0], [True, False])
    shop.configure(item={"absent": "refuse"})
    shop.widen(dim=4)
    snapshot(shop)
    with pytest.raises(Refused, match="table item has no key 999"):
        replica_of(shop).lookup("item", np.array([1, 999]))


def test_a_retired_table_is_empty_and_comes_back_in_another_shape(shop):
    shop.published()
    replica = replica_of(shop)
    shop.configure(item={"retired": True})
    gone = shop.tables.pop("item")
    shop.seconds += 1
    delta(shop)
    step(replica)
    answer = replica.lookup("item", KEYS)
    assert (answer.rows.shape, answer.found.any()) == ((6, 2), np.False_)
    shop.tables["item"] = gone
    shop.configure()
    shop.widen()
    delta(shop)
    heard(replica)
    assert adopt(replica, 1)
    assert replica.lookup("item", KEYS).rows.shape[1] in (2, 3)
    step(replica)
    assert items(replica) == (3, WIDE)
    agrees(replica, shop)


@pytest.mark.parametrize("change", ["dim", "codec"])
def test_a_reader_in_another_thread_sees_whole_tables_all_the_while(shop, change):
    """Through a new shape, the delta that clears, a rollback to before, and the new shape once more."""
    first = shop.published()
    now = shop.env.clock() - time.monotonic_ns() // 1000
    env = dataclasses.replace(shop.env, clock=lambda: now + time.monotonic_ns() // 1000)
    replica = Replica(env, name="replica")
    replica.start()
    problems: list = []
    seen: set[int] = set()
    stop = threading.Event()
    lookups_done = [0]

    def read() -> None:
        while not stop.is_set():
            try:
                dim, values = items(replica)
                seen.add(dim)
                assert values in expected, (dim, values)
                lookups_done[0] += 1  # of two threads: some may get lost, none is made up
            except (AssertionError, PenstockError) as error:
                problems.append(error)
                return

    def reached(version) -> None:
        until = time.monotonic() + DEADLINE_S
        while replica.version < version and not problems:
            assert time.monotonic() < until, (replica.version, version)
            time.sleep(0.005)
        assert not problems, problems

    def reshape() -> None:
        if change == "codec":
            shop.configure(item={"codec": "int8"})
            shop.tables["item"] = {key: value + 300 for key, value in shop.tables["item"].items()}
            shop.seconds += 1
        else:
            shop.widen()
        beside = snapshot(shop)
        reached(shop.env.catalog.history().of_state(beside.state).version)

    expected = [OLD, WIDE]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        reshape()
        shop.send("user", {-5: 2.0})
        reached(delta(shop).version)
        done = execute(shop.env, plan_rollback(shop.env, to_version(first.version)), why="poison")
        reached(done.version)
        shop.tables, shop.dims = {name: dict(rows) for name, rows in TABLES.items()}, {}
        shop.configure()
        shop.reopen()
        reshape()
        count = lookups_done[0]
        until = time.monotonic() + DEADLINE_S
        while lookups_done[0] < count + 20 and not problems and time.monotonic() < until:
            time.sleep(0.005)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
        replica.close()
    assert not problems, problems
    assert items(replica) == (3 if change == "dim" else 2, WIDE)
    assert seen == ({2, 3} if change == "dim" else {2})
