"""Whatever is sent to a server, it refuses it or answers it, and goes on."""

import json
import socket
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pytest
from exchanges import connect, serve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import flight

from penstock.pipeline.core.errors import InvalidInput, NotFound, Refused, Unreachable, VersionGone
from penstock.serving.bags import Bags
from penstock.serving.wire import KEYS, KEYS_IN_BAGS, keys_batch

__all__ = ["connect", "serve"]
KEYS_OF = np.arange(12)
MANY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture
def server(serve):
    return serve()


@pytest.fixture
def raw(server, connect):
    return connect(server)


@pytest.fixture(autouse=True)
def _goes_on(server, connect):
    """Whatever a test did, the next one is answered, nothing is left open, and nothing failed that is not the caller's fault."""
    yield
    _, ((_, found),) = connect(server).ask(["item"], [KEYS_OF])
    assert found.all()
    load = server.load()
    assert (load.running, load.waiting, load.failed) == (0, 0, 0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=5), some, max_size=3),
    max_leaves=6,
)
fields = {
    "tables": st.lists(st.sampled_from(["item", "user", "", "\x00", "no"]), max_size=3) | json_values,
    "version": st.none() | st.integers(-(2**70), 2**70) | json_values,
    "hashed": st.lists(st.sampled_from(["item", "no"]), max_size=2) | json_values,
    "timeout_ms": st.integers(-(2**70), 2**70) | json_values,
    "pooling": st.lists(st.sampled_from(["sum", "mean", None]), max_size=3) | json_values,
}
commands = st.binary(max_size=60) | st.fixed_dictionaries({}, optional=fields).map(lambda asked: json.dumps(asked).encode())
any_int64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def good_batches(draw):
    rows = draw(st.integers(1, 3))
    keys = [np.array(draw(st.lists(any_int64, max_size=4)), np.int64) for _ in range(rows)]
    bags = [draw(st.none() | st.builds(Bags, st.lists(any_int64, max_size=3).map(np.int64), st.just("sum"))) for _ in range(rows)]
    return keys_batch(keys, bags)


def odd_batches():
    numbers = pa.array([1, 2, 3], pa.int64())
    lists = pa.array([[1], [2, 3]], KEYS[0].type)
    return [
        pa.RecordBatch.from_pydict({"keys": numbers}),
        pa.RecordBatch.from_pydict({"keys": pa.array(["a"])}),
        pa.RecordBatch.from_pydict({"keys": pa.array([None, {"a": [1]}])}),
        pa.RecordBatch.from_pydict({"keys": pa.array(["a", "b"]).dictionary_encode()}),
        pa.RecordBatch.from_pydict({"keys": lists.cast(pa.list_(pa.int64()))}),
        pa.RecordBatch.from_arrays([], schema=pa.schema([])),
        pa.RecordBatch.from_arrays([lists.slice(1)], schema=KEYS),
        pa.RecordBatch.from_arrays([lists[:0]], schema=KEYS),
        pa.RecordBatch.from_arrays([lists, lists], schema=KEYS_IN_BAGS),
        *map(lying, (4, -1, 1 << 40, -(2**62))),
    ]


def lying(middle):
    """A batch whose offsets lead out of its values, or back."""
    offsets = np.array([0, 0, 3], np.int64)
    values = pa.array([1, 2, 3], pa.int64())
    keys = pa.Array.from_buffers(KEYS[0].type, 2, [None, pa.py_buffer(offsets)], children=[values])
    offsets[1] = middle
    return pa.RecordBatch.from_arrays([keys], schema=KEYS)


REFUSALS = (InvalidInput, NotFound, Refused, VersionGone, Unreachable, pa.ArrowInvalid)


@MANY
@given(commands, good_batches() | st.sampled_from(odd_batches()))
def test_any_command_with_any_batch(raw, command, batch):
    try:
        reply, found = raw.exchange(command, batch)
    except REFUSALS:
        return
    asked = json.loads(command)
    assert [(rows.shape[1], reply.timeline) for rows, _ in found] == [(2, 1)] * len(asked["tables"])


@pytest.mark.parametrize("batch", odd_batches())
def test_a_batch_that_is_no_batch_of_keys(raw, batch):
    with pytest.raises((InvalidInput, pa.ArrowInvalid)):
        raw.exchange(b'{"tables": ["item", "user"]}', batch)


@MANY
@given(st.text(max_size=20) | st.sampled_from(["status", "health", "digest", "dense"]), st.binary(max_size=40))
def test_any_action(raw, name, body):
    if name in ("status", "health", "digest"):
        assert len(list(raw.flight.do_action(flight.Action(name, body), raw.options))) == 1
        return
    with pytest.raises(flight.FlightServerError) as caught:
        list(raw.flight.do_action(flight.Action(name, body), raw.options))
    assert b"NotFound" in caught.value.extra_info


def test_calls_that_are_not_there(raw):
    descriptor = flight.FlightDescriptor.for_command(b"x")
    for call in (
        lambda: list(raw.flight.list_flights(options=raw.options)),
        lambda: raw.flight.get_flight_info(descriptor, raw.options),
        lambda: raw.flight.get_schema(descriptor, raw.options),
        lambda: raw.flight.do_get(flight.Ticket(b"x"), raw.options).read_all(),
        lambda: put(raw, descriptor),
    ):
        with pytest.raises((NotImplementedError, flight.FlightError, pa.ArrowException)):
            call()


def put(raw, descriptor):
    writer, _ = raw.flight.do_put(descriptor, KEYS, raw.options)
    writer.write_batch(keys_batch([KEYS_OF]))
    writer.close()


def test_metadata_without_a_batch(raw):
    for metadata in (b"", b"\x00" * 100):
        with pytest.raises((flight.FlightError, pa.ArrowException)):
            only_metadata(raw, metadata)


@pytest.mark.parametrize("answer_first", [True, False])
def test_batches_too_many(raw, answer_first):
    """The server ends the call with its answer to the first: what is sent behind it may find no one there."""
    writer, reader = raw.flight.do_exchange(flight.FlightDescriptor.for_command(b'{"tables": ["item"]}'), raw.options)
    with writer:
        writer.begin(KEYS)
        writer.write_batch(keys_batch([KEYS_OF]))
        if answer_first:
            assert reader.read_chunk().data.num_rows == 1
        with suppress(pa.ArrowInvalid):
            for _ in range(2):
                writer.write_batch(keys_batch([KEYS_OF]))
            writer.done_writing()


def only_metadata(raw, metadata):
    writer, reader = raw.flight.do_exchange(flight.FlightDescriptor.for_command(b'{"tables": ["item"]}'), raw.options)
    with writer:
        writer.begin(KEYS)
        writer.write_metadata(pa.py_buffer(metadata))
        writer.done_writing()
        reader.read_chunk()


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@settings(MANY, max_examples=30)
@given(st.sampled_from([b"", PREFACE, PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"]), st.binary(max_size=300))
def test_any_bytes_on_the_port(server, begin, rest):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(begin + rest)
