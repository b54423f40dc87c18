"""Compaction when it is due, retention as of an interval, a restore like a newcomer's, freshness."""

from __future__ import annotations

import msgspec
import pytest
from worlds import MINUTE, World, at

from penstock.pipeline.config import RecoveryConfig, RetentionConfig
from penstock.pipeline.core.errors import Refused
from penstock.pipeline.ports.store import Overwrite
from penstock.pipeline.runs.care import check_fresh, compact_if_due, compare, freshness, restore, retain, version_at
from penstock.publishers.verification import verify


@pytest.fixture
def world():
    """Five versions, one a minute."""
    found = World()
    found.config = msgspec.structs.replace(
        found.config, retention=RetentionConfig(max_chain=4), recovery=RecoveryConfig(window="2m"),
    )  # fmt: skip
    trainer = found.writer()
    for minute in range(1, 6):
        trainer.put("item", minute, *range(minute, minute + 8))
        trainer.put("user", minute, minute)
        found.commit(found.mark(trainer), snapshot=minute == 1)
    return found


def test_it_compacts_once_the_chain_is_too_long(world):
    env = world.environment()
    made = compact_if_due(env, why="test")
    assert (made.kind, str(made.state)) == ("compaction", "1-5")
    assert compact_if_due(env, why="test") is None
    assert env.catalog.refs().ref("live").version == 5


def test_a_version_is_the_one_of_its_time(world):
    env = world.environment()
    assert [version_at(env, at(minute)) for minute in (2.5, 3, 3.5, 60)] == [2, 2, 3, 5]
    assert version_at(env, at(-5)) == 5, "nothing was there: what is live"


def test_retention_goes_by_its_interval_though_it_runs_late(world):
    """Ten hours later nothing but the newest version is needed; the run is about a time at which all were."""
    compact_if_due(world.environment(), why="test")
    world.now = at(600)
    assert retain(world.environment(), until=at(5), why="test").expired_versions == ()
    assert world.catalog.history().trunk[0].version == 0
    gone = retain(world.environment(), until=at(600), why="test").expired_versions
    assert gone
    assert world.catalog.history().trunk[0].version > max(gone)
    assert verify(world.environment()).ok


def test_retention_of_an_interval_that_has_not_ended_is_of_now(world):
    compact_if_due(world.environment(), why="test")
    assert retain(world.environment(), until=at(10_000), why="test").expired_versions == ()


@pytest.mark.parametrize("of", [1, 2, 3, 20])
def test_a_version_is_restored_in_parts_and_read(world, of):
    env, newest = world.environment(), world.catalog.history().newest
    parts = [restore(env, newest.version, part=part, of=of, name=f"part-{part}") for part in range(1, of + 1)]
    expected = {table: len(rows) for table, rows in world.rows(newest).items()}
    assert {table: sum(part.rows.get(table, 0) for part in parts) for table in expected} == expected
    assert [part.buckets[0] for part in parts[1:]] == [part.buckets[1] for part in parts[:-1]]
    found = compare(env, newest.version, parts)
    assert found.ok
    assert not list(world.store.list(f"{world.catalog.model}/presence/")), "nobody is sent to a replica that is only a test"


def test_a_chain_that_has_not_its_digests_is_not_restored(world):
    env, newest = world.environment(), world.catalog.history().newest
    made = compact_if_due(env, why="test")
    path = made.full["item"].runs[0].path
    data = bytearray(world.store.get(path).data)
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    world.store.put(path, bytes(data), Overwrite())
    with pytest.raises(Refused):
        compare(env, newest.version, [restore(env, newest.version, part=1, of=1, name="whole")])


def test_a_replica_that_restored_something_else_is_a_finding(world):
    env, newest = world.environment(), world.catalog.history().newest
    part = restore(env, newest.version, part=1, of=1, name="whole")
    other = msgspec.structs.replace(part, digest="0" * 32)
    with pytest.raises(Refused, match="a replica restored digest 0000"):
        compare(env, newest.version, [other])


def test_freshness_is_that_of_the_oldest_partition_served(world):
    env, history = world.environment(), world.catalog.history()
    world.now = at(10)
    assert (freshness(env).seconds, freshness(env).replicas) == (300, 0)
    world.presence("new", history.newest, world.ends(), until=at(20))
    world.presence("old", history.version(3), world.ends(), until=at(20))
    found = freshness(env)
    assert (found.seconds, found.replicas) == (7 * 60, 2)
    check_fresh(found, 7 * MINUTE)
    with pytest.raises(Refused, match="more than 60 s ago"):
        check_fresh(found, MINUTE)
    with pytest.raises(Refused, match="partition 0: it stands"):
        check_fresh(msgspec.structs.replace(found, alarms=("old, partition 0: it stands",)), 7 * MINUTE)


def test_a_model_that_has_learned_nothing_is_not_fresh():
    found = freshness(World().environment())
    assert found.seconds is None
    with pytest.raises(Refused, match="never"):
        check_fresh(found, MINUTE)
