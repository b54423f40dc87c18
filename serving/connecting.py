"""One replica over the network: its channel, what may be called over it, and how a call is given up. Knows no other replica."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import flight

from penstock.pipeline.core.errors import InvalidInput, NotFound, PenstockError, Unreachable

from .rooms import SMALLEST_BYTES, Room, Rooms, neighbourhood
from .status import Health
from .wire import LookupReply, LookupRequest, from_flight, row_counts, rows_of

Rows = list[tuple[NDArray[np.float32], NDArray[np.bool_]]]
"""float32[n, dim] and bool[n] of each table."""

SCHEMES = ("grpc", "grpc+tcp", "grpc+tls", "grpc+unix")
OPTIONS = [
    # A channel that is made anew must not inherit how long another one waits before it connects again.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


def checked_url(url: str) -> str:
    """`url` as it is; `InvalidInput` unless it can be one of a replica."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not (parts.hostname or parts.path):
        raise InvalidInput(f"{url!r} is not the URL of a replica", hint="as in grpc://replica-0:8815")
    return url


@dataclass(slots=True, kw_only=True)
class Access:
    """What a client shows to be let in, and trusts: PEM files, and a bearer token, given or in a file that is read again, so that
    it can be replaced. `server_name`: whose certificate is expected, where addresses are dialled."""

    root: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidInput("a client's certificate and its key are given together")
        if self.token is not None and self.token_file is not None:
            raise InvalidInput("a token, or a file that holds it: not both")
        self.renew()

    def renew(self) -> None:
        """Takes the token that the file holds now."""
        if self.token_file is not None:
            lines = (line.strip() for line in _read(self.token_file).decode().splitlines())
            token = next((line for line in lines if line and not line.startswith("#")), None)
            if token is None:
                raise InvalidInput(f"{self.token_file}: no token")
            self.token = token

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [] if self.token is None else [(b"authorization", f"Bearer {self.token}".encode())]

    def options(self) -> dict[str, Any]:
        """What `FlightClient` takes."""
        found: dict[str, Any] = {"override_hostname": self.server_name}
        for name, path in (("tls_root_certs", self.root), ("cert_chain", self.certificate), ("private_key", self.key)):
            if path is not None:
                found[name] = _read(path)
        return {name: value for name, value in found.items() if value is not None}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}") from None


class Call:
    """A lookup under way, which any thread may give up."""

    __slots__ = ("_reader", "given_up")

    def __init__(self) -> None:
        self.given_up, self._reader = False, None

    def give_up(self) -> None:
        self.given_up = True
        if (reader := self._reader) is not None:
            reader.cancel()

    def reads(self, reader: Any) -> None:
        self._reader = reader
        if self.given_up:
            reader.cancel()


class Connection:
    """Safe to share among threads. Connects when it is first asked, and again when it was cut. `rooms`: those that are offered to
    a replica that is near, for large answers."""

    def __init__(self, url: str, access: Access, rooms: Rooms | None = None) -> None:
        self.url, self._access, self._rooms = checked_url(url), access, rooms
        self._making = threading.Lock()
        self._client: Any = None
        self._is_near, self._dims = False, dict[str, int]()

    def lookup(self, call: Call, request: LookupRequest, keys: pa.RecordBatch, *, timeout_s: float) -> tuple[LookupReply, Rows]:
        """`keys`: a `wire.keys_batch`. Raises the replica's own errors; `Unreachable` where none of them came."""
        room = self._room(request, keys)
        if room is not None:
            request = msgspec.structs.replace(request, room=room.offer)
        try:
            reply, batch = self._exchanged(call, request, keys, timeout_s)
        except BaseException as error:
            if self._rooms is not None and room is not None:
                if isinstance(error, PenstockError) and not isinstance(error, Unreachable):
                    self._rooms.give_back(room)
                else:
                    self._rooms.lost()  # the replica may be at it still
            raise
        self._dims.update(zip(request.tables, reply.dims, strict=False))
        return reply, rows_of(batch, reply.dims, self._rows_in(room, reply))

    def _room(self, request: LookupRequest, keys: pa.RecordBatch) -> Room | None:
        """For the answer, as far as can be told: how long rows are is known from earlier ones."""
        if self._rooms is None or not self._is_near or not all(table in self._dims for table in request.tables):
            return None
        counts = row_counts(keys, request.pooling)
        nbytes = sum(4 * count * self._dims[table] for count, table in zip(counts, request.tables, strict=True))
        return self._rooms.take(nbytes) if nbytes >= SMALLEST_BYTES else None

    def _rows_in(self, room: Room | None, reply: LookupReply) -> list[NDArray[np.float32]]:
        """What the replica has put there, none where the rows are in the batch."""
        if self._rooms is None or room is None:
            return []
        if reply.in_room:
            return self._rooms.lend(room, reply.in_room)
        self._is_near = False
        self._rooms.give_back(room)
        return []

    def _exchanged(
        self, call: Call, request: LookupRequest, keys: pa.RecordBatch, timeout_s: float
    ) -> tuple[LookupReply, pa.RecordBatch]:
        try:
            descriptor = flight.FlightDescriptor.for_command(msgspec.json.encode(request))
            writer, reader = self._made().do_exchange(descriptor, self._options(timeout_s))
            call.reads(reader)
            with writer:
                writer.begin(keys.schema)
                writer.write_batch(keys)
                writer.done_writing()
                chunk = reader.read_chunk()
                return msgspec.json.decode(bytes(chunk.app_metadata), type=LookupReply), chunk.data
        except (flight.FlightError, pa.ArrowException, OSError, StopIteration, msgspec.DecodeError) as error:
            raise from_flight(error, self.url) from None

    def act(self, action: str, *, timeout_s: float) -> list[bytes]:
        """What the replica answers to an action of the server."""
        try:
            found = self._made().do_action(flight.Action(action, b""), self._options(timeout_s))
            return [result.body.to_pybytes() for result in found]
        except (flight.FlightError, pa.ArrowException, OSError) as error:
            raise from_flight(error, self.url) from None

    def health(self, *, timeout_s: float) -> Health:
        try:
            found = msgspec.json.decode(self.act("health", timeout_s=timeout_s)[0], type=Health)
        except (msgspec.DecodeError, IndexError) as error:
            raise PenstockError(f"{self.url}: what it says of itself cannot be read: {error}") from None
        self._is_near = self._rooms is not None and bool(found.neighbourhood) and found.neighbourhood == neighbourhood()
        return found

    def renew(self) -> None:
        """Connects anew for the next call. Those under way keep what they have."""
        with self._making:
            self._client = None

    def close(self) -> None:
        with self._making:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _options(self, timeout_s: float) -> Any:
        return flight.FlightCallOptions(timeout=max(timeout_s, 0.001), headers=self._access.headers())

    def _made(self) -> Any:
        with self._making:
            if self._client is None:
                try:
                    self._client = flight.FlightClient(self.url, generic_options=OPTIONS, **self._access.options())
                except (pa.ArrowException, TypeError) as error:
                    hint = "as in grpc://replica-0:8815"
                    raise InvalidInput(f"{self.url!r} is not the URL of a replica: {error}", hint=hint) from None
            return self._client
