"""Asks replicas: over the network, with fail-over among those that hold the same."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import flight
from safetensors.numpy import load as load_safetensors

from penstock.pipeline.core.errors import InvalidInput, PenstockError, Unreachable, VersionGone
from penstock.pipeline.core.ids import Timeline, Version
from penstock.pipeline.core.schema import KeyType

from .answers import Answer
from .asked_keys import Asked, asked_keys
from .status import ReplicaStatus
from .wire import LookupReply, LookupRequest, from_flight, keys_batch, rows_of

T = TypeVar("T")
TIMEOUT_S = 10.0


class Client:
    """`urls`: one replica, or several that hold the same buckets, as in "grpc://replica-0:8815". Safe to share among threads.

    One that does not answer, or says that it should not be asked, is asked again only after the others. A rollback is never
    undone by a fail-over: once an answer came from a timeline, older ones are refused."""

    def __init__(self, urls: str | Sequence[str], *, timeout_s: float = TIMEOUT_S) -> None:
        self._urls = [urls] if isinstance(urls, str) else list(dict.fromkeys(urls))
        if not self._urls:
            raise InvalidInput("a client needs the URL of a replica")
        self._timeout_s = timeout_s
        self._connections: dict[str, Any] = {}
        self._timeline = Timeline(0)
        self._changing = threading.Lock()

    @property
    def urls(self) -> list[str]:
        """In the order in which they are asked."""
        return list(self._urls)

    def lookup(self, table: str, keys: Asked, *, version: int | None = None) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """float32[n, dim] rows and bool[n] found of n keys, integers or texts; with `version`, exactly as they were then.

        `NotFound`: no such table; `InvalidInput`: texts, and the table has numbers; `VersionGone`: no replica holds that version;
        `Unreachable`: none answers; `Refused`: the table refuses unknown keys and one is, or the replica refuses the request."""
        answer = self.answer(table, keys, version=version)
        return answer.rows, answer.found

    def lookup_many(
        self, keys: Mapping[str, Asked], *, version: int | None = None
    ) -> dict[str, tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """As `lookup`, of several tables in one request, all answered by one replica."""
        answers = self.answers(keys, version=version)
        return {table: (answer.rows, answer.found) for table, answer in answers.items()}

    def answer(self, table: str, keys: Asked, *, version: int | None = None) -> Answer:
        """As `lookup`, with the version and timeline that the rows belong to."""
        return self.answers({table: keys}, version=version)[table]

    def answers(self, keys: Mapping[str, Asked], *, version: int | None = None) -> dict[str, Answer]:
        """As `lookup_many`, with the version and timeline that all rows belong to."""
        if not keys:
            return {}
        wanted = {table: asked_keys(table, some) for table, some in keys.items()}
        request = LookupRequest(
            tables=tuple(wanted),
            version=None if version is None else Version(version),
            hashed=tuple(table for table, asked in wanted.items() if asked.hashed),
        )
        batch = keys_batch([asked.keys for asked in wanted.values()])
        reply, found = self._ask(lambda connection: self._exchange(connection, request, batch), self._judge(version))
        return {
            table: Answer(rows, there, reply.version, reply.timeline) for table, (rows, there) in zip(keys, found, strict=True)
        }

    def status(self) -> ReplicaStatus:
        """Of the first replica that answers."""
        return self._ask(lambda connection: msgspec.json.decode(self._act(connection, "status")[0], type=ReplicaStatus))

    def key_type(self, table: str) -> KeyType:
        """What the keys of a table are, as the first replica that answers says; numbers where it has no such table."""
        found = self.status().tables.get(table)
        return "int64" if found is None else found.keys

    def ready(self) -> bool:
        """Whether the first replica that answers says that it should be asked."""
        return bool(self._ask(lambda connection: json.loads(self._act(connection, "health")[0]))["ready"])

    def dense(self) -> tuple[str, dict[str, NDArray[Any]]]:
        """The digest of the dense slice that is served, and its tensors. `NotFound` when the model has none."""
        digest, data = self._ask(lambda connection: self._act(connection, "dense"))
        return digest.decode(), load_safetensors(data)

    def close(self) -> None:
        with self._changing:
            connections, self._connections = self._connections, {}
        for connection in connections.values():
            connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- which replica -------------------------------------------------------------------------------------------------

    def _ask(self, call: Callable[[Any], T], judge: Callable[[T, str], bool] = lambda found, url: True) -> T:
        """The first answer that counts, and that `judge` finds good; else the first that counts."""
        failed: list[PenstockError] = []
        second_best: list[T] = []
        for url in self.urls:
            try:
                found = call(self._connection(url))
                if judge(found, url):
                    return found
                second_best.append(found)
            except (flight.FlightError, pa.ArrowException, OSError, Unreachable) as error:
                told = error if isinstance(error, Unreachable) else from_flight(error, url)
                if not isinstance(told, Unreachable | VersionGone):
                    raise told from None
                failed.append(told)
            self._put_last(url)
        if second_best:
            return second_best[0]
        for told in failed:
            if isinstance(told, VersionGone):
                raise told
        raise Unreachable("; ".join(map(str, failed)))

    def _judge(self, version: int | None) -> Callable[[tuple[LookupReply, object], str], bool]:
        def judge(found: tuple[LookupReply, object], url: str) -> bool:
            reply, _ = found
            if version is None:
                with self._changing:
                    if reply.timeline < self._timeline:
                        raise Unreachable(
                            f"{url}: is still on timeline {reply.timeline}, which a rollback has left for {self._timeline}"
                        )
                    self._timeline = reply.timeline
            return reply.ready

        return judge

    def _put_last(self, url: str) -> None:
        with self._changing:
            self._urls = [*(other for other in self._urls if other != url), url]
            self._connections.pop(url, None)  # other threads may still use it

    def _connection(self, url: str) -> Any:
        with self._changing:
            if url not in self._connections:
                try:
                    self._connections[url] = flight.FlightClient(url)
                except (pa.ArrowException, TypeError) as error:
                    hint = "as in grpc://replica-0:8815"
                    raise InvalidInput(f"{url!r} is not the URL of a replica: {error}", hint=hint) from None
            return self._connections[url]

    # ---- calls ---------------------------------------------------------------------------------------------------------

    def _options(self) -> Any:
        return flight.FlightCallOptions(timeout=self._timeout_s)

    def _exchange(
        self, connection: Any, request: LookupRequest, batch: pa.RecordBatch
    ) -> tuple[LookupReply, list[tuple[NDArray[np.float32], NDArray[np.bool_]]]]:
        descriptor = flight.FlightDescriptor.for_command(msgspec.json.encode(request))
        writer, reader = connection.do_exchange(descriptor, self._options())
        with writer:
            writer.begin(batch.schema)
            writer.write_batch(batch)
            writer.done_writing()
            chunk = reader.read_chunk()
            return msgspec.json.decode(bytes(chunk.app_metadata), type=LookupReply), rows_of(chunk.data)

    def _act(self, connection: Any, action: str) -> list[bytes]:
        return [result.body.to_pybytes() for result in connection.do_action(flight.Action(action, b""), self._options())]
