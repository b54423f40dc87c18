"""Where a publish takes its rows from: a checkpoint on disk, or arrays in memory. By table, as the config names its tensors."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.config import ModelConfig, TableConfig
from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.errors import InvalidInput, NotFound, Refused
from penstock.pipeline.core.schema import TableSchema
from penstock.slicer.readers import Checkpoint, open_checkpoint
from penstock.slicer.row_source import ArraySource, RowSource

Keys = NDArray[np.int64]
Rows = NDArray[np.float32]
NEAR_ROWS = 32
"""Rows wanted that lie no further apart are read in one piece."""
CHUNK_ROWS = 1 << 18
"""Keys that are looked through at a time when keys are searched in a table that is not numbered by them."""


@dataclass(frozen=True, slots=True)
class TensorSource:
    """A table in a checkpoint: a tensor of rows, and one of keys unless the row numbers are the keys. A `RowSource`."""

    checkpoint: Checkpoint
    name: str
    key_name: str | None
    rows: int
    dim: int
    dtype: str

    def keys(self, start: int, stop: int) -> Keys | None:
        if self.key_name is None:
            return None
        return np.ascontiguousarray(self.checkpoint.rows(self.key_name, start, stop), np.int64)

    def read(self, start: int, out: Rows) -> Rows:
        if self.dtype == "float32":
            return self.checkpoint.rows(self.name, start, start + len(out))
        self.checkpoint.read_rows_into(self.name, start, out)
        return out


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint as it will be sliced. `name` says what it is, for errors; `path` where it lies, if it does."""

    name: str
    tables: Mapping[str, RowSource]
    codecs: Mapping[str, TableConfig]
    dense: Mapping[str, NDArray[np.generic]]
    path: Path | None = None

    def schemas(self) -> dict[str, TableSchema]:
        """What its tables would be born as."""
        found = {}
        for name, table in self.tables.items():
            settings = self.codecs.get(name, TableConfig(tensor=name))
            width = codec(settings.codec).width(table.dim)
            absent = settings.absent if isinstance(settings.absent, str) else tuple(settings.absent)
            if not isinstance(absent, str) and len(absent) != table.dim:
                raise InvalidInput(f'table {name}: "absent" has {len(absent)} values, a row has {table.dim}')
            found[name] = TableSchema(dim=table.dim, codec=settings.codec, width=width, absent=absent)
        return found


@contextmanager
def checkpoint_source(path: Path, model: ModelConfig) -> Iterator[Source]:
    """The checkpoint at `path`, of whatever format. `NotFound` names a tensor that it does not have."""
    if not model.tables:
        raise InvalidInput("the config declares no tables for this model", hint=f"`penstock inspect {path}` proposes them")
    with open_checkpoint(path) as checkpoint:
        tables = {name: _table(checkpoint, path, name, settings) for name, settings in model.tables.items()}
        used = {tensor for settings in model.tables.values() for tensor in (settings.tensor, settings.keys, settings.rows)}
        dense = {name: checkpoint.read(name) for name in _dense_names(checkpoint, model, used)}
        yield Source(str(path), tables, model.tables, dense, path)


def array_source(tables: Mapping[str, tuple[Keys, Rows]], dense: Mapping[str, NDArray[np.generic]], model: ModelConfig) -> Source:
    """A checkpoint that is in memory: per table int64[n] keys and float32[n, dim] rows."""
    found = {}
    for name, (keys, rows) in tables.items():
        if keys.ndim != 1 or rows.ndim != 2 or len(keys) != len(rows):
            raise Refused(f"table {name}: keys of shape {keys.shape} and rows of shape {rows.shape} do not belong together")
        found[name] = ArraySource(np.ascontiguousarray(rows, np.float32), np.ascontiguousarray(keys, np.int64))
    return Source("the arrays given", found, model.tables, dense)


def _table(checkpoint: Checkpoint, path: Path, table: str, settings: TableConfig) -> TensorSource:
    name, key_name = (settings.tensor, None) if settings.tensor is not None else (settings.rows, settings.keys)
    assert name is not None
    infos = {info.name: info for info in checkpoint.tensors}
    for wanted in (name, key_name):
        if wanted is not None and wanted not in infos:
            close = difflib.get_close_matches(wanted, infos, 3)
            hint = f"close: {', '.join(close)}" if close else f"`penstock inspect {path}` lists what it has"
            raise NotFound(f"{path} has no tensor {wanted!r}, which the config names for table {table}", hint=hint)
    shape, dtype = infos[name].shape, infos[name].dtype
    if len(shape) != 2 or not dtype.startswith(("float", "bfloat")):
        raise Refused(f"{path}: tensor {name} of table {table} is {dtype}{list(shape)}, rows are floats in two dimensions")
    if shape[0] == 0:
        raise Refused(f"{path}: table {table} is empty", hint="was the checkpoint written before the table was filled?")
    if key_name is not None:
        keys = infos[key_name]
        if keys.shape != shape[:1] or not keys.dtype.startswith(("int", "uint")):
            raise Refused(f"{path}: keys {key_name} are {keys.dtype}{list(keys.shape)}, table {table} has {shape[0]} rows")
    return TensorSource(checkpoint, name, key_name, shape[0], shape[1], dtype)


def _dense_names(checkpoint: Checkpoint, model: ModelConfig, used: set[str | None]) -> list[str]:
    names = [info.name for info in checkpoint.tensors if info.name not in used]
    if model.dense is None:
        dense = {info.name for info in checkpoint.tensors if info.role == "dense"}
        return [name for name in names if name in dense]
    for pattern in model.dense:
        if not fnmatch.filter(names, pattern):
            raise NotFound(f"no tensor matches the dense pattern {pattern!r}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in model.dense)]


def pick(source: RowSource, wanted: Keys, table: str) -> tuple[Keys, Rows, Keys]:
    """Of `wanted` (sorted, unique) the keys that the table has, their rows, and those that it has not.

    Costs what is wanted where row numbers are the keys, else one pass over the keys. `Refused` names a key that stands twice."""
    if source.keys(0, 0) is None:
        inside = (wanted >= 0) & (wanted < source.rows)
        return wanted[inside], take(source, wanted[inside]), wanted[~inside]
    positions = np.full(len(wanted), -1, np.int64)
    for start in range(0, source.rows if len(wanted) else 0, CHUNK_ROWS):
        keys = source.keys(start, min(start + CHUNK_ROWS, source.rows))
        assert keys is not None
        at = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
        hit = np.flatnonzero(wanted[at] == keys)
        again = positions[at[hit]] >= 0
        if again.any() or len(np.unique(at[hit])) != len(hit):
            repeated, counts = np.unique(keys[hit], return_counts=True)
            twice = keys[hit][again][0] if again.any() else repeated[counts.argmax()]
            raise Refused(f"table {table}: key {int(twice)} stands twice in the checkpoint")
        positions[at[hit]] = hit + start
    found = np.flatnonzero(positions >= 0)
    order = found[np.argsort(positions[found], kind="stable")]
    return wanted[order], take(source, positions[order]), wanted[positions < 0]


def take(source: RowSource, positions: NDArray[np.int64]) -> Rows:
    """float32[n, dim]: the rows at `positions` (int64[n], rising). Only what is near them is read: neighbours in one piece."""
    out = np.empty((len(positions), source.dim), np.float32)
    if not len(positions):
        return out
    starts = np.flatnonzero(np.append(True, np.diff(positions) > NEAR_ROWS)).tolist()
    for low, high in zip(starts, [*starts[1:], len(positions)], strict=True):
        first, last = int(positions[low]), int(positions[high - 1])
        piece = source.read(first, np.empty((last + 1 - first, source.dim), np.float32))
        out[low:high] = piece[positions[low:high] - first]
    return out


def read_touched(path: Path) -> dict[str, Keys]:
    """Keys per table from a file that the trainer wrote: `.npz` with an array a table, or `.npy` where there is one table ("")."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise NotFound(f"no file {path}") from None
    except (ValueError, OSError) as error:
        raise Refused(f"{path}: not a file of touched keys (.npz with an array a table): {error}") from None
    arrays: Sequence[tuple[str, NDArray[np.generic]]] = [("", loaded)] if isinstance(loaded, np.ndarray) else list(loaded.items())
    for table, keys in arrays:
        if keys.ndim != 1 or not np.issubdtype(keys.dtype, np.integer):
            raise Refused(
                f"{path}: keys of table {table!r} are {keys.dtype}{list(keys.shape)}, one dimension of integers is needed"
            )
    return {table: np.unique(keys.astype(np.int64)) for table, keys in arrays}
