"""What a replica does with the records of the log: every kind of disorder that a log can show."""

import numpy as np
import pytest
from broken_records import BROKEN
from served import check_same, counted, fence, held_of, partition, published, rows_of, step, world_of

from penstock.pipeline.catalog.leases import create_claim
from penstock.pipeline.core.coordination import Claim
from penstock.pipeline.core.ids import Partition
from penstock.pipeline.core.manifest import Target
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.core.schema import TableSchema
from penstock.rollback.execution import abandon, execute
from penstock.rollback.freezing import freeze, thaw
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event
from penstock.serving.replica import Replica


@pytest.fixture
def world():
    return world_of()


def replica_of(world, name="r", **options):
    return Replica(world.environment(), name=name, **options)


def test_rows_and_deletions_arrive_and_positions_grow(world):
    writer = published(world)
    replica = replica_of(world)
    writer.put("item", 2, 1, 2, 50, deleted=(3,))
    step(replica)
    assert rows_of(replica) == world.model
    assert [partition(replica, p).offset for p in (0, 1)] == world.ends()
    check_same(world, replica)


def test_duplicates_and_zombies_are_dropped_and_counted(world):
    old = published(world)
    replica = replica_of(world)
    old.put("item", 2, 1)
    new = world.writer()
    new.put("item", 3, 1)
    served = {table: dict(rows) for table, rows in world.model.items()}
    old.put("item", 4, 1)  # a zombie: a newer term of its publisher has begun
    for p in (0, 1):
        last = next(r for _, r in reversed(list(world.records(p))) if r.term == new.term)
        world.append(last)  # as a broker's retry
    step(replica)
    assert rows_of(replica) == served
    assert counted(replica, "dropped") == 3
    assert not any(partition(replica, p).alarm for p in (0, 1))


def test_a_gap_is_held_until_a_newer_term_is_in_sight(world):
    writer = published(world)
    replica = replica_of(world)
    key = world.keys_in(0, 1)[0]
    writer.put("item", 2, key)
    writer.seqs[0] += 1  # a record that never came
    writer.put("item", 3, key)
    writer.put("item", 4, key)
    step(replica)
    assert counted(replica, "gaps") == 1
    assert rows_of(replica)["item"][key][0] == 2
    assert partition(replica, 0).gap is not None
    follower = world.writer()
    follower.put("item", 5, key)
    step(replica)
    assert partition(replica, 0).gap is None
    assert rows_of(replica)["item"][key][0] == 5
    assert partition(replica, 0).offset == world.ends()[0]
    assert rows_of(replica) == world.model


def test_a_gap_is_looked_past_over_several_polls(world):
    writer = published(world)
    replica = replica_of(world)
    writer.seqs[0] += 1
    for _ in range(6):
        writer.beat()
        step(replica, 2)
    assert partition(replica, 0).offset < partition(replica, 0).reads_from == world.ends()[0]
    world.writer().beat()
    step(replica)
    assert partition(replica, 0).offset == world.ends()[0]


def test_a_fence_ends_a_gap(world):
    writer = published(world)
    replica = replica_of(world)
    writer.put("item", 9, 1)
    key = world.keys_in(0, 1)[0]
    writer.seqs[0] += 1
    writer.put("item", 9, key)
    execute(
        world.environment(), plan_rollback(world.environment(), before_event(9 * 60_000_000 + 1_700_000_000_000_000)), why="x"
    )
    check_same(world, replica)


def claimed(world, timeline=2):
    return create_claim(
        world.catalog,
        Claim(
            id="c", timeline=timeline, parent=1, target=Target(kind="version", version=1), of=1, base=1, tables=None, cuts=(0, 0),
            who="me", at=world.now, why="x",
        ),
    )  # fmt: skip


def test_at_a_fence_a_partition_waits_for_the_decision(world):
    writer = published(world)
    replica = replica_of(world)
    claimed(world)
    at = fence(world, 2, 0)
    writer.put("item", 2, *range(12))
    step(replica)
    assert partition(replica, 0).paused
    assert partition(replica, 0).offset == at
    assert partition(replica, 1).offset == world.ends()[1]
    assert replica.ready(world.now)
    abandon(world.environment(), why="x")
    step(replica)
    assert [partition(replica, p).offset for p in (0, 1)] == world.ends()
    assert rows_of(replica) == world.model


def test_a_committed_rollback_takes_back_and_what_comes_late_is_ignored(world):
    writer = published(world)
    replica, lagging = replica_of(world), replica_of(world, "lagging")
    writer.put("item", 2, 1, 2)
    world.commit(world.mark(writer))
    step(lagging, 1)
    writer.put("item", 7, 1, 2, 70)
    step(replica)
    assert rows_of(replica)["item"][70][0] == 7
    from worlds import at

    manifest = execute(world.environment(), plan_rollback(world.environment(), before_event(at(7))), why="poison")
    writer.put("item", 8, 1, 2)  # of the old timeline
    step(replica)
    step(lagging)
    assert replica.timeline == lagging.timeline == manifest.timeline == 2
    assert {row[0] for row in rows_of(replica)["item"].values()} == {1, 2}
    assert rows_of(replica) == rows_of(lagging)
    assert counted(replica, "ignored") == 2
    check_same(world, replica, lagging)


def test_frozen_replicas_stop_at_exactly_one_position_and_newcomers_too(world):
    writer = published(world)
    replica, slow = replica_of(world), replica_of(world, "slow")
    writer.put("item", 2, *range(12))
    step(replica)
    freeze(world.environment(), "live", why="look")
    writer.put("item", 3, *range(12))
    state = world.mark(writer)
    world.commit(state)
    frozen = list(world.catalog.refs().ref("live").frozen)
    newcomer = replica_of(world, "newcomer")
    for r in (replica, slow, newcomer):
        step(r)
        assert [partition(r, p).offset for p in (0, 1)] == frozen
        assert {row[0] for row in rows_of(r)["item"].values()} == {2}
        assert r.version == 1
        assert r.ready(world.now)
    thaw(world.environment(), "live", why="go")
    check_same(world, replica, slow, newcomer)
    assert {row[0] for row in rows_of(replica)["item"].values()} == {3}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_read_stops_its_partition_and_is_named(world, kind):
    writer = published(world)
    replica = replica_of(world)
    writer.put("item", 2, *range(12))
    offset = world.log.append(0, BROKEN[kind](world, writer)).offset
    writer.put("item", 3, *range(12))
    step(replica)
    stopped, other = partition(replica, 0), partition(replica, 1)
    assert stopped.offset == offset
    assert f"offset {offset}" in stopped.alarm
    assert (other.offset, other.alarm) == (world.ends()[1], "")
    assert not replica.ready(world.now)
    served = rows_of(replica)["item"]
    assert {served[key][0] for key in world.keys_in(0, 3)} == {2}
    assert {served[key][0] for key in world.keys_in(1, 3)} == {3}


def test_the_next_delta_carries_a_stopped_partition_past_what_cannot_be_read(world):
    writer = published(world)
    replica = replica_of(world)
    writer.put("item", 2, *range(12))
    world.log.append(0, b"noise" * 40)
    writer.put("item", 3, *range(12))
    step(replica)
    assert partition(replica, 0).alarm
    world.commit(world.mark(writer))
    writer.put("item", 4, 1, 2, 3)
    step(replica)
    assert not partition(replica, 0).alarm
    assert partition(replica, 0).counters.jumped == 1
    assert rows_of(replica) == world.model
    assert replica.ready(world.now)


def test_a_table_that_is_born_later_is_loaded(world):
    writer = published(world)
    replica = replica_of(world)
    other = world.environment().catalog
    other.add_tables({"shop": TableSchema(dim=3, codec="float32", width=12)})
    world.catalog.reload_schema()
    for p in (0, 1):
        keys = np.array(world.keys_in(p, 2), np.int64)
        writer._append(RecordKind.ROWS, p, text="shop", keys=keys, rows=np.full((2, 3), 7, "<f4").view(np.uint8))
    writer.put("item", 2, 1)
    step(replica)
    answer = replica.lookup("shop", np.array([*world.keys_in(0, 2), *world.keys_in(1, 2), 999]))
    assert answer.found.tolist() == [True] * 4 + [False]
    assert (answer.rows[:4] == 7).all()
    assert rows_of(replica)["item"] == world.model["item"]
    assert replica.lookup("shop", np.array([1]), version=1).found.tolist() == [False]


def test_a_replica_of_some_buckets_holds_and_follows_these_alone():
    world = world_of(partitions=3, buckets=8)
    writer = published(world, *range(40))
    parts = [replica_of(world, f"r{n}", buckets=part) for n, part in enumerate((range(2), range(2, 7), range(7, 8)))]
    assert [sorted(r.follower.partitions) for r in parts] == [[0], [0, 1, 2], [2]]
    for event in range(2, 6):
        writer.put("item", event, *range(event, 40, 3), deleted=(event,))
        writer.keep("user", event, *range(0, 40, event))
        world.commit(world.mark(writer))
        writer.put("user", event, event)
        for r in parts:
            step(r)
            assert rows_of(r)["item"] == held_of(world, world.model, r.buckets)["item"]
            manifest, digests = r.confirmed.manifest, r.confirmed.digests
            whole = world.digests(manifest)
            for table in digests:
                at = slice(r.buckets.start, r.buckets.stop)
                assert (digests[table][at] == whole[table][at]).all()
                assert not np.delete(digests[table], range(r.buckets.start, r.buckets.stop)).any()
    check_same(world, *parts)


def test_what_was_taken_says_how_fresh_and_how_late(world):
    writer = published(world)
    replica = replica_of(world)
    writer.put("item", 5, *range(12))
    world.now += 2_500_000
    step(replica)
    state = partition(replica, 0)
    from worlds import at

    assert state.trained_through == at(5)
    assert replica.latency_ms[Partition(0)] == 2500
    assert state.counters.rows > 0
