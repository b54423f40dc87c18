"""Asks replicas: over the network, with fail-over among those that hold the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import flight
from safetensors.numpy import load as load_safetensors

from penstock.pipeline.core.errors import InvalidInput, Unreachable
from penstock.pipeline.core.ids import Timeline, Version

from .replica import Answer
from .status import ReplicaStatus
from .wire import KEYS, LookupReply, LookupRequest, from_flight

T = TypeVar("T")
TIMEOUT_S = 10.0


class Client:
    """`urls`: one replica, or several that hold the same buckets, as in "grpc://replica-0:8815". Safe to share among threads.

    A rollback is never undone by a fail-over: once an answer came from a timeline, older ones are refused."""

    def __init__(self, urls: str | Sequence[str], *, timeout_s: float = TIMEOUT_S) -> None:
        self.urls = [urls] if isinstance(urls, str) else list(urls)
        if not self.urls:
            raise InvalidInput("a client needs the URL of a replica")
        self._timeout_s = timeout_s
        self._connections: dict[str, Any] = {}
        self._timeline = Timeline(0)

    def lookup(
        self, table: str, keys: NDArray[np.int64], *, version: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """float32[n, dim] rows and bool[n] found of int64[n] keys; with `version`, exactly as they were then."""
        answer = self.answer(table, keys, version=version)
        return answer.rows, answer.found

    def answer(self, table: str, keys: NDArray[np.int64], *, version: int | None = None) -> Answer:
        """As `lookup`, with the version and timeline that the rows belong to."""
        wanted = np.ascontiguousarray(keys, np.int64)
        if wanted.ndim != 1:
            raise InvalidInput(f"keys of shape {wanted.shape}: one dimension is needed")
        request = LookupRequest(table=table, version=None if version is None else Version(version))
        return self._ask(lambda connection: self._exchange(connection, request, wanted))

    def status(self) -> ReplicaStatus:
        """Of the first replica that answers."""
        return self._ask(lambda connection: msgspec.json.decode(self._act(connection, "status")[0], type=ReplicaStatus))

    def ready(self) -> bool:
        """Whether the first replica that answers says that it should be asked."""
        return bool(self._ask(lambda connection: json.loads(self._act(connection, "health")[0]))["ready"])

    def dense(self) -> tuple[str, Mapping[str, NDArray[Any]]]:
        """The digest of the dense slice that is served, and its tensors."""
        digest, data = self._ask(lambda connection: self._act(connection, "dense"))
        return digest.decode(), load_safetensors(data)

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, call: Callable[[Any], T]) -> T:
        """The first replica's answer that counts; a replica that does not answer is asked last from then on."""
        failed: Unreachable | None = None
        for url in list(self.urls):
            try:
                found = call(self._connection(url))
                if isinstance(found, Answer):
                    self._check(found, url)
                return found
            except (flight.FlightError, pa.ArrowException, OSError) as error:
                told = from_flight(error, url)
                if not isinstance(told, Unreachable):
                    raise told from None
                failed = told
            except Unreachable as error:
                failed = error
            self._put_last(url)
        assert failed is not None
        raise failed

    def _check(self, answer: Answer, url: str) -> None:
        if answer.timeline < self._timeline:
            raise Unreachable(f"{url}: is still on timeline {answer.timeline}, which a rollback has left for {self._timeline}")
        self._timeline = answer.timeline

    def _put_last(self, url: str) -> None:
        self.urls = [*(other for other in self.urls if other != url), url]
        stale = self._connections.pop(url, None)
        if stale is not None:
            stale.close()

    def _connection(self, url: str) -> Any:
        if url not in self._connections:
            try:
                self._connections[url] = flight.FlightClient(url)
            except (pa.ArrowException, TypeError) as error:
                raise InvalidInput(f"{url!r} is not the URL of a replica: {error}", hint="as in grpc://replica-0:8815") from None
        return self._connections[url]

    def _options(self) -> Any:
        return flight.FlightCallOptions(timeout=self._timeout_s)

    def _exchange(self, connection: Any, request: LookupRequest, keys: NDArray[np.int64]) -> Answer:
        descriptor = flight.FlightDescriptor.for_command(msgspec.json.encode(request))
        writer, reader = connection.do_exchange(descriptor, self._options())
        with writer:
            writer.begin(KEYS)
            writer.write_batch(pa.RecordBatch.from_arrays([pa.array(keys)], schema=KEYS))
            writer.done_writing()
            chunk = reader.read_chunk()
            reply = msgspec.json.decode(bytes(chunk.app_metadata), type=LookupReply)
            column = chunk.data.column(0)
            rows = column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), column.type.list_size)
            found = chunk.data.column(1).to_numpy(zero_copy_only=False)
        return Answer(rows, found, reply.version, reply.timeline)

    def _act(self, connection: Any, action: str) -> list[bytes]:
        return [result.body.to_pybytes() for result in connection.do_action(flight.Action(action, b""), self._options())]
