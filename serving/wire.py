"""What goes over Arrow Flight between a client and a replica; docs/format.md specifies it. Light: knows no replica.

A lookup is a DoExchange: the descriptor's command is a `LookupRequest`, the client sends one batch with the keys of each table
in a row, the replica answers with one batch, a row a table, whose metadata is a `LookupReply`. Errors keep their class, message
and hint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import flight

from penstock.pipeline.core import errors
from penstock.pipeline.core.errors import InvalidInput, PenstockError, Unreachable
from penstock.pipeline.core.ids import Timeline, Version

KEYS = pa.schema([pa.field("keys", pa.large_list(pa.field("item", pa.int64(), nullable=False)), nullable=False)])
ROWS = pa.schema(
    [
        pa.field("rows", pa.large_list(pa.field("item", pa.float32(), nullable=False)), nullable=False),
        pa.field("found", pa.large_list(pa.field("item", pa.bool_(), nullable=False)), nullable=False),
    ]
)


class LookupRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tables`: one for each row of the batch of keys. `version`: exactly that one; None: as new as the replica has it.
    `hashed`: those whose keys the client was given as texts."""

    tables: tuple[str, ...]
    version: Version | None = None
    hashed: tuple[str, ...] = ()


class LookupReply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`ready`: whether the replica says that it should be asked."""

    version: Version
    timeline: Timeline
    ready: bool


def keys_batch(keys: Sequence[NDArray[np.int64]]) -> pa.RecordBatch:
    lists = _lists(pa.array(np.concatenate(keys)), [some.size for some in keys], KEYS, 0)
    return pa.RecordBatch.from_arrays([lists], schema=KEYS)


def keys_of(batch: pa.RecordBatch | None, tables: int) -> list[NDArray[np.int64]]:
    """The keys of each table; `InvalidInput` for any batch but one of `keys_batch`."""
    if batch is None or batch.schema != KEYS or batch.num_rows != tables:
        raise InvalidInput(f"a lookup in {tables} tables sends one batch of so many rows of {KEYS.to_string()}")
    try:
        batch.validate(full=True)
        column = batch.column(0)
        found = [column[row].values.to_numpy(zero_copy_only=True) for row in range(tables)]
    except (pa.ArrowException, AttributeError) as error:
        raise InvalidInput(f"not a batch of keys: {error}") from None
    return found


def rows_batch(rows: Sequence[NDArray[np.float32]], found: Sequence[NDArray[np.bool_]]) -> pa.RecordBatch:
    """`rows`: float32[n, dim] of each table, `found`: bool[n] of each."""
    flat = _flat(rows)
    return pa.RecordBatch.from_arrays(
        [
            _lists(pa.array(flat), [some.size for some in rows], ROWS, 0),
            _lists(pa.array(np.concatenate(found)), [some.size for some in found], ROWS, 1),
        ],
        schema=ROWS,
    )


def rows_of(batch: pa.RecordBatch) -> list[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """float32[n, dim] and bool[n] of each table."""
    answers = []
    for row in range(batch.num_rows):
        rows, found = (batch.column(c)[row].values for c in (0, 1))
        count = len(found)
        answers.append(
            (
                rows.to_numpy(zero_copy_only=True).reshape(count, len(rows) // count if count else 0),
                found.to_numpy(zero_copy_only=False),
            )
        )
    return answers


def _flat(rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    whole = rows[0].base
    if whole is not None and all(some.base is whole for some in rows) and whole.size == sum(some.size for some in rows):
        return whole  # a lookup has put them next to each other
    return np.concatenate([some.reshape(-1) for some in rows])


def _lists(values: pa.Array, sizes: list[int], schema: pa.Schema, column: int) -> pa.LargeListArray:
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return pa.LargeListArray.from_arrays(pa.array(offsets), values, type=schema.field(column).type)


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
    return Unreachable(f"{url}: {first.partition('. gRPC client debug context')[0]}")
