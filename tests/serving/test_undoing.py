"""A rollback in a replica: set back from memory or from the rollback's runs, the rows are the same bit by bit."""

import itertools
import random
from contextlib import suppress

import msgspec
import numpy as np
import pytest
from faulty import one_read_fails
from hypothesis import given, settings
from hypothesis import strategies as st
from served import check_same, counted, partition, published, rows_of, step, world_of
from worlds import TABLES, at

from penstock.pipeline.core.errors import Unreachable, VersionGone
from penstock.pipeline.core.ids import Partition, State
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event, to_state, to_version
from penstock.serving.markers import WAYPOINTS
from penstock.serving.replica import Replica
from penstock.slicer.runs import Run

KEYS, NEW = range(40), range(100, 120)
BUDGET = 8192


class Silent:
    """A log that never answers."""

    def __getattr__(self, name):
        raise Unreachable("no reply")


def replica_of(world, name="r", *, budget=BUDGET):
    settings = msgspec.structs.replace(world.config.replica, before_image_bytes=budget)
    world.config = msgspec.structs.replace(world.config, replica=settings)
    return Replica(world.environment(), name=name)


def roll_back(world, target, **options):
    env = world.environment()
    return execute(env, plan_rollback(env, target, **options), why="poison")


def undo_keys(manifest):
    return sum(change.rows + change.tombstones for change in manifest.rollback.undo.values())


def poisoned(world, *replicas):
    """Good rows up to minute 9, then poison, all of it followed record by record."""
    writer = published(world, *KEYS)
    for replica in replicas:
        step(replica)
    for n in range(24):
        event = 2 + n // 4 if n < 12 else 10 + n
        writer.put("item", event, *{KEYS[(11 * n + 3 * m) % 40] for m in range(6)}, NEW[n % 20], deleted=(KEYS[-1 - n],))
        writer.put("user", event, KEYS[n], KEYS[(7 * n + 1) % 40])
        for replica in replicas:
            replica.step(0.0)
    return writer


@pytest.fixture
def world():
    return world_of()


def test_what_is_remembered_is_set_back_and_no_row_is_read(world, monkeypatch):
    replica = replica_of(world)
    poisoned(world, replica)
    manifest = roll_back(world, before_event(at(10)))
    with monkeypatch.context() as patch:
        patch.setattr(Run, "rows", None)
        step(replica)
    assert (counted(replica, "recalled"), counted(replica, "fetched")) == (undo_keys(manifest), 0)
    check_same(world, replica)


def test_nothing_is_remembered_without_a_budget(world):
    replica = replica_of(world, budget=0)
    poisoned(world, replica)
    manifest = roll_back(world, before_event(at(10)))
    step(replica)
    assert (counted(replica, "recalled"), counted(replica, "fetched")) == (0, undo_keys(manifest))
    check_same(world, replica)


def test_a_marker_is_a_place_to_go_back_to_without_reading_the_log(world):
    replica = replica_of(world, budget=1 << 20)
    writer = published(world, *KEYS)
    step(replica)
    writer.put("item", 3, *KEYS[:20])
    first = world.commit(world.mark(writer))
    writer.put("item", 4, *KEYS[5:20], deleted=(1,))
    between = world.mark(writer)
    writer.put("item", 5, *KEYS[:9], *NEW)
    step(replica)
    manifest = roll_back(world, to_state(between))
    replica.adoption.log = Silent()
    step(replica)
    assert (counted(replica, "recalled"), counted(replica, "fetched")) == (undo_keys(manifest), 0)
    check_same(world, replica)
    writer = world.writer(resume=between)
    writer.put("item", 6, *KEYS[:9])
    step(replica)
    roll_back(world, to_version(first.version))
    check_same(world, replica)


def test_what_is_remembered_wrongly_is_found_out_bucket_by_bucket(world):
    replica = replica_of(world)
    poisoned(world, replica)
    manifest = roll_back(world, before_event(at(10)))
    key = NEW[3]
    wrong = np.full((1, 2), 66, np.float32).view(np.uint8)
    p = Partition(world.partition_of(key))
    for waypoint in partition(replica, p).waypoints:
        replica.follower.tables["item"].forget(p, waypoint.label)
    for waypoint in partition(replica, p).waypoints:
        replica.follower.tables["item"].mark(p, waypoint.label)
    replica.follower.tables["item"].correct(p, np.array([key]), wrong, np.empty(0, np.int64))
    step(replica)
    assert counted(replica, "fetched") > 0
    assert counted(replica, "recalled") + counted(replica, "fetched") == undo_keys(manifest)
    check_same(world, replica)


def test_a_log_that_cannot_be_read_leaves_the_runs(world):
    replica = replica_of(world)
    poisoned(world, replica)
    manifest = roll_back(world, before_event(at(10)))

    replica.adoption.log = Silent()
    step(replica)
    assert counted(replica, "recalled") + counted(replica, "fetched") == undo_keys(manifest)
    assert counted(replica, "fetched") > 0
    check_same(world, replica)


@pytest.mark.parametrize("budget", [0, BUDGET])
def test_a_store_that_fails_at_any_read_delays_the_undo_and_changes_nothing_of_it(budget, monkeypatch):
    for reads in itertools.count():
        world = world_of()
        replica = replica_of(world, budget=budget)
        poisoned(world, replica)
        first = world.rows(world.catalog.manifest(1))["item"]
        roll_back(world, before_event(at(10)))
        with one_read_fails(monkeypatch, replica.adoption.store, reads) as failed:
            try:
                step(replica)
            except Unreachable:
                with suppress(VersionGone):
                    answer = replica.lookup("item", np.array(KEYS), version=1)
                    assert [tuple(row) for row in answer.rows.tolist()] == [first[key] for key in KEYS]
                step(replica)
        check_same(world, replica)
        if not failed():
            break
    assert reads > 8


def test_waypoints_are_bounded_and_name_all_that_the_tables_remember(world):
    replica = replica_of(world, budget=2048)
    writer = published(world, *KEYS)
    step(replica)
    for n in range(60):
        writer.put("item", 2, *KEYS[:30])
        replica.step(0.0)
        if n % 20 == 19:
            world.commit(world.mark(writer))
            step(replica)
    for p in replica.follower.partitions:
        state = partition(replica, p)
        between = [waypoint for waypoint in state.waypoints if not isinstance(waypoint.label, State)]
        assert 0 < len(between) <= WAYPOINTS
        assert {*state.held, *state.marked} == {w.label for w in state.waypoints if isinstance(w.label, State)}
        assert [w.offset for w in state.waypoints] == sorted(w.offset for w in state.waypoints)
        for table in replica.follower.tables.values():
            assert list(table.labels(p)) == state.labels


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_invariant_7_memory_and_runs_give_the_same_rows_and_digests(seed):
    chance = random.Random(seed)
    world = world_of(markers=chance.choice((1, 3)))
    writer = published(world, *KEYS)
    replicas = [replica_of(world, f"r{n}", budget=budget) for n, budget in enumerate((0, chance.choice((700, 3000)), 1 << 14))]
    event = 2
    for _ in range(chance.randrange(1, 3)):
        begun = event = event + 1
        for _ in range(chance.randrange(4, 30)):
            table, keys = chance.choice(TABLES), chance.sample([*KEYS, *NEW], chance.randrange(2, 12))
            event += chance.random() < 0.5
            what = chance.random()
            if what < 0.7:
                writer.put(table, event, *keys[1:], deleted=keys[:1] if chance.random() < 0.4 else ())
            elif what < 0.8:
                writer.keep(table, event, *keys)
            elif what < 0.93:
                state = world.mark(writer)
                if chance.random() < 0.7:
                    world.commit(state)
            for replica in replicas:
                if chance.random() < 0.8:
                    replica.refresh()
                    replica.step(0.0)
        tables = chance.choice((None, None, ("item",)))
        manifest = roll_back(world, before_event(at(chance.randint(begun, event + 1))), tables=tables)
        for replica in replicas:
            step(replica)
        check_same(world, *replicas)
        assert [counted(replica, "disagreed") for replica in replicas] == [0, 0, 0]
        first, *others = replicas
        for other in others:
            assert rows_of(other) == rows_of(first)
            for name, table in first.follower.tables.items():
                assert np.array_equal(table.digests, other.follower.tables[name].digests)
                assert np.array_equal(first.confirmed.digests[name], other.confirmed.digests[name])
        world.model = {table: dict(rows) for table, rows in world.rows(manifest).items()}
        writer = world.writer("another" + str(manifest.version))
