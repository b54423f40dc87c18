"""Server and client over Arrow Flight: what goes through, what is refused, and who is asked when one does not answer."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import flight
from served import announce_dense, published, step, world_of
from worlds import at

from penstock.pipeline.core.errors import InvalidInput, NotFound, Refused, Unreachable, VersionGone
from penstock.pipeline.core.schema import TableSchema
from penstock.pipeline.core.text_keys import hash_texts
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event
from penstock.serving import Client, Replica, Server
from penstock.serving.wire import KEYS

KEYS_OF = np.arange(12)


@pytest.fixture
def world():
    return world_of()


@pytest.fixture
def serve(world):
    """Starts servers that end with the test."""
    servers = []

    def start(replica=None, name="r"):
        replica = replica or Replica(world.environment(), name=name)
        server = Server(replica, host="127.0.0.1", port=0)
        replica.address = server.address
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.drain()


@pytest.fixture
def asked():
    opened = []

    def client(*servers, **options):
        opened.append(Client([s if isinstance(s, str) else s.address for s in servers], **options))
        return opened[-1]

    yield client
    for found in opened:
        found.close()


def test_a_lookup_goes_and_comes_as_it_is(world, serve, asked):
    writer = published(world)
    server = serve()
    client = asked(server)
    keys = np.array([3, 99, 5, 3], np.int64)
    rows, found = client.lookup("item", keys)
    expected = server.replica.lookup("item", keys)
    assert np.array_equal(rows, expected.rows)
    assert found.tolist() == [True, False, True, True]
    assert rows.dtype == np.float32
    answer = client.answer("item", keys[:0])
    assert (answer.rows.shape[0], answer.version, answer.timeline) == (0, 1, 1)
    writer.put("item", 2, 3)
    step(server.replica)
    assert client.lookup("item", keys)[0][0, 0] == 2
    assert client.lookup("item", keys, version=1)[0][0, 0] == 1


def test_several_tables_in_one_request(world, serve, asked):
    world.catalog.add_tables({"shop": TableSchema(dim=5, codec="float32", width=20, absent=(1.0, 2.0, 3.0, 4.0, 5.0))})
    published(world)
    client = asked(serve())
    found = client.lookup_many({"item": KEYS_OF, "shop": KEYS_OF[:2], "user": KEYS_OF[:0]})
    assert {name: rows.shape[0] for name, (rows, _) in found.items()} == {"item": 12, "shop": 2, "user": 0}
    assert found["shop"][0].tolist() == [[1, 2, 3, 4, 5]] * 2
    assert found["item"][1].all()
    assert client.lookup_many({}) == {}


def test_status_digest_health_and_dense(world, serve, asked):
    writer = published(world)
    server = serve()
    client = asked(server)
    with pytest.raises(NotFound, match="no dense slice"):
        client.dense()
    for send in announce_dense(world, writer, 3.0):
        send()
    step(server.replica)
    digest, tensors = client.dense()
    assert digest == writer.dense.digest
    assert tensors["w"].tolist() == [3.0, 3.0]
    status = client.status()
    assert (status.replica, status.model, status.dense, status.address) == ("r", "retail", digest, server.address)
    assert status.digest == server.replica.confirmed.digest
    assert client.ready()
    raw = flight.FlightClient(server.address)
    (said,) = [result.body.to_pybytes() for result in raw.do_action(flight.Action("digest", b""))]
    assert msgspec.json.decode(said) == {"version": 1, "state": "1-1", "digest": status.digest}
    assert {action.type for action in raw.list_actions()} == {"status", "health", "digest", "dense"}
    with pytest.raises(flight.FlightServerError, match="no action 'reboot'"):
        list(raw.do_action(flight.Action("reboot", b"")))


def test_errors_keep_their_class_message_and_hint(world, serve, asked):
    published(world)
    client = asked(serve())
    for error, match, ask in (
        (NotFound, "no table 'nowhere'", lambda: client.lookup("nowhere", KEYS_OF)),
        (VersionGone, "version 7", lambda: client.lookup("item", KEYS_OF, version=7)),
        (Refused, "1001 keys", lambda: client.lookup("item", np.arange(1001))),
        (InvalidInput, "one dimension", lambda: client.lookup("item", np.zeros((2, 2), np.int64))),
    ):
        with pytest.raises(error, match=match) as caught:
            ask()
        assert type(caught.value) is error
        assert caught.value.hint or error in (NotFound, InvalidInput)
    assert client.lookup("item", KEYS_OF)[1].all()


def exchanged(address, command, *batches):
    """What a server says to a raw exchange."""
    client = flight.FlightClient(address)
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(command), flight.FlightCallOptions(timeout=10))
    try:
        with writer:
            if batches:
                writer.begin(batches[0].schema)
                for batch in batches:
                    writer.write_batch(batch)
            writer.done_writing()
            reader.read_chunk()
    finally:
        client.close()


def keys_batch(values, nullable=False):
    values = pa.array([values], pa.large_list(pa.field("item", pa.int64(), nullable=nullable)))
    return pa.RecordBatch.from_arrays([values], schema=KEYS if not nullable else pa.schema([pa.field("keys", values.type)]))


MALFORMED = {
    "no JSON": (b"\xff", [keys_batch([1])]),
    "another field": (b'{"tables": ["item"], "limit": 3}', [keys_batch([1])]),
    "no tables": (b'{"tables": []}', [keys_batch([1])]),
    "too many tables": (msgspec.json.encode({"tables": ["item"] * 2000}), [keys_batch([1])]),
    "a long command": (b'{"tables": ["' + b"x" * (2 << 20) + b'"]}', [keys_batch([1])]),
    "too few rows": (b'{"tables": ["item", "user"]}', [keys_batch([1])]),
    "no batch": (b'{"tables": ["item"]}', []),
    "another schema": (b'{"tables": ["item"]}', [pa.RecordBatch.from_pydict({"keys": pa.array([1], pa.int64())})]),
    "nulls": (b'{"tables": ["item"]}', [keys_batch([1, None], nullable=True)]),
    "nulls that the schema denies": (b'{"tables": ["item"]}', [keys_batch([1, None])]),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_malformed_is_refused_and_the_server_goes_on(world, serve, asked, kind):
    published(world)
    server = serve()
    command, batches = MALFORMED[kind]
    with pytest.raises((flight.FlightError, pa.ArrowException)) as caught:
        exchanged(server.address, command, *batches)
    said = getattr(caught.value, "extra_info", b"")
    assert b"InvalidInput" in said or b"not a lookup" in str(caught.value).encode(), caught.value
    assert asked(server).lookup("item", KEYS_OF)[1].all()


def test_many_clients_at_once(world, serve):
    writer = published(world)
    server = serve()

    def ask():
        with Client(server.address) as client:
            return all(client.lookup("item", KEYS_OF)[1].all() for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask) for _ in range(8)]
        for event in range(2, 12):
            writer.put("item", event, *range(12))
            step(server.replica, 2)
        assert all(found.result() for found in asking)


def test_one_client_serves_many_threads(world, serve, asked):
    published(world)
    client = asked(serve(), "grpc://127.0.0.1:1", serve(name="other"), timeout_s=60)
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(lambda _: client.lookup("item", KEYS_OF)[1].all(), range(60)))


def test_another_replica_is_asked_when_one_does_not_answer(world, serve, asked):
    published(world)
    first, second = serve(), serve(name="other")
    client = asked(first, second)
    assert client.status().replica == "r"
    first.drain()
    assert client.status().replica == "other"
    assert client.urls == [second.address, first.address]
    second.drain()
    with pytest.raises(Unreachable):
        client.lookup("item", KEYS_OF, timeout_s=0.5)


def test_one_that_is_not_ready_is_asked_last_and_still_better_than_none(world, serve, asked):
    published(world)
    first, second = serve(), serve(name="other")
    first.replica.trouble = "a disk has gone"
    client = asked(first, second)
    assert client.lookup("item", KEYS_OF)[1].all()
    assert client.urls == [second.address, first.address]
    second.drain()
    assert client.lookup("item", KEYS_OF)[1].all()


def test_a_version_is_looked_for_at_every_replica(world, serve, asked):
    writer = published(world)
    behind = serve()
    writer.put("item", 2, 1)
    world.commit(world.mark(writer))
    client = asked(behind, serve(name="other"))
    assert client.answer("item", KEYS_OF, version=2).version == 2
    with pytest.raises(VersionGone):
        client.answer("item", KEYS_OF, version=3)


def test_an_answer_of_a_timeline_that_was_left_is_refused(world, serve, asked):
    writer = published(world)
    healed, poisoned = serve(), serve(name="behind")
    writer.put("item", 7, 1)
    for server in (healed, poisoned):
        step(server.replica)
    env = world.environment()
    execute(env, plan_rollback(env, before_event(at(7))), why="poison")
    step(healed.replica)
    client = asked(healed, poisoned)
    assert client.answer("item", KEYS_OF).timeline == 2
    healed.drain()
    with pytest.raises(Unreachable, match="timeline 1"):
        client.lookup("item", KEYS_OF, timeout_s=3)
    step(poisoned.replica)
    assert client.answer("item", KEYS_OF).timeline == 2
    assert client.lookup("item", np.array([1]))[0][0, 0] == 1


@pytest.mark.parametrize("url", ["replica-0", "http:/x", "grpc://"])
def test_a_url_that_is_none(url):
    with pytest.raises((InvalidInput, Unreachable)):
        Client(url, timeout_s=1).lookup("item", KEYS_OF)
    with pytest.raises(InvalidInput, match="URL"):
        Client([])


def test_a_port_that_is_taken(world, serve):
    published(world)
    server = serve()
    with pytest.raises(Unreachable, match="cannot listen"):
        Server(server.replica, host="127.0.0.1", port=server.port)


def test_draining_does_not_wait_for_ever_for_a_client_that_does_not_go_on(world, serve):
    published(world)
    server = serve()
    client = flight.FlightClient(server.address)
    writer, _ = client.do_exchange(flight.FlightDescriptor.for_command(b'{"tables": ["item"]}'))
    writer.begin(KEYS)
    server.drain(0.2)
    client.close()


def test_keys_of_any_kind_of_array(world, serve, asked):
    published(world)
    client = asked(serve())
    expected = client.lookup("item", KEYS_OF)[0]
    for keys in (list(range(12)), KEYS_OF.astype(np.int32), np.arange(24)[::2] // 2, np.broadcast_to(KEYS_OF, (1, 12))[0]):
        assert np.array_equal(client.lookup("item", keys)[0], expected)
    assert list(itertools.chain(client.lookup("item", [])[1])) == []


def test_keys_that_are_strings_are_hashed_by_the_client(world, serve, asked):
    world.catalog.add_tables({"word": TableSchema(dim=2, codec="float32", width=8, keys="string")})
    world.model["word"] = {}
    writer = published(world)
    server = serve()
    client = asked(server)
    writer.put("word", 2, *hash_texts(["a", "é"]).tolist())
    step(server.replica)
    for keys in (
        ["é", "no", "a"],
        np.array(["é", "no", "a"]),
        pa.array([b"\xc3\xa9", b"no", b"a"]),
        hash_texts(["é", "no", "a"]),
    ):
        rows, found = client.lookup("word", keys)
        assert found.tolist() == [True, False, True]
        assert rows[:, 0].tolist() == [2, 0, 2]
    several = client.lookup_many({"item": [3, 99], "word": ["a"]})
    assert {name: there.tolist() for name, (_, there) in several.items()} == {"item": [True, False], "word": [True]}
    assert (client.key_type("word"), client.key_type("item"), client.key_type("nothing")) == ("string", "int64", "int64")
    with pytest.raises(InvalidInput, match="table item: its keys are numbers, and texts were asked for"):
        client.lookup("item", ["3"])
    with pytest.raises(InvalidInput, match="keys are float64, integers or texts are needed"):
        client.lookup("item", np.ones(2))
