"""What goes over Arrow Flight between a client and a replica; docs/format.md specifies it.

A lookup is a DoExchange: the descriptor's command is a `LookupRequest`, the client sends one batch of keys, the replica
answers with one batch of rows, whose metadata is a `LookupReply`. Errors keep their class, message and hint.
"""

from __future__ import annotations

import json

import msgspec
import pyarrow as pa
from pyarrow import flight

from penstock.pipeline.core import errors
from penstock.pipeline.core.errors import PenstockError, Unreachable
from penstock.pipeline.core.ids import Timeline, Version

KEYS = pa.schema([pa.field("key", pa.int64(), nullable=False)])


class LookupRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`version`: exactly that one; None: as new as the replica has it."""

    table: str
    version: Version | None = None


class LookupReply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Version
    timeline: Timeline


def rows_schema(dim: int) -> pa.Schema:
    return pa.schema(
        [
            pa.field("row", pa.list_(pa.field("item", pa.float32(), nullable=False), dim), nullable=False),
            pa.field("found", pa.bool_(), nullable=False),
        ]
    )


def to_flight(error: PenstockError) -> flight.FlightError:
    """The error as it travels."""
    extra = json.dumps({"error": type(error).__name__, "message": str(error), "hint": error.hint}).encode()
    kind = flight.FlightUnavailableError if isinstance(error, Unreachable) else flight.FlightServerError
    return kind(str(error), extra)


def from_flight(error: Exception, url: str) -> PenstockError:
    """The error that a replica raised, or `Unreachable` when none of ours came over."""
    extra = getattr(error, "extra_info", b"") or b""
    try:
        said = json.loads(bytes(extra))
        kind = getattr(errors, said["error"])
        if issubclass(kind, PenstockError):
            found: PenstockError = kind(said["message"], hint=said["hint"])
            return found
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # not one of ours: what the transport says is all there is
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return Unreachable(f"{url}: {first}")
