"""How a replica takes versions: free of bytes, in part, whole, back, and anew from the chain."""

import itertools
import random

import numpy as np
import pytest
from faulty import one_read_fails
from served import announce_dense, check_same, counted, dense_value, partition, published, rows_of, step, world_of
from waiting import reached
from worlds import TABLES, at

from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.errors import ChainBroken, Unreachable, VersionGone
from penstock.pipeline.core.ids import Partition
from penstock.pipeline.ports.store import Overwrite
from penstock.publishers.promotion import promote
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event
from penstock.serving import adoption
from penstock.serving.replica import Replica


@pytest.fixture
def world():
    return world_of()


def replica_of(world, name="r", **options):
    return Replica(world.environment(), name=name, **options)


def roll_back(world, event, **options):
    env = world.environment()
    return execute(env, plan_rollback(env, before_event(at(event)), **options), why="poison")


def digests_at(world, replica):
    """Of the replica and of a newcomer, at the version that both have confirmed."""
    assert replica.confirmed.manifest.version == world.catalog.refs().trunk
    return replica.confirmed.digests, world.digests(replica.confirmed.manifest)


def test_what_the_log_has_brought_is_adopted_without_reading_anything(world):
    writer = published(world)
    replica = replica_of(world)
    writer.put("item", 2, 1, 2, 60, deleted=(3,))
    manifest = world.commit(world.mark(writer))
    for path in manifest.data_paths():
        world.store.delete(path)
    step(replica)
    assert (replica.version, counted(replica, "adopted_free"), counted(replica, "adopted_taken")) == (2, 2, 0)
    assert rows_of(replica) == world.model


def test_rows_that_were_lost_are_taken_but_for_keys_written_since(world):
    writer = published(world)
    replica = replica_of(world)
    writer.keep("item", 2, *range(12))
    state = world.mark(writer)
    writer.put("item", 3, 0, 1, 2)
    step(replica)
    world.commit(state)
    step(replica)
    assert counted(replica, "adopted_taken") == 2
    assert rows_of(replica) == world.model
    own, whole = digests_at(world, replica)
    assert all(np.array_equal(own[table], whole[table]) for table in TABLES)
    check_same(world, replica)


def test_a_correction_that_was_cut_short_and_tried_again_counts_once(world, monkeypatch):
    for reads in itertools.count():
        world = world_of()
        writer = published(world)
        replica = replica_of(world)
        writer.keep("item", 2, *range(12))
        writer.keep("user", 2, *range(12))
        state = world.mark(writer)
        writer.put("item", 3, *range(6))
        writer.put("user", 3, *range(6))
        step(replica)
        world.commit(state)
        replica.refresh()
        with one_read_fails(monkeypatch, replica.adoption.store, reads) as failed:
            try:
                step(replica)
            except Unreachable:
                step(replica)
        own, whole = digests_at(world, replica)
        assert all(np.array_equal(own[table], whole[table]) for table in TABLES)
        check_same(world, replica)
        if not failed():
            break
    assert reads > 8


def test_a_row_that_was_corrected_is_served_at_no_older_version(world):
    writer = published(world)
    replica = replica_of(world)
    writer.put("item", 2, 0)
    world.commit(world.mark(writer))
    step(replica)
    assert replica.lookup("item", np.array([0]), version=1).rows[0, 0] == 1
    writer.keep("item", 3, *range(12))
    state = world.mark(writer)
    writer.put("item", 4, 5)
    step(replica)
    world.commit(state)
    step(replica)
    for version in (1, 2):
        with pytest.raises(VersionGone, match=f"version {version}"):
            replica.lookup("item", np.arange(12), version=version)
    with pytest.raises(VersionGone, match="version 3"):  # what key 5 was there is known to the delta alone
        replica.lookup("item", np.arange(12), version=3)
    writer.put("item", 5, 1)
    world.commit(world.mark(writer))
    writer.put("item", 6, *range(12))
    step(replica)
    assert set(replica.lookup("item", np.arange(12), version=4).rows[:, 0]) == {3, 4, 5}
    with pytest.raises(VersionGone):
        replica.lookup("item", np.arange(12), version=3)


def test_a_marker_that_was_forgotten_means_loading_anew(world):
    writer = published(world)
    replica = replica_of(world)
    writer.keep("item", 2, 1)
    states = []
    for event in range(3, 8):
        writer.put("item", event, event)
        states.append(world.mark(writer))
    step(replica)
    assert len(partition(replica, 0).marked) == 1 + 3
    world.commit(states[0])
    step(replica)
    assert counted(replica, "reloaded") == 2
    assert rows_of(replica) == world.model | {"item": world.model["item"]}
    check_same(world, replica)


def test_outstanding_markers_and_versions_held_are_bounded(world):
    writer = published(world)
    replica = replica_of(world)
    for event in range(2, 12):
        writer.put("item", event, event)
        state = world.mark(writer)
        step(replica, 3)
        world.commit(state)
        step(replica, 3)
    state = partition(replica, 0)
    assert [s.marker for s in state.held] == [8, 9, 10]
    assert all(len(table.labels(Partition(0))) == 4 for table in replica.follower.tables.values())
    assert replica.lookup("item", np.array([8, 9]), version=8).rows[:, 0].tolist() == [8, 1]
    with pytest.raises(VersionGone):
        replica.lookup("item", np.array([9]), version=7)


@pytest.mark.parametrize("close", [0, 100_000])
def test_one_that_lags_jumps_and_one_that_is_close_reads_on(world, monkeypatch, close):
    monkeypatch.setattr(adoption, "CLOSE_RECORDS", close)
    writer = published(world)
    replica = replica_of(world)
    writer.put("item", 2, *range(12), deleted=(20,))
    writer.put("user", 2, 3, deleted=(4,))
    state = world.mark(writer)
    world.commit(state)
    writer.put("item", 3, 1)
    replica.refresh()
    replica._follow(0.0) if close else [replica.adoption.adopt_next(Partition(p)) for p in (0, 1)]
    step(replica)
    assert counted(replica, "jumped") == (0 if close else 2)
    assert rows_of(replica) == world.model
    check_same(world, replica)


def test_a_log_that_has_lost_its_end_does_not_make_a_replica_wait(world):
    writer = published(world)
    replica = replica_of(world)
    kept = [list(records) for records in world.log._records]
    writer.put("item", 2, *range(12))
    world.commit(world.mark(writer))
    world.log._records = kept  # as after a crash of a log that was not synced
    step(replica)
    assert rows_of(replica) == world.model
    assert all("neither" in partition(replica, p).alarm for p in (0, 1))
    assert not replica.ready(world.now)


def test_a_position_that_the_log_has_dropped_means_loading_anew(world):
    writer = published(world)
    replica = replica_of(world)
    writer.put("item", 2, *range(12))
    writer.keep("user", 2, 3)
    world.commit(world.mark(writer))
    writer.put("item", 3, 1, 2)
    for p in (0, 1):
        world.log.truncate(p, world.ends()[p] - 1)
    step(replica)
    assert counted(replica, "reloaded") + counted(replica, "jumped") >= 1
    assert rows_of(replica) == world.model
    check_same(world, replica)


def test_a_chain_that_the_log_does_not_reach_is_an_alarm_until_the_next_version(world):
    writer = published(world)
    replica = replica_of(world)
    writer.put("item", 2, *range(12))
    writer.put("item", 3, 1, 2)
    for p in (0, 1):
        world.log.truncate(p, world.ends()[p])
    step(replica)
    assert all("nor version 1" in partition(replica, p).alarm for p in (0, 1))
    world.commit(world.mark(writer))
    step(replica)
    assert not any(partition(replica, p).alarm for p in (0, 1))
    check_same(world, replica)


def spoil(world, replica, key=0, table="item"):
    """A row of the replica changes behind everybody's back."""
    p = world.partition_of(key)
    replica.follower.tables[table].correct(Partition(p), np.array([key]), np.full((1, 8), 9, np.uint8), np.empty(0, np.int64))
    return p


def test_a_bucket_that_disagrees_is_loaded_anew_and_counted(world):
    writer = published(world)
    replica = replica_of(world)
    writer.put("item", 2, 5)
    state = world.mark(writer)
    p = spoil(world, replica)
    step(replica)
    manifest = world.commit(state)
    world.base(manifest)  # it states the digests of the state
    step(replica)
    assert partition(replica, p).counters.disagreed == 1
    assert partition(replica, 1 - p).counters.disagreed == 0
    assert rows_of(replica) == world.model
    check_same(world, replica)


def test_a_version_that_disagrees_is_not_shown_while_it_is_loaded_anew(world, monkeypatch):
    """Invariant 9: whoever asks for exactly this version gets exactly its rows, or is told that it is not there."""
    for is_jump in (False, True):
        world = world_of()
        writer = published(world)
        replica = replica_of(world)
        writer.put("item", 2, 5)
        state = world.mark(writer)
        p = spoil(world, replica)
        if not is_jump:
            step(replica)
        manifest = world.commit(state)
        world.base(manifest)
        if is_jump:
            world.log.truncate(p, world.ends()[p])
            monkeypatch.setattr(adoption, "CLOSE_RECORDS", -1)
        told, real, keys = [], adoption.load_part, np.arange(12)

        def load_part(*arguments, replica=replica, told=told, real=real, keys=keys):
            with pytest.raises(VersionGone, match="version 2"):
                replica.lookup("item", keys, version=2)
            told.append(arguments)
            if len(told) == 1:
                raise Unreachable("no reply")
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(adoption, "load_part", load_part)
            replica.refresh()
            with pytest.raises(Unreachable):
                step(replica)
            step(replica)
        assert len(told) == 2
        assert rows_of(replica) == world.model
        assert replica.lookup("item", keys, version=2).rows.tolist() == [list(world.model["item"][key]) for key in range(12)]
        check_same(world, replica)


def test_a_load_that_was_cut_short_is_done_again_and_nothing_read_since_is_lost(monkeypatch):
    for reads in itertools.count():
        world = world_of()
        writer = published(world)
        replica = replica_of(world)
        writer.put("item", 2, 5)
        writer.put("user", 2, 5)
        state = world.mark(writer)
        writer.put("item", 3, *range(12))
        writer.put("user", 3, *range(12))
        spoil(world, replica, key=1)
        spoil(world, replica, key=1, table="user")
        step(replica)
        world.base(world.commit(state))
        with one_read_fails(monkeypatch, replica.adoption.store, reads) as failed:
            try:
                step(replica)
            except Unreachable:
                step(replica)
        assert rows_of(replica) == world.model
        check_same(world, replica)
        if not failed():
            break
    assert reads > 4


def test_a_chain_that_is_not_what_it_states_stops_a_newcomer(world):
    writer = published(world)
    writer.put("item", 2, 5)
    manifest = world.commit(world.mark(writer))
    base = world.base(manifest)
    wrong = {**base.full, "item": base.full["user"]}
    import msgspec

    from penstock.pipeline.catalog import keys
    from penstock.pipeline.core.documents import encode

    full = msgspec.structs.replace(
        base, full={**base.full, "item": msgspec.structs.replace(base.full["item"], state=wrong["item"].state)}
    )
    world.store.put(keys.manifest("retail", base.version), encode(full), Overwrite())
    with pytest.raises(ChainBroken, match="digests"):
        replica_of(world)


def test_a_delta_that_is_damaged_is_an_alarm_and_a_base_beside_it_the_cure(world):
    writer = published(world)
    replica = replica_of(world)
    good = world.copy()
    writer.keep("item", 2, *range(12))
    manifest = world.commit(world.mark(writer))
    paths = sorted(manifest.data_paths())
    bytes_of = {path: world.store.get(path).data for path in paths}
    for path in paths:
        world.store.delete(path)
    step(replica)
    assert all("version 2 cannot be loaded" in partition(replica, p).alarm for p in (0, 1))
    assert replica.lookup("item", np.array([1])).found.all()
    assert not replica.ready(world.now)
    for path, data in bytes_of.items():
        world.store.put(path, data, Overwrite())
    world.base(manifest)
    step(replica)
    assert not any(partition(replica, p).alarm for p in (0, 1))
    check_same(world, replica)
    assert good.catalog.refs().trunk == 1


def test_a_link_that_is_not_retained_any_more_means_loading_anew(world):
    import msgspec

    writer = published(world)
    replica = replica_of(world)
    for event in (2, 3):
        writer.keep("item", event, event, event + 5)
        manifest = world.commit(world.mark(writer))
    world.base(manifest)
    world.catalog.move(lambda refs: msgspec.structs.replace(refs, oldest=3), what="retention", actor=world.actor())
    step(replica)
    assert counted(replica, "reloaded") == 2
    assert rows_of(replica) == world.model
    check_same(world, replica)


# ---- dense -----------------------------------------------------------------------------------------------------------


def test_a_dense_slice_counts_once_it_has_passed_everywhere(world):
    writer = published(world)
    replica = replica_of(world)
    assert dense_value(replica) is None
    first, second = announce_dense(world, writer, 1.0)
    first()
    step(replica)
    assert dense_value(replica) is None
    second()
    step(replica)
    assert dense_value(replica) == 1.0
    for send in announce_dense(world, writer, 2.0):
        send()
    manifest = world.commit(world.mark(writer))
    step(replica)
    assert dense_value(replica) == 2.0
    assert replica.confirmed.manifest.dense.digest == manifest.dense.digest
    assert dense_value(replica_of(world, "newcomer")) == 2.0


def test_a_replica_of_some_buckets_switches_the_dense_slice_as_well(world):
    writer = published(world)
    half = replica_of(world, buckets=range(4, 8))
    assert list(half.follower.partitions) == [1]
    for value in (1.0, 2.0):
        for send in announce_dense(world, writer, value):
            send()
        step(half)
        assert dense_value(half) == value
    world.commit(world.mark(writer))
    step(half)
    assert dense_value(half) == 2.0


def test_a_rollback_takes_the_dense_slice_back(world):
    writer = published(world)
    for send in announce_dense(world, writer, 1.0):
        send()
    world.commit(world.mark(writer))
    replica = replica_of(world)
    writer._learn(7)
    for send in announce_dense(world, writer, 7.0):
        send()
    step(replica)
    assert dense_value(replica) == 7.0
    roll_back(world, 7)
    step(replica)
    assert dense_value(replica) == 1.0
    assert rows_of(replica) == rows_of(replica_of(world, "newcomer"))


def test_a_dense_slice_that_is_damaged_is_trouble_and_rows_go_on(world):
    writer = published(world)
    replica = replica_of(world)
    sends = announce_dense(world, writer, 1.0)
    world.store.put(writer.dense.path, b"x" * writer.dense.bytes, Overwrite())
    for send in sends:
        send()
    writer.put("item", 2, 1)
    replica.start()
    try:
        reached(lambda: replica.trouble and rows_of(replica) == world.model)
        assert "digest" in replica.trouble
        assert not replica.ready(world.now)
    finally:
        replica.close()


# ---- refs that follow versions -----------------------------------------------------------------------------------------


def test_a_ref_that_follows_versions_moves_by_these_alone_and_also_back(world):
    writer = published(world)
    promote(world.environment(), 1, ref="canary", why="try")
    canary = replica_of(world, ref="canary")
    expected = {1: rows_of(canary)}
    for version in (2, 3, 4):
        writer.put("item", version, version, version + 1, deleted=(version + 4,))
        writer.keep("user", version, version)
        world.commit(world.mark(writer))
        expected[version] = world.rows(world.catalog.manifest(version))
        step(canary)
        assert rows_of(canary) == expected[1]
    for version in (3, 2, 4, 1):
        promote(world.environment(), version, ref="canary", why="try")
        step(canary)
        assert canary.version == version
        assert rows_of(canary) == expected[version]
        check_same(world, canary)


def test_a_ref_that_follows_versions_is_rolled_back_as_well(world):
    for behind in (1, 2, 3):
        world = world_of()
        writer = published(world)
        writer.put("item", 2, 1, 2, 60)
        world.commit(world.mark(writer))
        writer.put("item", 3, 2, 3, deleted=(60, 5))
        writer.put("user", 3, 4)
        writer.put("item", 7, 3, 4, 61)
        world.commit(world.mark(writer))
        promote(world.environment(), behind, ref="canary", why="try")
        canary, live = replica_of(world, ref="canary"), replica_of(world, "live")
        manifest = roll_back(world, 7)
        promote(world.environment(), manifest.version, ref="canary", why="healed")
        for _ in range(2):
            step(canary)
            step(live)
        assert canary.version == live.version == manifest.version
        assert rows_of(canary) == rows_of(live) == world.rows(manifest)
        assert counted(canary, "disagreed") == 0


def test_a_rollback_of_one_table(world):
    writer = published(world)
    writer.put("item", 2, 1, 2, 60)
    writer.put("user", 2, 1, 2, 60)
    world.commit(world.mark(writer))
    replica, lagging = replica_of(world), replica_of(world, "lagging")
    writer.put("item", 7, 3, 4, 61)
    writer.put("user", 7, 3, 4, 61)
    step(replica)
    roll_back(world, 7, tables=("item",))
    for r in (replica, lagging):
        step(r)
        assert {row[0] for row in rows_of(r)["item"].values()} == {1, 2}
        assert {row[0] for row in rows_of(r)["user"].values()} == {1, 2, 7}
    assert counted(lagging, "dead") > 0
    check_same(world, replica, lagging)


def test_one_of_two_rollbacks_is_passed_where_rows_are_missing_that_the_other_takes_back(world):
    """The first of them states digests that nobody can have who knows of the second; that is no disagreement."""
    writer = published(world)
    replica = replica_of(world)
    writer.put("item", 3, 3, 4, 61)
    first = roll_back(world, 9, tables=("item",))
    second = roll_back(world, 2, tables=("item",))
    step(replica)
    assert (first.version < second.version, replica.version) == (True, second.version)
    assert counted(replica, "dead") > 0
    assert counted(replica, "disagreed") == counted(replica, "reloaded") == 0
    check_same(world, replica)


# ---- everything, in any order ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
def test_those_who_lived_through_it_hold_what_a_newcomer_holds(seed):
    chance = random.Random(seed)
    world = world_of(markers=chance.choice([1, 2, 5]), partitions=chance.choice([1, 2, 3]), buckets=8)
    writer = published(world)
    promote(world.environment(), 1, ref="canary", why="try")
    replicas = [
        replica_of(world, "log"), replica_of(world, "lagging"), replica_of(world, "part", buckets=range(3, 7)),
        replica_of(world, "canary", ref="canary"),
    ]  # fmt: skip
    states, event = [], 1
    for _ in range(chance.randrange(20, 60)):
        what = chance.choices(
            ["put", "keep", "mark", "commit", "base", "step", "poll", "promote", "rollback", "forget", "crash", "dense"],
            [10, 4, 4, 5, 1, 6, 8, 3, 1, 1, 1, 2],
        )[0]
        some = chance.sample(range(14), chance.randrange(1, 5))
        table = chance.choice(TABLES)
        if what == "put":
            event += chance.randrange(2)
            cut = chance.randrange(len(some) + 1)
            writer.put(table, event, *some[:cut], deleted=some[cut:])
        elif what == "keep":
            writer.keep(table, event, *some)
        elif what == "mark":
            states.append(world.mark(writer))
        elif what == "commit" and states:
            world.commit(states.pop(chance.randrange(len(states))))
            states = [s for s in states if s.marker > world.catalog.history().newest.state.marker]
        elif what == "base" and world.catalog.history().newest.state not in world.catalog.history().bases:
            world.base(world.catalog.history().newest)
        elif what == "step":
            step(chance.choice(replicas), chance.randrange(1, 4))
        elif what == "poll":
            replica = chance.choice(replicas)
            state = chance.choice(list(replica.follower.partitions.values()))
            if replica.follower.may_poll(state):
                found = world.log.poll({state.partition: state.reads_from}, timeout_s=0).get(state.partition, [])
                if found:
                    replica._step(state.partition, found[: chance.randrange(1, 4)])
        elif what == "promote":
            history = world.catalog.history()
            version = chance.choice(history.lineage(history.newest.version))
            promote(world.environment(), version.version, ref="canary", why="try")
        elif what == "rollback":
            if world.catalog.history().newest.rollback is None and event > 2:
                target = chance.randrange(2, event + 1)
                tables = chance.choice([None, None, ("item",)])
                manifest = roll_back(world, target, tables=tables)
                world.model = world.rows(manifest)
                world.states[manifest.state] = next(iter(world.states.values())).__class__(
                    model={t: dict(r) for t, r in world.model.items()}, learned=target - 1, touched={}, dense=None,
                    positions=manifest.positions,
                )  # fmt: skip
                writer, states = world.writer(resume=manifest.state), []
                writer.dense = manifest.dense
        elif what == "forget":
            replica = chance.choice(replicas)
            state = chance.choice(list(replica.follower.partitions.values()))
            if len(state.marked) > 1:
                replica.follower.markers._forget(state, list(state.marked)[-1])
        elif what == "crash":
            at_ = chance.randrange(len(replicas))
            old = replicas[at_]
            replicas[at_] = replica_of(world, old.name, ref=old.ref, buckets=old.buckets)
        elif what == "dense":
            for send in announce_dense(world, writer, float(event)):
                send()
    world.commit(world.mark(writer))
    newest = world.catalog.refs().trunk
    promote(world.environment(), newest, ref="canary", why="try")
    check_same(world, *replicas)
    assert rows_of(replicas[0]) == rows_of(replicas[3]) == world.model
    values = {dense_value(replica) for replica in replicas}
    assert len(values) == 1
    assert counted(replicas[0], "disagreed") == 0
    by_version = [(r.confirmed.manifest.version, r.confirmed.digest) for r in replicas if r.buckets == range(8)]
    assert all(a == b for a, b in itertools.pairwise(by_version)), by_version
    assert DigestVector.of(replicas[0].confirmed.digests["item"]) == DigestVector.of(
        world.digests(replicas[0].confirmed.manifest)["item"]
    )
