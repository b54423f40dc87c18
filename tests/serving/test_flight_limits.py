"""What a server bounds, counts and says of itself; pooled lookups over the wire."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from exchanges import connect, serve
from pyarrow import flight
from served import announce_dense, published, step, world_of
from waiting import reached

from penstock.pipeline.core.errors import InvalidInput, NotFound, Overloaded, PenstockError, Refused, Unreachable, VersionGone
from penstock.serving import Client
from penstock.serving.bags import Bags
from penstock.serving.wire import KEYS_IN_BAGS, keys_batch, keys_of, rows_batch

__all__ = ["connect", "serve"]
KEYS_OF = np.arange(12)
DIM = 2


@pytest.fixture
def world():
    return world_of()


def test_pooled_and_plain_tables_in_one_request(world, serve, connect):
    writer = published(world)
    server = serve()
    for key in range(12):
        writer.put("item", key + 2, key)
    step(server.replica)
    keys = np.array([3, 99, 5, 3], np.int64)
    bags = [Bags(np.array([0, 2, 2]), "mean"), None, Bags(np.array([0, 1]), "sum")]
    reply, found = connect(server).ask(["item", "user", "item"], [keys, KEYS_OF, keys], bags)
    assert (reply.version, reply.timeline, reply.ready, reply.dims) == (1, 1, True, (DIM,) * 3)
    assert [rows.shape for rows, _ in found] == [(3, DIM), (12, DIM), (2, DIM)]
    assert found[0][0][:, 0].tolist() == [2.5, 0, 6]
    assert found[0][1].tolist() == [True, False, True, True]
    assert found[1][1].all()
    assert found[2][0][:, 0].tolist() == [5, 12]
    old, ((rows, _),) = connect(server).ask(["item"], [keys], bags[:1], version=1)
    assert (old.version, rows[:, 0].tolist()) == (1, [0.5, 0, 1])


def test_neither_keys_nor_rows_are_copied_on_their_way_through_the_replica(world, serve):
    published(world)
    batch = keys_batch([KEYS_OF, KEYS_OF[:5]])
    keys = keys_of(batch, 2)
    sent = batch.column(0).values.buffers()[1]
    assert [some.ctypes.data - sent.address for some in keys] == [0, KEYS_OF.nbytes]
    wanted = list(zip(("item", "user"), keys, strict=True))
    answers = serve().replica.lookups.answer(wanted, None)
    rows = rows_batch([answer.rows for answer in answers], [answer.found for answer in answers])
    assert rows.column(0).values.buffers()[1].address == answers[0].rows.ctypes.data


def test_one_table_several_times(world, serve, connect):
    published(world)
    _, found = connect(serve()).ask(["item", "item"], [KEYS_OF[:3], KEYS_OF])
    assert [rows.shape[0] for rows, _ in found] == [3, 12]


@pytest.mark.parametrize(
    ("command", "batch"),
    [
        ({"tables": ["item"], "pooling": ["sum"]}, keys_batch([KEYS_OF])),
        ({"tables": ["item"], "pooling": ["max"]}, keys_batch([KEYS_OF], [Bags(np.array([0]), "sum")])),
        ({"tables": ["item"], "pooling": ["sum", "sum"]}, keys_batch([KEYS_OF], [Bags(np.array([0]), "sum")])),
        ({"tables": ["item"]}, keys_batch([KEYS_OF], [Bags(np.array([0]), "sum")])),
        ({"tables": ["item"], "pooling": [None]}, keys_batch([KEYS_OF], [Bags(np.array([0]), "sum")])),
        ({"tables": ["item"], "pooling": ["sum"]}, keys_batch([KEYS_OF], [Bags(np.array([0, 13]), "sum")])),
        ({"tables": ["item"], "pooling": ["sum"]}, keys_batch([KEYS_OF], [Bags(np.array([0, -(2**63)]), "sum")])),
        ({"tables": ["item"], "pooling": ["sum"]}, keys_batch([KEYS_OF], [Bags(np.array([], np.int64), "sum")])),
        ({"tables": ["item"], "timeout_ms": "soon"}, keys_batch([KEYS_OF])),
    ],
)
def test_pooling_that_makes_no_sense(world, serve, connect, command, batch):
    published(world)
    server = serve()
    with pytest.raises(InvalidInput):
        connect(server).exchange(json.dumps(command).encode(), batch)
    assert server.load().refused == 1


def test_a_null_offset(world, serve, connect):
    published(world)
    offsets = pa.array([[0, None]], pa.large_list(pa.int64()))
    batch = pa.RecordBatch.from_arrays(
        [keys_batch([KEYS_OF]).column(0), pa.LargeListArray.from_arrays(offsets.offsets, offsets.values, KEYS_IN_BAGS[1].type)],
        schema=KEYS_IN_BAGS,
    )
    with pytest.raises(PenstockError):
        connect(serve()).exchange(b'{"tables": ["item"], "pooling": ["sum"]}', batch)


def test_who_cannot_be_answered_in_time_is_refused_at_once_and_counted(world, serve, connect):
    published(world)
    server = serve(max_running=1, max_waiting=1, max_wait="2s")
    raw = connect(server)
    with server.admission.turn(1, 1):
        with pytest.raises(Overloaded, match=r"no turn within 0\.005 s") as caught:
            raw.ask(["item"], [KEYS_OF], timeout_ms=5)
        assert caught.value.retry_after_ms >= 1
        assert caught.value.hint
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(connect(server).ask, ["item"], [KEYS_OF], timeout_ms=300_000)
            reached(lambda: server.admission.waiting)
            with pytest.raises(Overloaded, match="1 lookups wait, which is the limit"):
                raw.ask(["item"], [KEYS_OF])
            waits.exception(60)  # `max_wait` bounds it, whatever its own deadline
            assert isinstance(waits.exception(), Overloaded)
    assert raw.ask(["item"], [KEYS_OF], timeout_ms=60_000)[1][0][1].all()
    load = server.load()
    assert (load.shed, load.refused, load.failed, load.lookups, load.keys) == (3, 0, 0, 1, 12)
    with pytest.raises(Overloaded, match="over when it came"):
        raw.ask(["item"], [KEYS_OF], timeout_ms=0)


def test_a_client_asks_another_replica_when_one_is_overloaded(world, serve):
    published(world)
    busy, idle = serve(max_running=1, max_wait="5ms"), serve(name="other")
    with busy.admission.turn(1, 1), Client([busy.address, idle.address]) as client:
        for _ in range(4):
            assert client.lookup("item", KEYS_OF)[1].all()
    assert idle.load().lookups == 4


def test_open_calls_are_bounded(world, serve, connect):
    published(world)
    server = serve(max_calls=1)
    raw, other = connect(server), connect(server)
    writer, reader = raw.flight.do_exchange(flight.FlightDescriptor.for_command(b'{"tables": ["item"]}'), raw.options)
    writer.begin(keys_batch([KEYS_OF]).schema)
    reached(lambda: server.admission.calls)
    for call in (lambda: other.ask(["item"], [KEYS_OF]), lambda: other.act("status")):
        with pytest.raises(Overloaded, match="1 calls are open"):
            call()
    reader.cancel()
    reached(lambda: not server.admission.calls)
    assert other.ask(["item"], [KEYS_OF])[1][0][1].all()


def test_answers_are_bounded_in_bytes_before_they_are_made(world, serve, connect):
    published(world)
    server = serve(max_reply_bytes=12 * DIM * 4)
    raw = connect(server)
    assert raw.ask(["item"], [KEYS_OF])[1][0][1].all()
    with pytest.raises(Refused, match=f"an answer of {13 * DIM * 4} bytes, at most {12 * DIM * 4}"):
        raw.ask(["item"], [np.arange(13)])
    raw.ask(["item"], [np.arange(13)], [Bags(np.array([0]), "sum")])
    with pytest.raises(Refused, match="an answer of"):
        raw.ask(["item"], [KEYS_OF], [Bags(np.array([0] * 13), "sum")])


def test_a_dense_slice_counts_as_an_answer(world, serve, connect):
    writer = published(world)
    server = serve(max_reply_bytes=16)
    for send in announce_dense(world, writer, 3.0):
        send()
    step(server.replica)
    with pytest.raises(Refused, match="an answer of"):
        connect(server).act("dense")


def test_what_was_done_is_counted_and_told(world, serve, connect):
    published(world)
    server = serve()
    raw = connect(server)
    for _ in range(3):
        raw.ask(["item", "user"], [KEYS_OF, KEYS_OF[:2]])
    for error, table, version in ((NotFound, "nowhere", None), (VersionGone, "item", 9)):
        with pytest.raises(error):
            raw.ask([table], [KEYS_OF], version=version)
    for said in (raw.act("status"), raw.act("health")):
        load = said["load"]
        assert (load["lookups"], load["keys"], load["refused"], load["shed"], load["failed"]) == (3, 42, 2, 0, 0)
        assert (load["calls"], load["running"], load["waiting"]) == (1, 0, 0)
        assert load["latency"]["lookups"] == 3
        assert 0 < load["latency"]["p50_ms"] <= load["latency"]["p99_ms"]
        assert (said["ready"], said["why"], said["leaving"], said["replica"]) == (True, "", False, "r")


def test_a_failure_of_the_replica_is_counted_logged_and_shows_nothing_of_its_inside(world, serve, connect, caplog):
    published(world)
    server = serve()
    del server.replica.lookups.follower
    with pytest.raises(Unreachable, match=r"the replica failed \(AttributeError\); its log says more") as caught:
        connect(server).ask(["item"], [KEYS_OF])
    assert "Traceback" not in str(caught.value)
    assert "Traceback" in caplog.text
    assert server.load().failed == 1
