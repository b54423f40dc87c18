"""A record that nobody can read: the decision to pass over it, and every reader that goes by it."""

from __future__ import annotations

import pytest
from broken_records import BROKEN, good, put_broken
from faulty import Faults, Faulty, every_failure
from served import check_same, counted, partition, published, rows_of, step, world_of
from worlds import World, at

from penstock.pipeline.catalog.catalog import Actor, Catalog
from penstock.pipeline.catalog.replay import Unreadable, replay, replay_around, replay_live
from penstock.pipeline.catalog.skipping import read_skips, skip_documents, skip_record
from penstock.pipeline.core.errors import InvalidInput, PositionGone, Refused
from penstock.pipeline.core.records import RecordKind, encode_record
from penstock.pipeline.core.skips import Skips
from penstock.publishers.folding import publish_delta_from_log
from penstock.rollback.execution import execute, resume
from penstock.rollback.planning import plan_rollback
from penstock.rollback.retention import apply_retention, plan_retention
from penstock.rollback.target import before_event, to_version
from penstock.rollback.trace import trace
from penstock.serving.replica import Replica


@pytest.fixture
def world():
    return world_of()


def replica_of(world, name="r"):
    return Replica(world.environment(), name=name)


def skip(world, offset, p=0, why="a test wrote it"):
    return skip_record(world.environment().catalog, world.log, p, offset, actor=Actor(who="me", now=world.now, why=why))


# ---- the decision ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BROKEN)
def test_a_stopped_replica_goes_on_by_itself_once_the_record_is_skipped(world, kind):
    writer = published(world)
    replica = replica_of(world)
    writer.put("item", 2, *range(12))
    offset = put_broken(world, writer, kind)
    writer.put("item", 3, *range(12))
    step(replica)
    assert f"offset {offset}" in partition(replica, 0).alarm
    decided = skip(world, offset)
    assert (decided.partition, decided.offset, decided.who, decided.why) == (0, offset, "me", "a test wrote it")
    assert decided.rule
    step(replica)
    assert not partition(replica, 0).alarm
    assert (counted(replica, "skipped"), counted(replica, "gaps")) == (1, 0)
    assert partition(replica, 0).offset == world.ends()[0]
    assert rows_of(replica) == world.model
    assert replica.report().partitions[0].skipped == 1
    assert partition(replica, 0).written_at == world.now  # its place in time is known, though nothing else is
    check_same(world, replica, replica_of(world, "later"))


def test_a_decision_is_made_once_and_shows_in_the_history(world):
    writer = published(world)
    offset = put_broken(world, writer)
    first = skip(world, offset)
    assert skip(world, offset, why="again") == first
    assert skip_documents(world.catalog) == [first]
    moves = [refs.move for refs in world.catalog.moves()]
    assert [(m.what, m.why) for m in moves if m.what.startswith("skipped")] == [
        (f"skipped partition 0 offset {offset}", "a test wrote it"),
        (f"skipped partition 0 offset {offset}", "again"),
    ]


def test_what_cannot_be_skipped_is_refused_and_nothing_is_decided(world):
    writer = published(world)
    broken = put_broken(world, writer)
    end = world.ends()[0]
    for p, offset, why, error, match in (
        (0, broken - 1, "x", Refused, "holds a good record"),
        (0, end, "x", PositionGone, f"offsets 0 to {end - 1}, not {end}"),
        (7, 0, "x", InvalidInput, "partition 7"),
        (0, broken, "", InvalidInput, "reason"),
    ):
        with pytest.raises(error, match=match):
            skip(world, offset, p, why)
    assert not read_skips(world.catalog).offsets


def test_every_failure_of_a_skip_leaves_all_or_nothing_and_it_can_be_repeated():
    def prepared():
        world = World()
        writer = world.writer()
        return world, put_broken(world, writer)

    def once(faults: Faults) -> None:
        world, offset = prepared()
        made[0] = world, offset
        decide(Faulty(world.store, faults), Faulty(world.log, faults), world, offset)

    def decide(store, log, world, offset):
        return skip_record(Catalog(store, world.catalog.model, world.new_id), log, 0, offset, actor=actor(world))

    def actor(world):
        return Actor(who="me", now=world.now, why="x")

    made: list = [None]
    count = 0
    for _ in every_failure(once):
        world, offset = made[0]
        decided = decide(world.store, world.log, world, offset)
        assert skip_documents(world.catalog) == [decided]
        assert world.catalog.refs().move.what == f"skipped partition 0 offset {offset}"
        count += 1
    assert count > 10


# ---- gaps ------------------------------------------------------------------------------------------------------------


def test_a_hole_that_is_larger_than_what_was_skipped_is_still_a_gap(world):
    writer = published(world)
    replica = replica_of(world)
    offset = put_broken(world, writer)
    writer.seqs[0] += 1  # one more that never came
    writer.put("item", 3, *range(12))
    skip(world, offset)
    step(replica)
    assert partition(replica, 0).gap is not None
    assert counted(replica, "gaps") == 1


def test_a_skip_excuses_only_what_follows_it(world):
    writer = published(world)
    replica = replica_of(world)
    writer.put("item", 2, *range(12))
    offset = put_broken(world, writer, lost=False)  # a stranger wrote it
    writer.put("item", 3, *range(12))
    skip(world, offset)
    step(replica)
    assert rows_of(replica) == world.model
    writer.seqs[0] += 1
    writer.put("item", 4, *range(12))
    step(replica)
    assert partition(replica, 0).gap is not None


def test_several_publishers_may_have_lost_it(world):
    one = published(world)
    replica = replica_of(world)
    two = world.writer("second")
    one.beat()
    two.beat()
    offset = put_broken(world, two)
    one.put("item", 2, *world.keys_in(0, 3))
    two.put("user", 2, *world.keys_in(0, 3))
    skip(world, offset)
    step(replica)
    assert partition(replica, 0).gap is None
    assert rows_of(replica) == world.model


# ---- readers of a stretch --------------------------------------------------------------------------------------------


def test_a_stretch_names_what_cannot_be_read_and_leaves_out_what_is_skipped(world):
    writer = published(world)
    offset = put_broken(world, writer)
    writer.put("item", 3, *world.keys_in(0, 3))
    end = world.ends()[0]
    with pytest.raises(Unreadable, match=f"offset {offset}: magic") as raised:
        list(replay(world.log, world.schema, 0, offset, end, Skips()))
    assert (raised.value.partition, raised.value.offset) == (0, offset)
    assert f"log skip --partition 0 --offset {offset}" in raised.value.hint
    assert [e.record.kind for e in replay_around(world.log, world.schema, 0, offset, end, Skips())] == [
        RecordKind.SKIPPED, RecordKind.ROWS,
    ]  # fmt: skip
    skip(world, offset)
    skips, history = read_skips(world.catalog), world.catalog.history()
    found = [e.record.kind for e in replay(world.log, world.schema, 0, offset, end, skips)]
    assert found == [RecordKind.SKIPPED, RecordKind.ROWS]
    live = replay_live(world.log, world.schema, history, 0, offset, 1, end, skips)
    assert [e.offset for e in live] == [offset + 1]
    ended = replay_live(world.log, world.schema, history, 0, offset, 1, offset + 1, skips)
    assert list(ended) == []  # the last one of a stretch


def test_the_kind_of_a_skipped_record_is_never_read_from_the_log(world):
    writer = published(world)
    record = good(world, writer)
    payload = bytearray(encode_record(record, world.schema.raw_id))
    payload[5] = RecordKind.SKIPPED
    world.log.append(0, bytes(payload))
    with pytest.raises(Unreadable, match="record kind 0"):
        list(replay(world.log, world.schema, 0, world.ends()[0] - 1, world.ends()[0], Skips()))


def test_a_delta_from_the_log_says_what_it_lacks_and_is_the_same_each_time(world):
    writer = published(world)
    key = world.keys_in(0, 1)[0]
    writer.put("item", 2, *range(12))
    offset = put_broken(world, writer)
    writer.put("item", 3, key)
    world.mark(writer)
    with pytest.raises(Unreadable, match=f"offset {offset}"):
        publish_delta_from_log(world.environment())
    skip(world, offset)
    again = world.copy()
    found = publish_delta_from_log(world.environment(), why="hourly")
    why = f"hourly; without what was skipped: partition 0 offset {offset}"
    assert world.catalog.refs().move.why == why
    assert publish_delta_from_log(again.environment()).changes["item"].interval == found.changes["item"].interval
    replica = replica_of(world)
    assert rows_of(replica)["item"][key][0] == 3
    check_same(world, replica)


def test_the_next_delta_of_a_checkpoint_brings_what_was_lost(world):
    writer = published(world)
    replica = replica_of(world)
    key = world.keys_in(0, 1)[0]
    writer.keep("item", 2, key)  # what the trainer has and the log lost
    offset = put_broken(world, writer)
    writer.put("user", 3, *range(12))
    skip(world, offset)
    step(replica)
    assert rows_of(replica)["item"][key] != world.model["item"][key]
    world.commit(world.mark(writer))
    step(replica)
    assert rows_of(replica) == world.model


def test_trace_says_that_a_skipped_record_may_have_written_the_key(world):
    writer = published(world)
    mine, other = world.keys_in(0, 1)[0], world.keys_in(1, 1)[0]
    offset = put_broken(world, writer)
    skip(world, offset)
    found = [e for e in trace(world.environment(), "item", mine) if e.op == "unknown"]
    assert [(e.offset, e.live) for e in found] == [(offset, False)]
    assert not [e for e in trace(world.environment(), "item", other) if e.op == "unknown"]


# ---- rollback --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["noise", "another width", "not a state"])
@pytest.mark.parametrize("target", [before_event(at(9)), to_version(1)])
def test_a_rollback_resolves_what_cannot_be_read(world, kind, target):
    writer = published(world)
    replica = replica_of(world)
    writer.put("item", 2, *range(12))
    offset = put_broken(world, writer, kind)
    writer.put("item", 3, *range(12))
    step(replica)
    assert partition(replica, 0).alarm
    plan = plan_rollback(world.environment(), target)
    if target.kind != "version":
        assert plan.cuts[0] == offset  # nobody knows what it learned from
    if kind == "noise":
        assert plan.lost.unreadable == 1
    execute(world.environment(), plan, why="poison")
    step(replica)
    assert not partition(replica, 0).alarm
    check_same(world, replica, replica_of(world, "later"))
    again = world.writer()
    again.put("item", 10, *range(5))
    step(replica)
    assert not partition(replica, 0).alarm
    assert {rows_of(replica)["item"][key][0] for key in range(5)} == {10}


def test_the_rollback_of_a_table_needs_the_record_skipped(world):
    writer = published(world)
    replica = replica_of(world)
    writer.put("item", 2, *range(12))
    writer.put("user", 2, *range(12))
    offset = put_broken(world, writer)
    writer.put("user", 4, *range(12))
    step(replica)
    plan = plan_rollback(world.environment(), before_event(at(2)), tables=("item",))
    with pytest.raises(Unreadable, match=f"offset {offset}"):
        execute(world.environment(), plan, why="x")
    skip(world, offset)
    resume(world.environment())
    step(replica)
    assert rows_of(replica)["user"] == world.model["user"]
    assert {row[0] for row in rows_of(replica)["item"].values()} == {1}
    check_same(world, replica)


def test_a_fence_that_was_damaged_later_may_be_skipped(world):
    writer = published(world)
    writer.put("item", 2, *range(12))
    manifest = execute(world.environment(), plan_rollback(world.environment(), before_event(at(2)), tables=("item",)), why="x")
    fence = manifest.rollback.fence[0]
    second = world.writer()
    second.put("user", 5, *range(12))
    known = rows_of_all(world)
    world.log._records[0][fence] = world.log._records[0][fence]._replace(payload=b"damaged")
    skip(world, fence)
    assert rows_of_all(world) == known
    history, skips = world.catalog.history(), read_skips(world.catalog)
    live = replay_live(world.log, world.schema, history, 0, 0, 1, world.ends()[0], skips)
    assert [e.offset for e in live if e.offset > fence] == list(range(fence + 1, world.ends()[0]))


def rows_of_all(world):
    replica = replica_of(world, "newcomer")
    step(replica)
    return rows_of(replica)


# ---- retention -------------------------------------------------------------------------------------------------------


def test_a_decision_is_kept_as_long_as_the_log_has_the_offset(world):
    writer = published(world)
    offset = put_broken(world, writer)
    writer.put("item", 3, *range(12))
    skip(world, offset)
    world.commit(world.mark(writer))
    env = world.environment()
    apply_retention(env, plan_retention(env), why="")
    assert read_skips(world.catalog).has(0, offset)
    world.log.truncate(0, offset + 1)
    plan = plan_retention(env)
    assert plan.expired_skips == ((0, offset),)
    apply_retention(env, plan, why="")
    assert not read_skips(world.catalog).offsets
