"""Lookups as they go over the wire, without the client; and servers of a world that end with the test."""

from __future__ import annotations

import msgspec
import pytest
from pyarrow import flight
from worlds import World

from penstock.serving import Replica, Server
from penstock.serving.wire import LookupReply, LookupRequest, from_flight, keys_batch, rows_of


class Serving:
    """Starts servers of `world`, with other settings of the replica where they are given."""

    def __init__(self, world: World) -> None:
        self.world, self.settings, self.servers = world, world.config.replica, []

    def __call__(self, name: str = "r", **settings) -> Server:
        changed = msgspec.structs.replace(self.settings, **settings)
        self.world.config = msgspec.structs.replace(self.world.config, replica=changed)
        replica = Replica(self.world.environment(), name=name)
        server = Server(replica, host="127.0.0.1", port=0)
        replica.address = server.address
        self.servers.append(server)
        return server


@pytest.fixture
def serve(world):
    serving = Serving(world)
    yield serving
    for server in serving.servers:
        server.drain()


class Raw:
    """A connection; `headers` and TLS as given."""

    def __init__(self, address: str, *, headers=(), timeout_s: float = 30.0, **options) -> None:
        self.flight = flight.FlightClient(address, **options)
        self.address, self.headers = address, list(headers)
        self.options = flight.FlightCallOptions(timeout=timeout_s, headers=list(headers))

    def ask(self, tables, keys, bags=(), **request):
        """The reply, and rows and found of each table; raises what the replica does."""
        asked = LookupRequest(tables=tuple(tables), pooling=tuple(b and b.pooling for b in bags), **request)
        return self.exchange(msgspec.json.encode(asked), keys_batch(keys, bags))

    def exchange(self, command: bytes, batch):
        try:
            writer, reader = self.flight.do_exchange(flight.FlightDescriptor.for_command(command), self.options)
            with writer:
                writer.begin(batch.schema)
                writer.write_batch(batch)
                writer.done_writing()
                chunk = reader.read_chunk()
                reply = msgspec.json.decode(bytes(chunk.app_metadata), type=LookupReply)
                return reply, rows_of(chunk.data, reply.dims)
        except flight.FlightError as error:
            raise from_flight(error, self.address) from None

    def act(self, action: str):
        try:
            (found,) = self.flight.do_action(flight.Action(action, b""), self.options)
        except flight.FlightError as error:
            raise from_flight(error, self.address) from None
        return msgspec.json.decode(found.body.to_pybytes())

    def close(self) -> None:
        self.flight.close()


@pytest.fixture
def connect():
    """Opens connections that end with the test."""
    opened = []

    def connected(server, **options) -> Raw:
        opened.append(Raw(server if isinstance(server, str) else server.address, **options))
        return opened[-1]

    yield connected
    for raw in opened:
        raw.close()
