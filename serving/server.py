"""A replica's Arrow Flight server: lookups, its status, its dense slice. It decides nothing; the replica does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
from pyarrow import flight

from penstock.pipeline.core.errors import InvalidInput, NotFound, PenstockError

from .replica import Replica
from .status import status_of
from .wire import KEYS, LookupReply, LookupRequest, rows_schema, to_flight

T = TypeVar("T")
ACTIONS = {
    "status": "what the replica has, as JSON",
    "health": "whether it should be asked, as JSON",
    "dense": "the dense slice, as a safetensors file; its digest comes first",
}


class Server(flight.FlightServerBase):  # type: ignore[misc]
    """Serves `replica` at `host:port`; port 0 takes a free one."""

    def __init__(self, replica: Replica, *, host: str, port: int) -> None:
        super().__init__(f"grpc://{host}:{port}")
        self.replica, self.host = replica, host

    @property
    def address(self) -> str:
        return f"grpc://{self.host}:{self.port}"

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """One lookup."""
        _told(lambda: self._lookup(descriptor.command, reader, writer))

    def _lookup(self, command: bytes, reader: Any, writer: Any) -> None:
        try:
            request = msgspec.json.decode(command, type=LookupRequest)
        except (msgspec.DecodeError, ValueError) as error:
            raise InvalidInput(f"not a lookup request: {error}") from None
        batch = reader.read_chunk().data
        if batch is None or batch.schema != KEYS:
            raise InvalidInput(f"a lookup sends one batch of {KEYS.to_string()}")
        answer = self.replica.lookup(request.table, batch.column(0).to_numpy(), version=request.version)
        count, dim = answer.rows.shape
        schema = rows_schema(dim)
        values = pa.array(np.ascontiguousarray(answer.rows).reshape(-1))
        rows = pa.FixedSizeListArray.from_arrays(values, type=schema.field("row").type)
        reply = msgspec.json.encode(LookupReply(version=answer.version, timeline=answer.timeline))
        writer.begin(schema)
        writer.write_with_metadata(pa.RecordBatch.from_arrays([rows, pa.array(answer.found)], schema=schema), reply)

    def do_action(self, context: Any, action: Any) -> Iterator[Any]:
        if action.type == "status":
            yield _told(lambda: flight.Result(msgspec.json.encode(status_of(self.replica))))
        elif action.type == "health":
            ready = self.replica.ready(self.replica.env.clock())
            yield flight.Result(json.dumps({"ready": ready, "version": self.replica.version}).encode())
        elif action.type == "dense":
            yield from _told(lambda: self._dense())
        else:
            raise to_flight(NotFound(f"no action {action.type!r} (actions: {', '.join(ACTIONS)})"))

    def _dense(self) -> list[Any]:
        dense = self.replica.dense
        if dense is None:
            raise NotFound("the version that is served has no dense slice")
        data = self.replica.env.catalog.store.get(dense.info.path).data
        return [flight.Result(dense.info.digest.encode()), flight.Result(data)]

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        return list(ACTIONS.items())


def _told(call: Callable[[], T]) -> T:
    """Errors of ours go to the caller as they are."""
    try:
        return call()
    except PenstockError as error:
        raise to_flight(error) from None
