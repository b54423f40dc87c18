"""What a trainer hands over, checked and encoded: a batch of one table's rows or deletions. Changes nothing but its output."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.errors import InvalidInput, Refused
from penstock.pipeline.core.records import NO_ROWS
from penstock.pipeline.core.schema import TableSchema
from penstock.pipeline.core.times import EventTime

from .outbox import Parcel


def checked_keys(table: str, keys: ArrayLike) -> NDArray[np.int64]:
    """A copy of the keys as int64[n]; `InvalidInput` for anything that is no list of integers of 64 bits."""
    found = np.asarray(keys)
    if found.size == 0 and found.ndim == 1:
        return np.empty(0, np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise InvalidInput(f"table {table}: keys are int64[n], not {found.dtype}{list(found.shape)}")
    if found.dtype == np.uint64 and found.max(initial=0) > np.iinfo(np.int64).max:
        raise InvalidInput(f"table {table}: key {found.max()} does not fit into int64")
    return found.astype(np.int64, order="C", copy=True)


def checked_rows(table: str, keys: NDArray[np.int64], rows: ArrayLike) -> NDArray[np.float32]:
    """The rows as float32[n, dim], one a key."""
    found = np.asarray(rows)
    if found.ndim != 2 or len(found) != len(keys) or found.dtype.kind not in "fiu":
        raise InvalidInput(f"table {table}: rows are float32[{len(keys)}, dim], not {found.dtype}{list(found.shape)}")
    return np.ascontiguousarray(found, np.float32)


def checked_counts(table: str, keys: NDArray[np.int64], counts: ArrayLike) -> NDArray[np.float64]:
    """The counts as float64[n], one a key; `InvalidInput` for one that is negative or not finite."""
    found = np.asarray(counts)
    if found.shape != keys.shape or (found.size and found.dtype.kind not in "fiu"):
        raise InvalidInput(f"table {table}: counts are float64[{len(keys)}], not {found.dtype}{list(found.shape)}")
    made = found.astype(np.float64)
    if bad := np.flatnonzero(~(np.isfinite(made) & (made >= 0))).tolist():
        raise InvalidInput(f"table {table}: key {keys[bad[0]]} was asked for {made[bad[0]]} times")
    return made


def put_batch(name: str, table: TableSchema, keys: NDArray[np.int64], rows: NDArray[np.float32], through: EventTime) -> Parcel:
    """`Refused` when a row has another dim than the table, or holds NaN or an infinity: it names the key."""
    if rows.shape[1] != table.dim:
        raise Refused(f"table {name}: rows of dim {rows.shape[1]}, it was born with dim {table.dim}")
    encoded = codec(table.codec).encode(rows, row_name=lambda row: f"table {name}: the row of key {keys[row]}")
    # The caller may reuse its array at once, so what an encoder only viewed is copied.
    owned = encoded.copy() if np.may_share_memory(encoded, rows) else encoded
    return Parcel(table=name, keys=keys, rows=owned, through=through)


def delete_batch(name: str, keys: NDArray[np.int64], through: EventTime) -> Parcel:
    return Parcel(table=name, keys=keys, rows=NO_ROWS, through=through)


def chunks(batch: Parcel, limit_bytes: int) -> list[Parcel]:
    """The batch in parts that a queue of `limit_bytes` can take in one at a time."""
    each = max(1, limit_bytes // max(1, batch.nbytes // max(1, len(batch.keys))))
    if len(batch.keys) <= each:
        return [batch]
    return [
        Parcel(table=batch.table, keys=batch.keys[at : at + each], rows=batch.rows[at : at + each], through=batch.through)
        for at in range(0, len(batch.keys), each)
    ]
