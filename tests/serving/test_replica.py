"""The driver of a replica: what it reports, when it should be asked, and what it does when a store or a log does not answer."""

import threading

import numpy as np
import pytest
from served import SECOND, counted, partition, published, rows_of, step, world_of
from waiting import reached

from penstock.pipeline.catalog import leases
from penstock.pipeline.core.errors import InvalidInput, NotFound, PositionGone, Refused, Unreachable
from penstock.pipeline.core.ids import Partition
from penstock.pipeline.ports.memory_log import MemoryLog
from penstock.rollback.freezing import freeze
from penstock.serving.replica import Replica
from penstock.serving.reporting import status_of


class Outage:
    """A store or log that can be made unreachable, or hang until it is let go."""

    def __init__(self, inner):
        self.inner, self.down, self.calls = inner, False, 0
        self.free = threading.Event()
        self.free.set()

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if not callable(found):
            return found

        def call(*arguments, **options):
            self.calls += 1
            self.free.wait(20)
            if self.down:
                raise Unreachable(f"{name}: nobody answers")
            return found(*arguments, **options)

        return call


@pytest.fixture
def world():
    return world_of()


@pytest.fixture
def closing():
    opened = []
    yield lambda replica: opened.append(replica) or replica
    for replica in opened:
        replica.close()


def test_presence_tells_the_digests_at_the_version_and_not_of_now(world):
    writer = published(world)
    replica = Replica(world.environment(), name="r", address="grpc://here:1")
    writer.put("item", 2, 1, 2)
    manifest = world.commit(world.mark(writer))
    writer.put("item", 3, *range(12))
    step(replica)
    (found,) = leases.presences(world.catalog, now=world.now)
    assert (found.replica, found.address, found.ref, found.version) == ("r", "grpc://here:1", "live", 2)
    assert found.until == found.at + 10 * SECOND
    whole = world.digests(manifest)
    for table, digests in whole.items():
        assert np.array_equal(found.digests[table].array(world.buckets), digests)
        assert not np.array_equal(replica.follower.tables[table].digests, digests) or table == "user"
    assert found.digest == replica.confirmed.digest
    assert found.rows == {"item": 12, "user": 12}
    assert [(p.offset, p.end) for p in found.partitions] == [(end, end) for end in world.ends()]
    replica.close()
    assert leases.presences(world.catalog, now=world.now) == []


def test_status_says_everything_of_every_table_and_partition(world):
    writer = published(world)
    replica = Replica(world.environment(), name="r")
    writer.put("item", 2, *range(12))
    step(replica)
    writer.put("item", 2.5, *range(12))
    world.now += 3 * SECOND
    replica.report()
    status = status_of(replica)
    assert (status.version, status.timeline, status.ready, status.failure) == (1, 1, True, "")
    assert status.tables["item"].rows == 12
    assert set(status.table_digests) == {"item", "user"}
    for p, found in enumerate(status.partitions):
        assert (found.lag_records, found.end) == (1, world.ends()[p])
        assert found.freshness_s == pytest.approx(30 + 3)
        assert found.lag_ms == found.silence_s * 1000 == 33_000
        assert found.counters["rows"] > 0
    sums = [sum(int(p.digests["item"], 16) for p in status.partitions) % 2**64]
    assert sums == [int(replica.confirmed.digests["item"].sum())]


def test_it_is_ready_unless_it_is_cut_off_behind_or_stopped(world):
    writer = published(world)
    replica = Replica(world.environment(), name="r")
    assert replica.ready(world.now)
    assert not replica.ready(world.now + 61 * SECOND)  # nothing was heard of log or store
    world.now += 100 * SECOND
    step(replica)
    assert replica.ready(world.now)  # a trainer that is silent is no reason
    writer.put("item", 3, *range(12))
    replica.report()
    assert replica.ready(world.now)
    world.now += 100 * SECOND
    replica.looked_at = replica.heard_at = world.now
    assert not replica.ready(world.now)  # behind by records that are older than the limit
    step(replica)
    assert replica.ready(world.now)
    freeze(world.environment(), "live", why="look")
    writer.put("item", 4, *range(12))
    world.now += 100 * SECOND
    step(replica)
    assert replica.ready(world.now)  # frozen on purpose
    replica.close()
    assert not replica.ready(world.now)


def test_a_store_that_is_away_stops_no_row(world, closing):
    writer = published(world)
    store = Outage(world.store)
    replica = closing(Replica(world.environment(store=store), name="r"))
    replica.start()
    store.down = True
    writer.put("item", 2, *range(12))
    reached(lambda: rows_of(replica) == world.model)
    world.now += 61 * SECOND
    reached(lambda: not replica.ready(world.now))
    store.down = False
    world.commit(world.mark(writer))
    reached(lambda: replica.version == 2 and replica.ready(world.now))
    assert counted(replica, "adopted_free") == 2


def test_a_store_that_hangs_stops_no_row(world, closing):
    writer = published(world)
    store = Outage(world.store)
    replica = closing(Replica(world.environment(store=store), name="r"))
    replica.start()
    store.free.clear()
    world.now += 5 * SECOND
    before = store.calls
    reached(lambda: store.calls > before)
    for event in range(2, 6):
        writer.put("item", event, *range(12))
        reached(lambda: rows_of(replica) == world.model)
    store.free.set()


def test_a_log_that_is_away_is_waited_for(world, closing):
    writer = published(world)
    log = Outage(world.log)
    replica = closing(Replica(world.environment(log=log), name="r"))
    replica.start()
    log.down = True
    reached(lambda: log.calls > 3)
    writer.put("item", 2, *range(12))
    world.now += 61 * SECOND
    reached(lambda: not replica.ready(world.now))
    assert replica.lookup("item", np.array([1])).found.all()
    log.down = False
    reached(lambda: rows_of(replica) == world.model)
    reached(lambda: replica.ready(world.now))


def test_what_nobody_foresaw_ends_following_and_readiness(world, closing):
    published(world)
    replica = closing(Replica(world.environment(), name="r"))
    replica._learn = lambda: 1 / 0
    replica.start()
    reached(lambda: replica.failure is not None)
    assert not replica.ready(world.now)
    assert "division" in status_of(replica).failure


def test_another_log_is_refused(world):
    published(world)
    with pytest.raises(PositionGone, match="log-1"):
        Replica(world.environment(log=MemoryLog(2, identity="log-2")), name="r")


def test_what_it_cannot_be(world):
    published(world)
    env = world.environment()
    with pytest.raises(InvalidInput, match="replica"):
        Replica(env, name="a/b")
    with pytest.raises(NotFound, match="no ref 'nowhere'"):
        Replica(env, name="r", ref="nowhere")
    with pytest.raises(NotFound, match="version 9"):
        Replica(env, name="r", at=9)
    assert leases.pins(world.catalog, now=world.now) == []


def test_a_bootstrap_keeps_what_it_reads_and_lets_it_go(world):
    published(world)
    seen = []

    class Watched(Outage):
        def __getattr__(self, name):
            if name in ("get_range", "local_path"):
                seen.append([pin.version for pin in leases.pins(world.catalog, now=world.now)])
            return super().__getattr__(name)

    Replica(world.environment(store=Watched(world.store)), name="r")
    assert seen
    assert all(pins == [1] for pins in seen)
    assert leases.pins(world.catalog, now=world.now) == []


def test_a_ref_that_moves_during_the_bootstrap_is_caught_up_with(world):
    writer = published(world)
    writer.put("item", 2, 1)
    state = world.mark(writer)

    class Moving(Outage):
        def get(self, key):
            if key.endswith("refs.json") and self.inner.get(key) and not self.down:
                self.down = True
                found = self.inner.get(key)
                world.commit(state)
                return found
            return self.inner.get(key)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    replica = Replica(world.environment(store=Moving(world.store)), name="r")
    assert replica.version == 2
    assert rows_of(replica) == world.model


def test_a_partition_that_stands_still_does_not_hold_the_others_reports_for_ever(world):
    writer = published(world)
    replica = Replica(world.environment(), name="r")
    world.log.append(0, b"noise" * 40)
    for event in range(2, 5):
        writer.put("item", event, *world.keys_in(1, 3))
        world.commit(world.mark(writer))
        step(replica)
    assert replica.confirmed.manifest.version == 4
    assert partition(replica, 0).version == partition(replica, 1).version == 4


def test_the_thread_follows_adopts_and_reports(world, closing):
    writer = published(world)
    replica = closing(Replica(world.environment(), name="r"))
    replica.start()
    for event in range(2, 5):
        writer.put("item", event, *range(12))
        manifest = world.commit(world.mark(writer))
        world.now += SECOND
        reached(lambda version=manifest.version: replica.version == version)

    def told():
        found = leases.presences(world.catalog, now=world.now)
        return found and found[0].version == 4

    reached(told)
    assert partition(replica, 0).counters.adopted_free == 3
    assert Partition(0) in replica.latency_ms


def test_buckets_that_do_not_exist_are_refused(world):
    published(world)
    for wrong in (range(5, 5), range(8, 9), range(-1, 4)):
        with pytest.raises(Refused, match="the model has 8"):
            Replica(world.environment(), name="r", buckets=wrong)
