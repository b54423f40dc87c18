"""Lookups: exactly one version, tables that refuse, and readers beside a replica that follows."""

import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
from served import announce_dense, dense_value, partition, published, step, world_of

from penstock.pipeline.core.errors import InvalidInput, NotFound, Refused, VersionGone
from penstock.pipeline.core.schema import TableSchema
from penstock.publishers.promotion import promote
from penstock.serving.replica import Replica

KEYS = np.arange(12)


@pytest.fixture
def world():
    return world_of(before_image_bytes=1 << 16)


def replica_of(world, **options):
    return Replica(world.environment(), name="r", **options)


def test_a_version_is_served_exactly_while_the_log_is_followed(world):
    writer = published(world)
    replica = replica_of(world)
    before = replica.lookup("item", KEYS)
    writer.put("item", 2, 1, 2, 3, 50, deleted=(4,))
    step(replica)
    assert set(replica.lookup("item", KEYS).rows[:, 0]) == {0, 1, 2}
    at_1 = replica.lookup("item", KEYS, version=1)
    assert np.array_equal(at_1.rows, before.rows)
    assert (at_1.version, at_1.timeline) == (1, 1)
    world.commit(world.mark(writer))
    writer.put("item", 3, *range(12))
    step(replica)
    assert set(replica.lookup("item", KEYS).rows[:, 0]) == {3}
    assert set(replica.lookup("item", KEYS, version=2).rows[:, 0]) == {0, 1, 2}
    assert np.array_equal(replica.lookup("item", KEYS, version=1).rows, before.rows)
    with pytest.raises(VersionGone, match="not among those retained"):
        replica.lookup("item", KEYS, version=9)


def test_a_version_that_no_longer_fits_into_memory_is_gone():
    world = world_of(before_image_bytes=64)
    writer = published(world)
    replica = replica_of(world)
    writer.put("item", 2, *range(12))
    step(replica)
    with pytest.raises(VersionGone, match="budget"):
        replica.lookup("item", KEYS, version=1)
    assert set(replica.lookup("item", KEYS).rows[:, 0]) == {2}


@pytest.mark.parametrize(("absent", "given"), [("zeros", (0.0, 0.0)), ((1.0, 2.0), (1.0, 2.0)), ("refuse", None)])
def test_what_an_unknown_key_gives(world, absent, given):
    world.catalog.add_tables({"shop": TableSchema(dim=2, codec="float32", width=8, absent=absent)})
    writer = published(world)
    writer.touched["shop"] = set()
    world.model["shop"] = {}
    replica = replica_of(world)
    if given is None:
        with pytest.raises(Refused, match=r"table shop has no key 7 \(2 of 2 are unknown\)"):
            replica.lookup("shop", np.array([7, 8]))
    else:
        answer = replica.lookup("shop", np.array([7]))
        assert (tuple(answer.rows[0]), answer.found.tolist()) == (given, [False])


def test_what_cannot_be_asked(world):
    published(world)
    replica = replica_of(world, buckets=range(4))
    with pytest.raises(NotFound, match="no table 'nowhere'"):
        replica.lookup("nowhere", KEYS)
    with pytest.raises(Refused, match="1001 keys"):
        replica.lookup("item", np.arange(1001))
    with pytest.raises(InvalidInput):
        replica.lookup("item", KEYS.astype(np.int32))
    with pytest.raises(Refused, match="no bucket that this replica holds"):
        replica.lookup("item", KEYS)
    with pytest.raises(Refused, match="the model has 8"):
        replica_of(world, buckets=range(4, 9))


def test_several_tables_are_answered_from_one_buffer(world):
    published(world)
    replica = replica_of(world)
    answers = replica.lookup_many([("item", KEYS), ("user", KEYS[:0]), ("user", KEYS[:3])])
    assert [answer.rows.shape for answer in answers] == [(12, 2), (0, 2), (3, 2)]
    assert len({id(answer.rows.base) for answer in answers}) == 1
    assert np.array_equal(answers[2].rows, replica.lookup("user", KEYS[:3]).rows)


class Readers:
    """Threads that look up while the block runs; whatever they raise is raised at its end."""

    def __init__(self, look, threads=3):
        self.look, self.stop, self.rounds = look, threading.Event(), 0
        self.pool = ThreadPoolExecutor(threads)
        self.futures = [self.pool.submit(self.run) for _ in range(threads)]

    def run(self):
        while not self.stop.is_set():
            self.look()
            self.rounds += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.pool.shutdown()
        for future in self.futures:
            future.result()


def test_readers_of_a_ref_that_follows_versions_see_exactly_one(world):
    """While partitions adopt one after the other, forth and back, every answer is one version's, and says which."""
    writer = published(world)
    for event in range(2, 8):
        writer.keep("item", event, *range(12))
        writer.keep("user", event, *range(12))
        for send in announce_dense(world, writer, float(event)):
            send()
        world.commit(world.mark(writer))
    promote(world.environment(), 1, ref="canary", why="try")
    replica = replica_of(world, ref="canary")

    def look():
        answers = replica.lookup_many([("item", KEYS), ("user", KEYS)])
        assert {float(x) for answer in answers for x in answer.rows[:, 0]} == {float(answers[0].version)}

    with Readers(look) as readers:
        for version in [2, 3, 4, 5, 6, 7, 2, 7, 1, 4] * 4:
            promote(world.environment(), version, ref="canary", why="try")
            step(replica, 4)
            assert replica.version == version
            assert dense_value(replica) == (None if version == 1 else float(version))
    assert readers.rounds > 0


def test_readers_of_one_version_see_it_while_the_log_is_followed():
    world = world_of(markers=8)
    writer = published(world)
    replica = replica_of(world)
    expected = replica.lookup("item", KEYS).rows.copy()

    def look():
        assert np.array_equal(replica.lookup("item", KEYS, version=1).rows, expected)

    with Readers(look) as readers:
        for event in range(2, 9):
            for _ in range(10):
                writer.put("item", event, *range(12), deleted=(40,))
                step(replica, 1)
            world.commit(world.mark(writer))
            step(replica, 3)
    assert readers.rounds > 0
    assert replica.version == 8


def test_a_replica_of_one_version_serves_that_for_ever(world):
    writer = published(world)
    writer.put("item", 2, *range(12))
    world.commit(world.mark(writer))
    fixed = replica_of(world, at=1)
    writer.put("item", 3, *range(12))
    world.commit(world.mark(writer))
    step(fixed)
    assert fixed.version == 1
    assert set(fixed.lookup("item", KEYS).rows[:, 0]) == {1}
    assert fixed.report().ref == "@1"
    assert partition(fixed, 0).version == 1


def test_the_default_row_of_the_schema_is_that_of_its_birth(world):
    """A replica asks the catalog, not the config of the day."""
    published(world)
    world.config = msgspec.structs.replace(world.config, models={})
    assert replica_of(world).lookup("item", np.array([999])).rows.tolist() == [[0.0, 0.0]]
