"""A replica's Arrow Flight server: lookups, its status, its dense slice. It decides nothing; the replica does."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
from pyarrow import flight

from penstock.pipeline.core.errors import InvalidInput, NotFound, PenstockError, Unreachable

from .replica import Replica
from .reporting import status_of
from .wire import LookupReply, LookupRequest, keys_of, rows_batch, to_flight

log = logging.getLogger(__name__)
T = TypeVar("T")
MOST_TABLES = 1024
MOST_COMMAND_BYTES = 1 << 20
DRAIN_S = 10.0
EVERYWHERE = ("0.0.0.0", "::", "")
ACTIONS = {
    "status": "what the replica has, as JSON",
    "health": "whether it should be asked, as JSON",
    "digest": "the version that every partition has adopted, and its digest, as JSON",
    "dense": "the dense slice, as a safetensors file; its digest comes first",
}


class Server(flight.FlightServerBase):  # type: ignore[misc]
    """Serves `replica` at `host:port`; port 0 takes a free one."""

    def __init__(self, replica: Replica, *, host: str, port: int) -> None:
        self.replica, self.host = replica, host
        try:
            super().__init__(f"grpc://{host or '0.0.0.0'}:{port}")
        except (OSError, pa.ArrowException) as error:
            raise Unreachable(f"cannot listen on {host}:{port}: {error}", hint="is the port taken?") from None

    @property
    def address(self) -> str:
        """Where clients find it."""
        host = socket.gethostname() if self.host in EVERYWHERE else self.host
        return f"grpc://{host}:{self.port}"

    def drain(self, timeout_s: float = DRAIN_S) -> None:
        """Takes no more calls and waits for those under way, but not longer than this for a client that does not go on."""
        ending = threading.Thread(target=self.shutdown, name="drain", daemon=True)
        ending.start()
        ending.join(timeout_s)
        if ending.is_alive():
            log.warning("some calls were still under way after %.0f s", timeout_s)

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """One lookup."""
        _told(lambda: self._lookup(descriptor.command, reader, writer))

    def _lookup(self, command: bytes, reader: Any, writer: Any) -> None:
        request = _decoded(command)
        try:
            batch = reader.read_chunk().data
        except StopIteration:
            raise InvalidInput("a lookup sends one batch of keys, none came") from None
        keys = keys_of(batch, len(request.tables))
        self._check_hashed(request)
        answers = self.replica.lookup_many(list(zip(request.tables, keys, strict=True)), version=request.version)
        ready = self.replica.ready(self.replica.env.clock())
        reply = LookupReply(version=answers[0].version, timeline=answers[0].timeline, ready=ready)
        rows = rows_batch([answer.rows for answer in answers], [answer.found for answer in answers])
        writer.begin(rows.schema)
        writer.write_with_metadata(rows, msgspec.json.encode(reply))

    def _check_hashed(self, request: LookupRequest) -> None:
        """A number that is looked for as a text would never be found."""
        for table in request.hashed:
            if self.replica.lookups.key_type(table) != "string":
                raise InvalidInput(f"table {table}: its keys are numbers, and texts were asked for")

    def do_action(self, context: Any, action: Any) -> Iterator[Any]:
        if action.type == "dense":
            yield from _told(self._dense)
        else:
            yield _told(lambda: flight.Result(msgspec.json.encode(self._said(action.type))))

    def _said(self, action: str) -> object:
        if action == "status":
            return status_of(self.replica)
        if action == "health":
            return {"ready": self.replica.ready(self.replica.env.clock()), "version": self.replica.version}
        if action == "digest":
            confirmed = self.replica.confirmed
            assert confirmed is not None
            return {"version": confirmed.manifest.version, "state": str(confirmed.manifest.state), "digest": confirmed.digest}
        raise NotFound(f"no action {action!r} (actions: {', '.join(ACTIONS)})")

    def _dense(self) -> list[Any]:
        dense = self.replica.dense
        if dense is None or dense.info is None:
            raise NotFound("the version that is served has no dense slice")
        data = self.replica.env.catalog.store.get(dense.info.path).data
        return [flight.Result(dense.info.digest.encode()), flight.Result(data)]

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        return list(ACTIONS.items())


def _decoded(command: bytes) -> LookupRequest:
    if len(command) > MOST_COMMAND_BYTES:
        raise InvalidInput(f"a lookup request of {len(command)} bytes, at most {MOST_COMMAND_BYTES}")
    try:
        request = msgspec.json.decode(command, type=LookupRequest)
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidInput(f"not a lookup request: {error}") from None
    if not 1 <= len(request.tables) <= MOST_TABLES:
        raise InvalidInput(f"a lookup in {len(request.tables)} tables, need 1 to {MOST_TABLES}")
    return request


def _told(call: Callable[[], T]) -> T:
    """Errors of ours go to the caller as they are."""
    try:
        return call()
    except PenstockError as error:
        raise to_flight(error) from None
