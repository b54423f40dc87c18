"""What goes over Arrow Flight between a client and a replica; docs/format.md specifies it. Light: knows no replica.

A lookup is a DoExchange: the descriptor's command is a `LookupRequest`, the client sends one batch with the keys of each table
in a row (and their bags, where some are pooled), the replica answers with one batch, a row a table, whose metadata is a
`LookupReply`; the rows themselves may go into memory that the client has offered. Errors keep their class, message and hint.
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
from penstock.pipeline.core.errors import InvalidInput, Overloaded, PenstockError, Unreachable
from penstock.pipeline.core.ids import Offset, Partition, Timeline, Version

from .bags import Bags, Pooling

_NUMBERS = pa.large_list(pa.field("item", pa.int64(), nullable=False))
KEYS = pa.schema([pa.field("keys", _NUMBERS, nullable=False)])
KEYS_IN_BAGS = KEYS.append(pa.field("offsets", _NUMBERS, nullable=False))
ROWS = pa.schema(
    [
        pa.field("rows", pa.large_list(pa.field("item", pa.float32(), nullable=False)), nullable=False),
        pa.field("found", pa.large_list(pa.field("item", pa.bool_(), nullable=False)), nullable=False),
    ]
)


class RoomOffer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Memory of the client's, for the rows: descriptor `fd` of process `pid`, a memfd of this name, its first `bytes`."""

    pid: int
    fd: int
    name: str
    bytes: int


class LookupRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tables`: one for each row of the batch of keys; one may stand there several times. `version`: exactly that one; None: as
    new as the replica has it. `hashed`: those whose keys the client was given as texts. `timeout_ms`: how long the client waits;
    who cannot be answered in that time is refused at once. `pooling`: for each row of the batch, what becomes of its bags, null
    where each key has its own row; empty when nothing is pooled. `room`: where the rows may be put, offered only to a replica
    that has said that it is near."""

    tables: tuple[str, ...]
    version: Version | None = None
    hashed: tuple[str, ...] = ()
    timeout_ms: int | None = None
    pooling: tuple[Pooling | None, ...] = ()
    room: RoomOffer | None = None


class LookupReply(msgspec.Struct, frozen=True, kw_only=True):
    """`version`, `timeline`: what all rows belong to, or are newer than. `ready`: whether the replica should be asked. `dims`: of
    each row of the batch, floats a row of the table. `newest`: the newest timeline that some rows may belong to, None where it is
    `timeline`. `adopted`: the version that the replica itself has come to. `positions`: as of `Answer`; who merges answers keeps
    the smaller one of a partition. `in_room`: how many floats of each row of the batch were put into the room that was offered,
    one after the other, instead of into its list; nothing: they are in the batch."""

    version: Version
    timeline: Timeline
    ready: bool
    dims: tuple[int, ...] = ()
    newest: Timeline | None = None
    adopted: Version | None = None
    positions: dict[Partition, Offset] = {}
    in_room: tuple[int, ...] = ()


def keys_batch(keys: Sequence[NDArray[np.int64]], bags: Sequence[Bags | None] = ()) -> pa.RecordBatch:
    """`keys`: int64[n] of each table; `bags`: of each table, where some are pooled."""
    columns = [_lists(pa.array(np.concatenate(keys)), [some.size for some in keys], KEYS, 0)]
    if not any(bags):
        return pa.RecordBatch.from_arrays(columns, schema=KEYS)
    offsets = [np.empty(0, np.int64) if some is None else some.offsets for some in bags]
    columns.append(_lists(pa.array(np.concatenate(offsets)), [some.size for some in offsets], KEYS_IN_BAGS, 1))
    return pa.RecordBatch.from_arrays(columns, schema=KEYS_IN_BAGS)


def keys_of(batch: pa.RecordBatch | None, tables: int) -> list[NDArray[np.int64]]:
    """The keys of each table; `InvalidInput` for any batch but one of `keys_batch`."""
    if batch is None or batch.schema not in (KEYS, KEYS_IN_BAGS) or batch.num_rows != tables:
        raise InvalidInput(f"a lookup in {tables} tables sends one batch of so many rows of {KEYS.to_string()}")
    try:
        batch.validate(full=True)
        return _numbers(batch, 0)
    except (pa.ArrowException, AttributeError) as error:
        raise InvalidInput(f"not a batch of keys: {error}") from None


def bags_of(batch: pa.RecordBatch, pooling: Sequence[Pooling | None]) -> list[Bags | None]:
    """The bags of each table, of a batch that `keys_of` took; `InvalidInput` where they are not as `pooling` says."""
    if not pooling and batch.schema == KEYS:
        return [None] * batch.num_rows
    if len(pooling) != batch.num_rows or batch.schema != KEYS_IN_BAGS:
        raise InvalidInput(f"a pooled lookup in {batch.num_rows} tables says for each how, and sends their offsets")
    found = [None if how is None else Bags(some, how) for some, how in zip(_numbers(batch, 1), pooling, strict=True)]
    for row, how in enumerate(pooling):
        if how is None and len(batch.column(1)[row].values):
            raise InvalidInput(f"row {row} of the batch has offsets, and is not pooled")
    return found


def _numbers(batch: pa.RecordBatch, column: int) -> list[NDArray[np.int64]]:
    lists = batch.column(column)
    return [lists[row].values.to_numpy(zero_copy_only=True) for row in range(batch.num_rows)]


def rows_batch(rows: Sequence[NDArray[np.float32]], found: Sequence[NDArray[np.bool_]]) -> pa.RecordBatch:
    """`rows`: float32[n, dim] of each table, or float32[bags, dim] where it is pooled; `found`: bool[n keys] of each."""
    flat = _flat(rows)
    return pa.RecordBatch.from_arrays(
        [
            _lists(pa.array(flat), [some.size for some in rows], ROWS, 0),
            _lists(pa.array(np.concatenate(found)), [some.size for some in found], ROWS, 1),
        ],
        schema=ROWS,
    )


def rows_of(
    batch: pa.RecordBatch, dims: Sequence[int] = (), room: Sequence[NDArray[np.float32]] = ()
) -> list[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """float32[n, dim], or float32[bags, dim], and bool[n] of each table. `dims`: as in the reply; without, nothing is pooled.
    `room`: float32[n * dim] of each table, where they are not in the batch."""
    answers = []
    for row in range(batch.num_rows):
        found = batch.column(1)[row].values
        rows = room[row] if room else batch.column(0)[row].values.to_numpy(zero_copy_only=True)
        count = len(found)
        shape = (len(rows) // dims[row], dims[row]) if dims else (count, len(rows) // count if count else 0)
        answers.append((rows.reshape(shape), found.to_numpy(zero_copy_only=False)))
    return answers


def row_counts(keys: pa.RecordBatch, pooling: Sequence[Pooling | None]) -> list[int]:
    """Of the answer to a batch of `keys_batch`, a table each."""
    sizes = [np.diff(column.offsets.to_numpy()).tolist() for column in keys.columns]
    return [sizes[1 if pooling and pooling[row] is not None else 0][row] for row in range(keys.num_rows)]


def _flat(rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    if len(rows) == 1 and rows[0].flags.c_contiguous:
        return rows[0].reshape(-1)
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
    kind = flight.FlightUnavailableError if isinstance(error, Unreachable) else flight.FlightServerError
    return kind(str(error), extra_of(error))


def extra_of(error: PenstockError) -> bytes:
    """What goes along with an error, so that the caller can raise the same."""
    said: dict[str, str | int] = {"error": type(error).__name__, "message": str(error), "hint": error.hint}
    if isinstance(error, Overloaded):
        said["retry_after_ms"] = error.retry_after_ms
    return json.dumps(said).encode()


def from_flight(error: Exception, url: str) -> PenstockError:
    """The error that a replica raised, or `Unreachable` when none of ours came over."""
    extra = getattr(error, "extra_info", b"") or b""
    try:
        said = json.loads(bytes(extra))
        kind = getattr(errors, said["error"])
        if kind is Overloaded:
            return Overloaded(said["message"], retry_after_ms=int(said.get("retry_after_ms", 0)), hint=said["hint"])
        if issubclass(kind, PenstockError):
            found: PenstockError = kind(said["message"], hint=said["hint"])
            return found
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # not one of ours: what the transport says is all there is
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return Unreachable(f"{url}: {first.partition('. gRPC client debug context')[0]}")
