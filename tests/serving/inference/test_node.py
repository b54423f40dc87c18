"""A node beside a cluster: never staler, never of two timelines, and what it does when nobody answers."""

import threading

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nodes import SLOW, Replicas, hot, rows_of, steps
from served import SECOND, announce_dense, published, step, world_of
from waiting import reached
from worlds import TABLES, at

from penstock.pipeline.config import InferenceConfig
from penstock.pipeline.core.errors import InvalidInput, NotFound, Unreachable
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event
from penstock.serving.inference import Counted, Feature, InferenceNode
from penstock.serving.replica import Replica

KEYS = list(range(40))


def held(node, table):
    """{key: row} of all hot rows that are here."""
    keys, rows = node.edition.table(table)._rows.scan(range(node.edition.schema.buckets))
    return {key: tuple(row) for key, row in zip(keys.tolist(), rows.view("<f4").tolist(), strict=True)}


def roll_back(world, minute):
    env = world.environment()
    return execute(env, plan_rollback(env, before_event(at(minute))), why="poison")


def test_hot_rows_come_from_the_cluster_and_then_from_the_log(world, writer, begin):
    node, cluster, _ = begin()
    node.choose(hot(item=range(10)))
    steps(node)
    before = cluster.asked
    assert rows_of(node, "item", range(10)) == [world.model["item"][k] for k in range(10)]
    writer.put("item", 2, 3, 4)
    writer.put("item", 3, 20)
    node.step()
    assert rows_of(node, "item", [3, 4]) == [world.model["item"][3], world.model["item"][4]]
    assert cluster.asked == before, "hot rows are not asked for"
    assert node.status().hits == {"hot": 12, "near": 0, "cluster": 0, "defaults": 0}


def test_the_rest_is_asked_for_once_and_then_near_until_the_log_writes_it(world, writer, begin):
    node, cluster, replica = begin(options={"near_expiry": "1h"})
    steps(node)
    assert rows_of(node, "user", [7, 8, 7]) == [world.model["user"][k] for k in (7, 8, 7)]
    assert cluster.asked == 2, "each key once"
    assert rows_of(node, "user", [8, 7]) == [world.model["user"][k] for k in (8, 7)]
    assert cluster.asked == 2
    writer.put("user", 2, 7)
    step(replica)
    node.step()
    assert rows_of(node, "user", [7, 8]) == [world.model["user"][k] for k in (7, 8)]
    assert cluster.asked == 3, "what the log wrote is asked for again"
    world.now += 3601 * SECOND
    node.step()
    rows_of(node, "user", [7, 8])
    assert cluster.asked == 5, "entries expire"


def test_an_answer_of_a_replica_that_lags_is_not_kept(world, writer, begin):
    node, _cluster, replica = begin()
    steps(node)
    writer.put("item", 2, 7)
    node.step()  # the replica has not read it
    old = rows_of(node, "item", [7])
    assert old != [world.model["item"][7]]
    step(replica)
    assert rows_of(node, "item", [7]) == [world.model["item"][7]]


def test_a_key_that_becomes_hot_waits_for_a_replica_that_has_all_that_the_node_has_read(world, writer, begin):
    node, _, replica = begin()
    steps(node)
    writer.put("item", 2, *range(10))
    node.step()
    node.choose(hot(item=range(10)))
    steps(node)
    assert not held(node, "item"), "the replica lags: what it says is older than what the node passed by"
    step(replica)
    steps(node)
    assert held(node, "item") == {k: world.model["item"][k] for k in range(10)}


def test_what_the_log_writes_while_an_errand_is_under_way_is_newer_than_its_answer(world, writer, begin):
    node, _, _ = begin()
    steps(node)
    node.choose(hot(item=range(6)))
    node.editions.follow(0.0)  # the errand is sent
    node.editions.ask()  # and comes back
    writer.put("item", 2, 1)
    writer.put("item", 3, 1, deleted=(2,))
    node.editions.follow(0.0)
    steps(node)
    expected = {k: world.model["item"][k] for k in range(6) if k != 2}
    assert held(node, "item") == expected
    assert rows_of(node, "item", range(6)) == [expected.get(k) for k in range(6)]
    assert node.status().proof["passed"] >= 2


def test_an_answer_from_the_future_waits_until_the_node_has_read_as_far(world, writer, begin):
    node, _, replica = begin()
    steps(node)
    node.choose(hot(item=[1]))
    node.editions.follow(0.0)
    writer.put("item", 2, 1)
    writer.put("item", 3, 1)
    step(replica)
    node.editions.ask()  # what comes is of minute 3
    node.editions._settle_errand()
    assert not held(node, "item"), "the row of minute 2 would be written over it"
    steps(node)
    assert held(node, "item") == {1: world.model["item"][1]}


def test_an_answer_that_the_log_overtakes_is_not_kept(world, writer, begin):
    node, cluster, replica = begin()
    steps(node)
    answers = cluster.answers

    def slow(keys, *, version=None):
        found = answers(keys, version=version)
        writer.put("item", 2, 7)
        node.editions.follow(0.0)
        return found

    cluster.answers = slow
    rows_of(node, "item", [7])
    cluster.answers = answers
    step(replica)
    assert rows_of(node, "item", [7]) == [world.model["item"][7]]


def test_the_old_timeline_and_the_new_one_never_stand_in_one_answer(world, writer, begin):
    node, _, replica = begin(timeout_s=0.0)
    node.choose(hot(item=range(10)))
    writer.put("item", 20, *KEYS)
    steps(node)
    step(replica)
    steps(node)
    roll_back(world, 10)
    step(replica)
    assert rows_of(node, "item", [1])[0][0] == 20, "it has not heard of it"
    with pytest.raises(Unreachable, match="the replicas are on timeline 2, this node is on 1"):
        node.inputs({"item": np.array([1, 30])})
    steps(node)
    assert [row[0] for row in rows_of(node, "item", [1, 30])] == [1, 1]


def test_a_log_that_lost_what_was_not_read_begins_another_edition(world, writer, begin):
    node, _, replica = begin()
    node.choose(hot(item=range(10)))
    steps(node)
    writer.put("item", 2, *range(10))
    world.commit(world.mark(writer))
    step(replica)
    for p in range(world.partitions):
        world.log.truncate(p, world.log.end(p))
    steps(node)
    assert held(node, "item") == {k: world.model["item"][k] for k in range(10)}
    assert node.status().editions == 2


def test_a_record_that_cannot_be_read_costs_trust_until_a_version_leads_past_it(world, writer, begin):
    node, cluster, replica = begin()
    node.choose(hot(item=range(10)))
    steps(node)
    world.log.append(world.partition_of(3), b"no record").result(0)
    writer.put("item", 2, 3)
    step(replica)
    steps(node)
    status = node.status()
    assert status.alarm
    assert not status.trusts
    before = cluster.asked
    rows_of(node, "item", [4])
    assert cluster.asked == before + 1, "hot rows are asked for"
    version = world.commit(world.mark(writer))
    step(replica)
    steps(node)
    assert node.version == version.version
    assert not node.status().alarm
    assert held(node, "item") == {k: world.model["item"][k] for k in range(10)}


def test_an_unknown_key_that_is_hot_is_known_to_be_unknown(world, writer, begin):
    node, cluster, _ = begin()
    node.choose(hot(item=[1, 999]))
    steps(node)
    cluster.down = True
    assert rows_of(node, "item", [999, 1]) == [None, world.model["item"][1]]
    writer.put("item", 2, 999)
    node.step()
    assert rows_of(node, "item", [999]) == [world.model["item"][999]]
    writer.put("item", 3, 2, deleted=(999,))
    node.step()
    assert rows_of(node, "item", [999]) == [None]


def test_the_hot_set_is_chosen_anew_under_writes_without_a_pause(world, writer, begin):
    node, cluster, replica = begin()
    node.choose(hot(item=range(10)))
    steps(node)
    for turn, chosen in enumerate((range(5, 15), range(12, 30), range(2))):
        node.choose(hot(item=chosen))
        for _ in range(8):
            writer.put("item", 2 + turn, *KEYS[turn::3])
            step(replica, 2)
            node.editions._ask_at = 0.0
            node.step()
            node.step()
            assert rows_of(node, "item", KEYS) == [world.model["item"][k] for k in KEYS]
        steps(node)
        assert held(node, "item") == {k: world.model["item"][k] for k in chosen}
    cluster.down = True
    assert rows_of(node, "item", range(2)) == [world.model["item"][k] for k in range(2)]


def test_requests_tell_which_keys_are_hot_and_bytes_bound_them(world, writer, begin):
    row = 4 * 2 + 64
    node, _cluster, _ = begin(options={"hot_bytes": 6 * row, "near_bytes": 0, "recount": "30s"})
    for _ in range(30):
        node.inputs({"item": np.repeat([1, 2, 3], 8), "user": np.repeat([4, 5], 8)})
        node.inputs({"user": np.repeat(KEYS, 1)})
    world.now += 31 * SECOND
    steps(node)
    keys = {name: table.keys for name, table in node.status().tables.items()}
    assert sum(keys.values()) <= 6
    assert {1, 2, 3} <= set(held(node, "item"))
    assert {4, 5} <= set(held(node, "user"))
    assert set(node.edition.table("item").members.keys) | set(node.edition.table("user").members.keys) >= {1, 2, 3, 4, 5}


def test_what_the_training_side_counted_is_hot_from_the_start(world, writer, begin):
    row = 4 * 2 + 64
    counted = {"item": Counted(np.arange(10), np.arange(10.0) ** 2), "user": Counted(np.arange(3), np.array([70.0, 1.0, 0.0]))}
    node, cluster, _ = begin(options={"hot_bytes": 4 * row}, hot=counted)
    steps(node)
    assert set(held(node, "item")) == {9, 8, 7}
    assert set(held(node, "user")) == {0}
    with pytest.raises(NotFound, match="no table"):
        InferenceNode(world.environment(), cluster, hot={"else": Counted(np.arange(1), np.ones(1))})


def test_without_the_cluster_hot_rows_answer_and_the_rest_is_one_error_or_defaults(world, writer, begin):
    node, cluster, _ = begin(options={"near_bytes": 0})
    node.choose(hot(item=range(10)))
    steps(node)
    cluster.down = True
    assert rows_of(node, "item", range(10)) == [world.model["item"][k] for k in range(10)]
    with pytest.raises(Unreachable, match="2 of 4 keys are not among the hot rows, and the cluster does not answer") as raised:
        node.inputs({"item": np.array([1, 2, 20]), "user": np.array([7])})
    assert "defaults" in raised.value.hint
    assert rows_of(node, "item", [1, 20], unreached="defaults") == [world.model["item"][1], None]
    assert node.status().hits["defaults"] == 1
    writer.put("item", 2, 1)
    node.step()
    assert rows_of(node, "item", [1]) == [world.model["item"][1]], "the log is followed on"


def test_hot_rows_that_may_be_stale_are_asked_for_unless_nobody_answers(world, writer, begin):
    node, cluster, replica = begin(options={"max_lag": "1s"})
    node.choose(hot(item=range(10)))
    steps(node)
    before = cluster.asked
    world.now += 2 * SECOND  # nothing was heard of the log since
    assert not node.status().trusts
    writer.put("item", 2, 1)
    step(replica)
    assert rows_of(node, "item", [1, 2]) == [world.model["item"][1], world.model["item"][2]]
    assert cluster.asked == before + 2
    cluster.down = True
    assert rows_of(node, "item", [2]) == [world.model["item"][2]]
    node.step()
    assert node.status().trusts


def test_rows_that_only_a_delta_brings_are_here_before_its_version_is_shown(world, writer, begin):
    node, _, replica = begin()
    node.choose(hot(item=range(10)))
    steps(node)
    writer.keep("item", 2, 3, 4)
    writer.put("item", 2, 5)
    version = world.commit(world.mark(writer))
    steps(node)
    assert node.version < version.version, "no replica has adopted it"
    assert rows_of(node, "item", [5]) == [world.model["item"][5]]
    step(replica)
    steps(node)
    assert node.version == version.version
    assert held(node, "item") == {k: world.model["item"][k] for k in range(10)}
    status = node.status()
    assert (status.proof["changed"], status.differing) == (2, 0)
    assert status.editions == 1


def test_a_hot_row_that_is_not_the_clusters_is_found_and_mended(world, writer, begin):
    node, _, _ = begin(options={"compare": "10s"})
    node.choose(hot(item=range(10)))
    steps(node)
    table = node.edition.table("item")
    table._rows.load(np.array([4]), np.full((1, 2), 13, "<f4").view(np.uint8))
    world.now += 11 * SECOND
    steps(node)
    assert held(node, "item")[4] == world.model["item"][4]
    assert node.status().differing == 1


def test_dense_slice_and_hot_rows_switch_together(world, writer, begin):
    for send in announce_dense(world, writer, 1.0):
        send()
    world.commit(world.mark(writer))
    node, _cluster, replica = begin()
    node.choose(hot(item=range(10)))
    steps(node)
    assert node.inputs({"item": np.arange(3)}).dense["w"][0] == 1
    writer.keep("item", 2, 3)
    old = held(node, "item")[3]
    for send in announce_dense(world, writer, 2.0):
        send()
    version = world.commit(world.mark(writer))
    steps(node)  # the cluster has not come there: neither has the node
    found = node.inputs({"item": np.array([3])})
    assert (found.version, found.dense["w"][0], tuple(found.rows["item"][0])) == (version.version - 1, 1, old)
    step(replica)
    steps(node)
    found = node.inputs({"item": np.array([3])})
    assert (found.version, found.dense["w"][0], tuple(found.rows["item"][0])) == (version.version, 2, world.model["item"][3])


def test_after_a_rollback_nothing_of_the_old_timeline_is_left(world, begin):
    writer = published(world, *KEYS)
    writer.put("item", 5, *range(10))
    for send in announce_dense(world, writer, 1.0):
        send()
    world.commit(world.mark(writer))
    node, cluster, replica = begin()
    node.choose(hot(item=range(10)))
    good = {k: world.model["item"][k] for k in KEYS}
    steps(node)
    assert rows_of(node, "item", KEYS) == [good[k] for k in KEYS]  # some of them near
    writer.put("item", 20, *range(5), *range(30, 35))
    for send in announce_dense(world, writer, 9.0):
        send()
    step(replica)
    steps(node)
    poisoned = node.inputs({"item": np.array(KEYS)})
    assert (poisoned.rows["item"][:, 0] == 20).sum() == 10
    assert poisoned.timeline == 1
    version = roll_back(world, 10)
    steps(node)
    assert node.timeline == 1, "the cluster has not gone back yet"
    step(replica)
    node.editions._ask_at = 0.0
    node.step()
    node.step()
    cluster.down = False
    found = node.inputs({"item": np.array(KEYS)})
    assert (found.timeline, found.version) == (version.timeline, version.version)
    assert [tuple(row) for row in found.rows["item"].tolist()] == [good[k] for k in KEYS]
    assert found.dense["w"][0] == 1
    steps(node)
    assert held(node, "item") == {k: good[k] for k in range(10)}
    assert node.status().editions == 2
    late = world.writer("trainer")
    late.put("item", 11, 1)
    step(replica)
    steps(node)
    assert rows_of(node, "item", [1]) == [world.model["item"][1]]


def test_a_rollback_that_no_replica_follows_counts_after_the_patience(world, writer, begin):
    node, cluster, replica = begin(options={"patience": "2s"})
    node.choose(hot(item=range(10)))
    writer.put("item", 20, 1)
    steps(node)
    step(replica)
    roll_back(world, 10)
    steps(node)
    assert node.timeline == 1
    cluster.down = True
    world.now += 3 * SECOND
    steps(node)
    assert node.timeline == 2
    with pytest.raises(Unreachable, match="1 of 1"):
        node.inputs({"item": np.array([1])})


def test_a_node_of_a_ref_that_follows_versions_is_exactly_at_one(world, begin):
    writer = published(world, *KEYS)
    writer.put("item", 1, 1)
    world.commit(world.mark(writer), promote=("live", "canary"))
    node, _, replica = begin(ref="canary")
    node.choose(hot(item=range(10)))
    steps(node)
    first = {k: world.model["item"][k] for k in KEYS}
    writer.put("item", 2, *range(5), 30)
    writer.keep("item", 2, 6)
    step(replica)
    steps(node)
    assert rows_of(node, "item", KEYS) == [first[k] for k in KEYS], "the log is not followed"
    version = world.commit(world.mark(writer), promote=("live", "canary"))
    steps(node)
    assert rows_of(node, "item", range(10)) == [first[k] for k in range(10)], "no replica has it"
    step(replica)
    steps(node)
    found = node.inputs({"item": np.array(KEYS)})
    assert found.version == version.version
    assert [tuple(row) for row in found.rows["item"].tolist()] == [world.model["item"][k] for k in KEYS]
    assert held(node, "item") == {k: world.model["item"][k] for k in range(10)}


def test_features_are_pooled_and_refused_by_name(world, writer, begin):
    node, _, _ = begin()
    steps(node)
    rows = np.array([world.model["item"][k] for k in range(5)], np.float32)
    found = node.inputs(
        {
            "seen": Feature("item", np.arange(5), np.array([0, 2, 2])),
            "mean": Feature("item", [0, 1], np.array([0]), "mean"),
            "item": [3],
        }
    )
    assert np.array_equal(found.rows["seen"], np.array([rows[:2].sum(0), np.zeros(2), rows[2:].sum(0)], np.float32))
    assert np.array_equal(found.rows["mean"], rows[:2].mean(0, keepdims=True))
    assert np.array_equal(found.rows["item"], rows[3:4])
    for wrong, error, said in (
        ({"else": [1]}, NotFound, "no table 'else'"),
        ({"item": ["text"]}, InvalidInput, "its keys are numbers"),
        ({"x": Feature("item", [1, 2], np.array([1]))}, InvalidInput, "the first bag"),
        ({"item": np.ones((2, 2), np.int64)}, InvalidInput, "one dimension"),
    ):
        with pytest.raises(error, match=said):
            node.inputs(wrong)
    with pytest.raises(InvalidInput, match="names no feature transform"):
        node.transformed({})
    with pytest.raises(NotFound):
        node.choose(hot(other=[1]))


OTHERS = ("follow", "errand", "look", "replica", "commit", "down")
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(TABLES), st.lists(st.integers(0, 19), min_size=1, max_size=6)),
        st.tuples(st.just("delete"), st.sampled_from(TABLES), st.lists(st.integers(0, 19), min_size=1, max_size=3)),
        st.tuples(st.just("keep"), st.sampled_from(TABLES), st.lists(st.integers(0, 19), min_size=1, max_size=3)),
        st.tuples(st.just("choose"), st.sampled_from(TABLES), st.lists(st.integers(0, 22), max_size=12)),
        st.tuples(st.just("ask"), st.sampled_from(TABLES), st.lists(st.integers(0, 22), min_size=1, max_size=8)),
        *(st.tuples(st.just(name), st.just(""), st.just([])) for name in OTHERS),
    ),
    max_size=40,
)


@given(ACTIONS)
@settings(max_examples=60, deadline=None)
def test_at_one_position_a_hot_row_is_the_clusters_row(actions):
    """Whatever happens in whatever order: a hot row is what the log said last before the node's position, or newer; and at the
    end all is as in a replica."""
    world = world_of()
    world.config = msgspec.structs.replace(world.config, inference=InferenceConfig(**SLOW))
    writer = published(world, *range(20))
    replica = Replica(world.environment(), name="r")
    cluster = Replicas(replica)
    node = InferenceNode(world.environment(), cluster, timeout_s=0.0)
    event = 2
    for kind, table, drawn in actions:
        keys = list(dict.fromkeys(drawn))
        event += 1
        if kind == "put":
            writer.put(table, event, *keys)
        elif kind == "delete":
            writer.put(table, event, deleted=tuple(keys))
        elif kind == "keep":
            writer.keep(table, event, *keys)
        elif kind == "choose":
            node.choose(hot(**{table: keys}))
        elif kind == "follow":
            node.editions._ask_at = 0.0
            node.editions.follow(0.0)
        elif kind == "errand":
            node.editions.ask()
        elif kind == "look":
            node.editions.read()
            node.editions.look()
        elif kind == "replica":
            step(replica, 3)
        elif kind == "commit":
            world.commit(world.mark(writer))
        elif kind == "down":
            cluster.down = not cluster.down
        elif not cluster.down:
            check_not_staler(world, node, replica, table, keys)
        for name in TABLES:
            check_hot(world, node, name)
    cluster.down = False
    step(replica)
    steps(node)
    step(replica)
    steps(node)
    for name in TABLES:
        members = node.edition.table(name).members.keys.tolist()
        assert held(node, name) == {k: row for k, row in replica_rows(replica, name, members).items() if row is not None}
        assert rows_of(node, name, range(23)) == list(replica_rows(replica, name, range(23)).values())
    assert node.status().differing == 0


def replica_rows(replica, table, keys):
    answer = replica.lookup(table, np.array(list(keys), np.int64))
    return {k: tuple(row) if there else None for k, row, there in zip(keys, answer.rows.tolist(), answer.found, strict=True)}


def written_at(world, table, offsets):
    """{key: (offset, row or None)} by the last record before these offsets that names it."""
    found = {}
    for p, end in offsets.items():
        for offset, record in world.records(p):
            if offset < end and record.table == table and len(record.keys):
                values = record.rows.view("<f4").tolist() if len(record.rows) else []
                found |= {k: tuple(row) for k, row in zip(record.put_keys.tolist(), values, strict=True)}
                found |= dict.fromkeys(record.tombstones.tolist())
    return found


def check_hot(world, node, table):
    """No hot row is older than what the log says up to where the node stands."""
    said = written_at(world, table, node.edition.offsets())
    for key, row in held(node, table).items():
        if said.get(key) is not None:
            assert row[1] >= said[key][1], (key, row, said[key])
        elif key in said:
            pytest.fail(f"key {key} was deleted, and is here")


def check_not_staler(world, node, replica, table, keys):
    """An answer is not older than the replica's where both stand at one position; else not older than what both have read."""
    mine, theirs = node.edition.offsets(), {p: s.applied for p, s in replica.follower.partitions.items()}
    said = written_at(world, table, {p: min(mine[p], theirs[p]) for p in mine})
    for key, row in zip(keys, rows_of(node, table, keys), strict=True):
        if row is not None and said.get(key) is not None:
            assert row[1] >= said[key][1], (key, row, said[key])


def test_scoring_through_a_rollback_never_mixes_timelines(world):
    """A service that asks all the time, in threads: each answer is of the old timeline or of the new one, and none goes back."""
    world.config = msgspec.structs.replace(world.config, inference=InferenceConfig(**SLOW))
    writer = published(world, *KEYS)
    replica = Replica(world.environment(), name="r")
    replica.start()
    cluster = Replicas(replica)
    node = InferenceNode(world.environment(), cluster)
    node.choose(hot(item=range(20)))
    node.start()
    answers, done = [], threading.Event()

    def score():
        while not done.is_set():
            answers.append(node.inputs({"item": np.array(KEYS)}))

    scoring = threading.Thread(target=score)
    scoring.start()
    try:
        writer.put("item", 20, *KEYS)
        reached(lambda: bool(answers) and (answers[-1].rows["item"][:, 0] == 20).all())
        version = roll_back(world, 10)
        reached(lambda: _aged(world) and answers[-1].version == version.version)
    finally:
        done.set()
        scoring.join()
        node.close()
        replica.close()
    turned = next(i for i, found in enumerate(answers) if found.timeline == 2)
    assert all(found.timeline == 2 for found in answers[turned:])
    for found in answers[turned:]:
        assert (found.rows["item"][:, 0] == 1).all(), "nothing of what was taken back"
    assert any((found.rows["item"][:, 0] == 20).all() for found in answers[:turned])


def _aged(world):
    world.now += 20_000
    return True
