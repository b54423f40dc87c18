"""A replica's Arrow Flight server: lookups, its status, its dense slice. It decides nothing; the replica does."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import flight

from penstock.pipeline.config import ReplicaConfig, microseconds
from penstock.pipeline.core.errors import InvalidInput, NotFound, Overloaded, PenstockError, Unreachable

from .admission import Admission, Limits
from .answers import Answer
from .credentials import Gate, read_certificates, read_tokens
from .helpers import Helpers
from .lookups import Want
from .replica import Replica
from .reporting import health_of, status_of
from .rooms import OpenRooms, neighbourhood
from .status import Health, Load
from .tally import Tally
from .wire import LookupReply, LookupRequest, bags_of, keys_of, rows_batch, to_flight

log = logging.getLogger(__name__)
MOST_TABLES = 1024
MOST_COMMAND_BYTES = 1 << 20
DRAIN_S = 10.0
HURRY_S = 0.05
NONE = np.empty(0, np.float32)
EVERYWHERE = ("0.0.0.0", "::", "")
ACTIONS = {
    "status": "what the replica has, as JSON",
    "health": "whether it should be asked, as JSON",
    "digest": "the version that every partition has adopted, and its digest, as JSON",
    "dense": "the dense slice, as a safetensors file; its digest comes first",
}


class Server(flight.FlightServerBase):  # type: ignore[misc]
    """Serves `replica` at `host:port`; port 0 takes a free one. Limits, certificates and tokens are those of its config."""

    def __init__(self, replica: Replica, *, host: str, port: int) -> None:
        self.replica, self.host = replica, host
        settings = replica.env.config.replica
        self.admission, self.tally, self.rooms = Admission(limits_of(settings)), Tally(), OpenRooms()
        self._helpers = Helpers(self.admission.limits.running - 1)
        certificates, tokens = read_certificates(settings), read_tokens(settings)
        self._scheme = "grpc" if certificates is None else "grpc+tls"
        options: dict[str, object] = {}
        if certificates is not None:
            options["tls_certificates"] = [(certificates.chain, certificates.key)]
            if certificates.client_ca is not None:
                options |= {"verify_client": True, "root_certificates": certificates.client_ca}
        if tokens is not None:
            options["middleware"] = {"tokens": Gate(tokens)}
        try:
            super().__init__(f"{self._scheme}://{host or '0.0.0.0'}:{port}", **options)
        except (OSError, pa.ArrowException) as error:
            hint = "is the port taken?" if certificates is None else "is the port taken, or do certificate and key not match?"
            raise Unreachable(f"cannot listen on {host}:{port}: {error}", hint=hint) from None

    @property
    def address(self) -> str:
        """Where clients find it."""
        host = socket.gethostname() if self.host in EVERYWHERE else self.host
        return f"{self._scheme}://{host}:{self.port}"

    def health(self) -> Health:
        return msgspec.structs.replace(health_of(self.replica), load=self.load(), neighbourhood=neighbourhood())

    def load(self) -> Load:
        tally, admission = self.tally, self.admission
        return Load(
            lookups=tally.lookups, keys=tally.keys, shed=tally.shed, refused=tally.refused, failed=tally.failed,
            calls=admission.calls, running=admission.running, waiting=admission.waiting, latency=tally.latency(),
        )  # fmt: skip

    def drain(self, timeout_s: float = DRAIN_S, hurried: threading.Event | None = None) -> bool:
        """Takes no more calls and waits for those under way, but not longer than this, nor once `hurried`, for a client that does
        not go on; whether all have ended."""
        ending = threading.Thread(target=self.shutdown, name="drain", daemon=True)
        ending.start()
        until = time.monotonic() + timeout_s
        while ending.is_alive() and time.monotonic() < until and not (hurried is not None and hurried.is_set()):
            ending.join(max(0.0, min(HURRY_S, until - time.monotonic())))
        if ending.is_alive():
            log.warning("%d calls were still under way, and end with the process", self.admission.calls)
        return not ending.is_alive()

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """One lookup."""
        with self._told():
            self._lookup(context, _decoded(descriptor.command), reader, writer)

    def _lookup(self, context: Any, request: LookupRequest, reader: Any, writer: Any) -> None:
        wanted = _wanted(request, _batch(reader))
        keys, lookups, began_at = sum(want.keys.size for want in wanted), self.replica.lookups, time.monotonic()
        self._check_hashed(request)
        lookups.check(wanted)
        timeout_s = None if request.timeout_ms is None else request.timeout_ms / 1000
        turns = self.admission.turn(keys, lookups.nbytes(wanted), timeout_s=timeout_s, is_gone=context.is_cancelled)
        with turns as turn:
            room = None if request.room is None else self.rooms.of(request.room)
            spare = self.admission.limits.running - self.admission.running - self.admission.waiting
            answers = lookups.answer_pooled(wanted, request.version, room, self._helpers.up_to(1 + spare))
            turn.looked_up()
            reply = self._reply(request, answers, room)
            rows = [NONE if reply.in_room else answer.rows for answer in answers]
            batch = rows_batch(rows, [answer.found for answer in answers])
            self.tally.answered(keys, time.monotonic() - began_at)
            writer.begin(batch.schema)
            writer.write_with_metadata(batch, msgspec.json.encode(reply))

    def _reply(self, request: LookupRequest, answers: list[Answer], room: NDArray[np.float32] | None) -> LookupReply:
        replica, first = self.replica, answers[0]
        is_in_room = room is not None and first.rows.base is room
        is_exact = request.version is not None or replica.lookups.shown is not None
        newest = max(state.timeline for state in replica.follower.partitions.values())
        return LookupReply(
            version=first.version, timeline=first.timeline, ready=replica.ready(replica.env.clock()),
            dims=tuple(answer.rows.shape[1] for answer in answers), adopted=replica.version,
            newest=None if is_exact or newest == first.timeline else newest, positions=dict(first.positions),
            in_room=tuple(answer.rows.size for answer in answers) if is_in_room else (),
        )  # fmt: skip

    def _check_hashed(self, request: LookupRequest) -> None:
        """A number that is looked for as a text would never be found."""
        for table in request.hashed:
            if self.replica.lookups.key_type(table) != "string":
                raise InvalidInput(f"table {table}: its keys are numbers, and texts were asked for")

    def do_action(self, context: Any, action: Any) -> Iterator[Any]:
        if action.type == "dense":
            yield from self._dense(context)
            return
        with self._told():
            said = flight.Result(msgspec.json.encode(self._said(action.type)))
        yield said

    def _said(self, action: str) -> object:
        if action == "status":
            return msgspec.structs.replace(status_of(self.replica), load=self.load())
        if action == "health":
            self.rooms.sweep()
            return self.health()
        if action == "digest":
            confirmed = self.replica.confirmed
            assert confirmed is not None
            return {"version": confirmed.manifest.version, "state": str(confirmed.manifest.state), "digest": confirmed.digest}
        raise NotFound(f"no action {action!r} (actions: {', '.join(ACTIONS)})")

    def _dense(self, context: Any) -> Iterator[Any]:
        with self._told():
            dense = self.replica.dense
            if dense is None or dense.info is None:
                raise NotFound("the version that is served has no dense slice")
            with self.admission.turn(0, dense.info.bytes, is_gone=context.is_cancelled):
                data = self.replica.env.catalog.store.get(dense.info.path).data
                found = [flight.Result(dense.info.digest.encode()), flight.Result(data)]
        yield from found

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        return list(ACTIONS.items())

    @contextmanager
    def _told(self) -> Iterator[None]:
        """One of the calls that may be open. Errors of ours go to the caller as they are, what else fails into our log."""
        try:
            with self.admission.call():
                yield
        except PenstockError as error:
            self._count(error)
            raise to_flight(error) from None
        except flight.FlightError:
            raise  # the caller has gone, or took too long
        except Exception as error:
            self.tally.has_failed()
            log.exception("a call failed")
            raise flight.FlightInternalError(f"the replica failed ({type(error).__name__}); its log says more") from None

    def _count(self, error: PenstockError) -> None:
        if isinstance(error, Overloaded):
            self.tally.was_shed()
        elif isinstance(error, Unreachable):
            self.tally.has_failed()
        else:
            self.tally.was_refused()


def limits_of(settings: ReplicaConfig) -> Limits:
    return Limits(
        calls=settings.max_calls, running=settings.max_running or len(os.sched_getaffinity(0)), waiting=settings.max_waiting,
        wait_s=microseconds(settings.max_wait) / 1e6, nbytes=settings.max_reply_bytes,
    )  # fmt: skip


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


def _batch(reader: Any) -> pa.RecordBatch | None:
    try:
        return reader.read_chunk().data
    except StopIteration:
        raise InvalidInput("a lookup sends one batch of keys, none came") from None
    except flight.FlightError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"not an Arrow stream: {error}") from None


def _wanted(request: LookupRequest, batch: pa.RecordBatch | None) -> list[Want]:
    keys = keys_of(batch, len(request.tables))
    assert batch is not None
    return [Want(*each) for each in zip(request.tables, keys, bags_of(batch, request.pooling), strict=True)]
