"""A client and several replicas: shards that answer together, slow ones, lost ones, a rollback on its way."""

import asyncio
import threading
from itertools import pairwise

import numpy as np
import pytest
from served import announce_dense, published, step, world_of, world_with
from waiting import reached
from worlds import at

from penstock.pipeline.core.errors import InvalidInput, Overloaded, PenstockError, Refused, Unreachable, VersionGone
from penstock.pipeline.core.schema import TableSchema
from penstock.pipeline.core.text_keys import hash_texts
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event
from penstock.serving import AsyncClient, Client, Replica, Server
from penstock.serving.bags import Bags

KEYS = np.arange(60)
ASKED = np.random.default_rng(0).permutation(np.concatenate([KEYS, KEYS[:7], np.arange(1000, 1005)]))
LOW, HIGH = range(4), range(4, 8)


class Held(Server):
    """Holds lookups back while it is told to."""

    def __init__(self, replica):
        self.free, self.waiting, self.refuses = threading.Event(), 0, None
        self.free.set()
        super().__init__(replica, host="127.0.0.1", port=0)

    def _lookup(self, *given):
        if self.refuses is not None:
            raise self.refuses
        self.waiting += 1
        try:
            assert self.free.wait(60)
        finally:
            self.waiting -= 1
        super()._lookup(*given)


class Changing:
    """A source whose list is changed by the test."""

    every_s, name = 0.05, "the test"

    def __init__(self, *servers):
        self.named = [server.address for server in servers]

    def urls(self):
        return self.named


@pytest.fixture
def world():
    return world_with(*KEYS, max_request_keys=100_000)


@pytest.fixture
def serve(world):
    servers = []

    def start(buckets=None, name=None):
        replica = Replica(world.environment(), name=name or f"r{len(servers)}", buckets=buckets)
        step(replica, 2)
        servers.append(Held(replica))
        replica.address = servers[-1].address
        return servers[-1]

    yield start
    for server in servers:
        server.free.set()
        server.drain()


@pytest.fixture
def asked():
    opened = []

    def client(*servers, **options):
        options = {"timeout_s": 30, **options}
        source = servers[0] if servers and isinstance(servers[0], Changing) else [server.address for server in servers]
        opened.append(Client(source, **options))
        return opened[-1]

    yield client
    for found in opened:
        found.close()


def same(client, whole, keys=ASKED, **how):
    rows, found = client.lookup("item", keys, **how)
    expected = whole.replica.lookup("item", np.asarray(keys))
    return np.array_equal(rows, expected.rows) and np.array_equal(found, expected.found)


# ---- shards --------------------------------------------------------------------------------------------------------------


def test_two_shards_answer_as_one(world, serve, asked):
    whole, low, high = serve(), serve(LOW), serve(HIGH)
    client = asked(low, high)
    client.warm()
    assert (set(client.replicas()), client.counters.lookups) == ({low.address, high.address}, 0)
    assert same(client, whole)
    rows, found = client.lookup("item", ASKED)
    assert (rows.dtype, rows.shape, rows.flags.c_contiguous, found.dtype) == (np.float32, (ASKED.size, 2), True, np.bool_)
    assert not client.lookup("item", [1000])[1][0]
    assert client.counters.parts == 5
    answer = client.answer("item", ASKED)
    assert (answer.version, answer.timeline, set(answer.positions)) == (1, 1, {0, 1})
    assert client.answer("item", ASKED[:0]).rows.shape == (0, 2)
    assert {health.buckets for health in client.replicas().values()} == {(0, 4), (4, 8)}


def test_tables_whose_keys_lie_in_some_shards_only(world, serve, asked):
    world.catalog.add_tables({"word": TableSchema(dim=3, codec="float32", width=12, keys="string", absent=(1.0, 2.0, 3.0))})
    whole, low, high = serve(), serve(LOW), serve(HIGH)
    client = asked(low, high)
    for some in (KEYS, KEYS[:1], KEYS[1:2], KEYS[:0]):
        found = client.lookup_many({"item": some, "word": ["a", "b"][: some.size], "user": some[::-1]})
        assert np.array_equal(found["item"][0], whole.replica.lookup("item", some).rows)
        assert np.array_equal(found["user"][0], whole.replica.lookup("user", some[::-1].copy()).rows)
        assert found["word"][0].tolist() == [[1, 2, 3]] * min(2, some.size)
    with pytest.raises(InvalidInput, match="its keys are numbers"):
        client.lookup("item", ["a"])
    assert hash_texts(["a"]).dtype == np.int64


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_rows_are_pooled_across_shards(serve, asked, pooling):
    whole, low, high = serve(), serve(LOW), serve(HIGH)
    offsets = np.array([0, 5, 5, 20, ASKED.size])
    rows = np.append(whole.replica.lookup("item", ASKED).rows, [[0, 0]], axis=0)
    expected = np.array(
        [rows[a:b].sum(axis=0) / (1 if pooling == "sum" else max(1, b - a)) for a, b in pairwise([*offsets, ASKED.size])]
    )
    for client in (asked(low, high), asked(whole)):
        assert np.allclose(client.lookup_pooled("item", ASKED, offsets[:-1].tolist(), pooling=pooling), expected[:-1])
        assert client.lookup_pooled("item", [], [0, 0], pooling=pooling).tolist() == [[0, 0]] * 2
        bags = {"item": Bags(offsets[:-1], pooling)}
        both = client.answers({"user": KEYS, "item": ASKED}, bags=bags, consistency="version")
        assert np.allclose(both["item"].rows, expected[:-1])
        assert np.array_equal(both["item"].found, whole.replica.lookup("item", ASKED).found)
        assert np.array_equal(both["user"].rows, whole.replica.lookup("user", KEYS).rows)
        with pytest.raises(InvalidInput, match="last bag begins"):
            client.lookup_pooled("item", KEYS, [0, 1000])
        with pytest.raises(InvalidInput, match="table user: bags, and no keys"):
            client.answers({"item": KEYS}, bags={"user": bags["item"]})


def test_a_shard_that_is_missing_is_named(serve, asked):
    with pytest.raises(Unreachable, match="no replica that answers holds buckets 4-7"):
        asked(serve(LOW), timeout_s=2).lookup("item", KEYS)
    with pytest.raises(Unreachable, match="no replica that answers holds anything.*127.0.0.1:1:"):
        Client("grpc://127.0.0.1:1", timeout_s=2).lookup("item", KEYS)
    with pytest.raises(Unreachable, match="the test has no replica"):
        asked(Changing(), timeout_s=0.5).lookup("item", KEYS)


def test_replicas_of_another_model_do_not_count(world, serve, asked):
    whole = serve()
    other = world_of(buckets=16)
    published(other)
    stranger = Server(Replica(other.environment(), name="stranger"), host="127.0.0.1", port=0)
    try:
        with pytest.raises(InvalidInput, match="different numbers of buckets: 16, 8"):
            asked(whole, stranger).lookup("item", KEYS)
        with pytest.raises(Unreachable, match="no replica"):
            asked(whole, model="shop", timeout_s=0.5).lookup("item", KEYS)
        assert same(asked(whole, model="retail"), whole)
    finally:
        stranger.drain()


def test_from_two_shards_to_three_and_back(serve, asked):
    whole, two = serve(), [serve(LOW), serve(HIGH)]
    source = Changing(*two)
    client = asked(source)
    ending, wrong = threading.Event(), []

    def ask():
        while not ending.is_set():
            try:
                if not same(client, whole):
                    wrong.append("rows")
            except PenstockError as error:
                wrong.append(error)

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    try:
        for ranges in ((range(3), range(3, 6), range(6, 8)), (LOW, HIGH)):
            joining = [serve(buckets) for buckets in ranges]
            source.named = [server.address for server in (*two, *joining)]
            reached(lambda joining=joining: all(client.replicas().get(server.address) for server in joining))
            for server in two:
                server.replica.leave()
                server.replica.report()
            source.named = [server.address for server in joining]
            for server in two:
                server.drain()
            before = client.counters.lookups
            reached(lambda before=before: client.counters.lookups > before + 10)
            reached(lambda joining=joining: set(client.replicas()) == {server.address for server in joining})
            two = joining
    finally:
        ending.set()
        for thread in asking:
            thread.join()
    assert not wrong


def test_a_replica_that_holds_other_buckets_than_before_is_found_out(serve, asked):
    whole, low, high = serve(), serve(LOW), serve(HIGH)
    client = asked(low, high)
    assert same(client, whole)
    low.replica, high.replica = high.replica, low.replica
    assert same(client, whole)
    assert client.replicas()[low.address].buckets == (4, 8)
    with pytest.raises(Refused, match="keys in one lookup"):
        client.lookup("item", np.arange(200_001))


# ---- slow and lost replicas ----------------------------------------------------------------------------------------------


def learned(client):
    """The client knows what is late."""
    for _ in range(60):
        client.lookup("item", KEYS)


def test_a_slow_answer_is_asked_for_again(serve, asked):
    slow, quick = serve(), serve()
    client = asked(slow, quick, hedge_share=1.0)
    learned(client)
    slow.free.clear()
    reached(lambda: same(client, quick) and client.counters.won > 0)
    assert client.counters.failures == 0
    reached(lambda: not slow.waiting or slow.free.set())


def test_beyond_the_budget_another_one_is_asked_at_half_time(serve, asked):
    slow, quick = serve(), serve()
    client = asked(slow, quick, hedge_share=0, timeout_s=4)
    learned(client)
    slow.free.clear()
    for _ in range(6):
        assert same(client, quick)
    assert client.counters.failures == 0


def test_after_some_losses_the_quicker_one_is_preferred(serve, asked):
    slow, quick = serve(), serve()
    client = asked(slow, quick, hedge_share=1.0)
    learned(client)
    slow.free.clear()
    fleet = client._means.fleet
    member = fleet._members[slow.address]
    reached(lambda: same(client, quick) and member.losses >= 3)
    assert member.busy_until > 0
    slow.free.set()


def test_no_lookup_fails_while_replicas_go_one_by_one(serve, asked):
    whole, first, second, high = serve(), serve(LOW), serve(LOW), serve(HIGH)
    client = asked(first, second, high)
    assert same(client, whole)
    first.drain()
    for _ in range(20):
        assert same(client, whole)
    assert client.urls[-1] == first.address
    second.drain()
    with pytest.raises(Unreachable):
        client.lookup("item", KEYS, timeout_s=0.5)


def test_who_is_overloaded_is_left_alone_for_a_while(serve, asked):
    busy, idle = serve(), serve()
    client = asked(busy, idle)
    busy.refuses = Overloaded("too much to do", retry_after_ms=60_000)
    for _ in range(20):
        assert same(client, idle)
    assert client.counters.failures <= 1
    idle.refuses = Overloaded("too much to do here too", retry_after_ms=10)
    with pytest.raises(Overloaded):
        client.lookup("item", KEYS, timeout_s=2)
    idle.refuses = None
    assert same(client, idle)


def test_a_timeout_bounds_all_tries(serve, asked):
    first, second = serve(), serve()
    client = asked(first, second)
    for server in (first, second):
        server.free.clear()
    with pytest.raises(Unreachable):
        client.lookup("item", KEYS, timeout_s=0.3)
    fleet = client._means.fleet
    reached(lambda: not any(m.outstanding for m in fleet._members.values()))


def test_many_threads_share_a_client(serve, asked):
    whole, low, high = serve(), serve(LOW), serve(HIGH)
    client = asked(low, high, most_calls=2)
    right = []
    threads = [threading.Thread(target=lambda: right.append(all(same(client, whole) for _ in range(10)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 8


# ---- timelines and versions ----------------------------------------------------------------------------------------------


def test_no_answer_mixes_timelines(world, serve, asked):
    writer = published(world, *KEYS)
    low, high = serve(LOW), serve(HIGH)
    writer.put("item", 7, *KEYS[:20])
    for server in (low, high):
        step(server.replica)
    client = asked(low, high)
    assert client.answer("item", KEYS).timeline == 1
    env = world.environment()
    execute(env, plan_rollback(env, before_event(at(7))), why="poison")
    step(low.replica)
    with pytest.raises(Unreachable, match="still on timeline 1, which a rollback has left for 2"):
        client.lookup("item", KEYS, timeout_s=3)
    waiting = threading.Thread(target=lambda: (reached(lambda: client.counters.rounds > 30), step(high.replica)))
    waiting.start()
    answer = client.answer("item", KEYS)
    waiting.join()
    assert answer.timeline == 2
    assert (answer.rows[:, 0] < 7).all()


def test_a_replica_between_two_timelines_is_not_taken(world, serve, asked):
    published(world, *KEYS)
    between, after = serve(), serve()
    client = asked(between, after)
    state = next(iter(between.replica.follower.partitions.values()))
    state.timeline = 2
    for _ in range(20):
        answer = client.answer("item", KEYS)
        assert answer.timeline == 1
    after.drain()
    with pytest.raises(Unreachable, match="on its way from timeline 1 to 2"):
        client.lookup("item", KEYS, timeout_s=2)


def test_at_one_version_all_shards_answer_exactly_that(world, serve, asked):
    writer = published(world, *KEYS)
    whole, low, high = serve(), serve(LOW), serve(HIGH)
    client = asked(low, high, consistency="version")
    was = client.answer("item", KEYS)
    writer.put("item", 2, *KEYS[:30])
    version = world.commit(world.mark(writer)).version
    for server in (whole, low):
        step(server.replica)
    writer.put("item", 3, *KEYS)
    for server in (whole, low):
        server.replica.step(0.0)
    assert low.replica.version == version
    assert high.replica.version == was.version
    reached(lambda: client.replicas()[low.address].version == version)
    again = client.answer("item", KEYS)
    assert again.version == was.version
    assert np.array_equal(again.rows, was.rows)
    step(high.replica)
    step(whole.replica)
    reached(lambda: client.answer("item", KEYS).version == version)
    assert same(client, whole, KEYS, consistency="newest")
    exact = whole.replica.lookup("item", KEYS, version=version)
    assert np.array_equal(client.lookup("item", KEYS)[0], exact.rows)
    with pytest.raises(VersionGone):
        client.lookup("item", KEYS, version=version + 1)
    with pytest.raises(InvalidInput, match="newest or version"):
        asked(low, high, consistency="strong")


def test_a_version_that_is_let_go_meanwhile_is_asked_for_no_more(world, serve, asked):
    writer = published(world, *KEYS)
    low, high = serve(LOW), serve(HIGH)
    client = asked(low, high, consistency="version")
    first = client.answer("item", KEYS).version
    for event in range(2, 8):  # more than are remembered
        writer.put("item", event, *KEYS)
        last = world.commit(world.mark(writer)).version
        step(low.replica)
        step(high.replica)
    with pytest.raises(VersionGone):
        client.lookup("item", KEYS, version=first)
    assert client.answer("item", KEYS).version == last


# ---- asyncio -------------------------------------------------------------------------------------------------------------


def test_lookups_of_asyncio_run_beside_each_other(world, serve):
    writer = published(world, *KEYS)
    whole, low, high = serve(), serve(LOW), serve(HIGH)
    for send in announce_dense(world, writer, 3.0):
        send()
    step(low.replica)
    step(high.replica)

    async def ask():
        async with AsyncClient([low.address, high.address], timeout_s=30) as client:
            await client.warm()
            found = await asyncio.gather(*(client.lookup("item", ASKED) for _ in range(20)))
            many = await client.lookup_many({"item": KEYS, "user": KEYS})
            assert (await client.dense())[1]["w"].tolist() == [3.0, 3.0]
            assert (await client.lookup_pooled("item", KEYS, [0])).shape == (1, 2)
            assert await client.key_type("item") == "int64"
            assert await client.ready() == (await client.status()).ready
            return found, many

    found, many = asyncio.run(ask())
    expected = whole.replica.lookup("item", ASKED)
    assert all(np.array_equal(rows, expected.rows) and np.array_equal(there, expected.found) for rows, there in found)
    assert np.array_equal(many["user"][0], whole.replica.lookup("user", KEYS).rows)


def test_a_task_that_is_cancelled_gives_up_its_calls(serve):
    low, high = serve(LOW), serve(HIGH)

    async def ask():
        async with AsyncClient([low.address, high.address], timeout_s=60) as client:
            await client.lookup("item", KEYS)
            high.free.clear()
            task = asyncio.create_task(client.lookup("item", KEYS))
            while not high.waiting:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            members = client.client._means.fleet._members.values()
            while any(member.outstanding for member in members):
                await asyncio.sleep(0.005)
            high.free.set()
            return (await client.lookup("item", KEYS))[1].all()

    assert asyncio.run(asyncio.wait_for(ask(), 50))


def test_a_client_that_is_closed_says_so(serve, asked):
    client = asked(serve())
    client.lookup("item", KEYS)
    client.close()
    with pytest.raises(InvalidInput, match="closed"):
        client.lookup("item", KEYS)
