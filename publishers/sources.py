"""Where a publish takes its rows from: a checkpoint on disk, or arrays in memory. By table, as the config names its tensors."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock.pipeline.config import ModelConfig, TableConfig
from penstock.pipeline.core.errors import InvalidInput, NotFound, Refused, Unsupported
from penstock.pipeline.core.schema import TableSchema, check_same
from penstock.pipeline.environment import Environment
from penstock.slicer.readers import Checkpoint, open_checkpoint
from penstock.slicer.readers.elements import BITS_ONLY, widened
from penstock.slicer.row_source import ArraySource, RowSource

from .births import schema_at_birth

Keys = NDArray[np.int64]
Rows = NDArray[np.float32]
FLOATS = ("float16", "bfloat16", "float32", "float64")


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
    """A checkpoint as it will be sliced. `name` says what it is, for errors."""

    name: str
    tables: Mapping[str, RowSource]
    dense: Mapping[str, NDArray[np.generic]]
    path: Path | None = None
    """Where it lies, if it does."""


@contextmanager
def checkpoint_source(path: Path, model: ModelConfig) -> Iterator[Source]:
    """The checkpoint at `path`, of whatever format. `NotFound` names a tensor that it does not have, `Refused` one that is no
    table, or an empty one."""
    if not model.tables:
        raise InvalidInput("the config declares no tables for this model", hint=f"`penstock inspect {path}` proposes them")
    with open_checkpoint(path) as checkpoint:
        tables = {name: _table(checkpoint, path, name, settings) for name, settings in model.tables.items()}
        used = {tensor for settings in model.tables.values() for tensor in (settings.tensor, settings.keys, settings.rows)}
        dense = {name: _dense(checkpoint, name) for name in _dense_names(checkpoint, path, model, used)}
        yield Source(str(path), tables, dense, path)


def array_source(tables: Mapping[str, tuple[Keys, Rows]], dense: Mapping[str, NDArray[np.generic]], model: ModelConfig) -> Source:
    """A checkpoint in memory: per table int64[n] keys and float32[n, dim] rows. Here a table may be empty."""
    found = {}
    for name, (keys, rows) in tables.items():
        if keys.ndim != 1 or rows.ndim != 2 or len(keys) != len(rows):
            raise Refused(f"table {name}: keys of shape {keys.shape} and rows of shape {rows.shape} do not belong together")
        if model.tables and name not in model.tables:
            raise NotFound(f"the config declares no table {name!r}, but {', '.join(sorted(model.tables))}")
        found[name] = ArraySource(np.ascontiguousarray(rows, np.float32), np.ascontiguousarray(keys, np.int64))
    return Source("the arrays given", found, dense)


def checked_tables(env: Environment, source: Source) -> dict[str, TableSchema]:
    """What the source's tables are, or will be born as. `Refused`: one has another dim or codec than at its birth, or one
    that the model has is missing: its rows would stay for ever."""
    known = env.catalog.reload_schema().tables
    if missing := sorted(set(known) - set(source.tables)):
        raise Refused(
            f"{source.name} has no table {', '.join(missing)}, which model {env.catalog.model} has",
            hint="is [models.*.tables] complete? A table cannot go while a model lives",
        )
    schemas = {name: schema_at_birth(env, name, dim=table.dim) for name, table in source.tables.items()}
    for name in known:
        check_same(name, known[name], schemas[name])
    return schemas


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
    if len(shape) != 2 or dtype not in FLOATS:
        raise Refused(f"{path}: tensor {name} of table {table} is {dtype}{list(shape)}, rows are floats in two dimensions")
    if shape[0] == 0:
        raise Refused(f"{path}: table {table} is empty", hint="was the checkpoint written before the table was filled?")
    if key_name is not None:
        keys = infos[key_name]
        if keys.shape != shape[:1] or not keys.dtype.startswith(("int", "uint")):
            raise Refused(f"{path}: keys {key_name} are {keys.dtype}{list(keys.shape)}, table {table} has {shape[0]} rows")
    return TensorSource(checkpoint, name, key_name, shape[0], shape[1], dtype)


def _dense(checkpoint: Checkpoint, name: str) -> NDArray[np.generic]:
    """A tensor in a dtype that numpy has; bfloat16 becomes float32, without a loss. `Unsupported` names any other."""
    values, dtype = checkpoint.read(name), checkpoint.info(name).dtype
    if dtype in BITS_ONLY and dtype != "bfloat16":
        raise Unsupported(f"dense tensor {name} is {dtype}", hint="leave it out by a list of dense patterns in the config")
    return widened(values) if dtype == "bfloat16" else values


def _dense_names(checkpoint: Checkpoint, path: Path, model: ModelConfig, used: set[str | None]) -> list[str]:
    left = [info for info in checkpoint.tensors if info.name not in used]
    if model.dense is None:
        return [info.name for info in left if info.role == "dense"]
    found = {pattern: [info.name for info in left if fnmatch.fnmatchcase(info.name, pattern)] for pattern in model.dense}
    for pattern, names in found.items():
        if not names:
            raise NotFound(
                f"{path} has no tensor for the dense pattern {pattern!r}", hint=f"`penstock inspect {path}` lists what it has"
            )
    return sorted({name for names in found.values() for name in names})


def read_touched(path: Path) -> dict[str, Keys]:
    """int64[n] keys of each table of a file, sorted, each once: an .npz with an array a table, a parquet file with columns `key`
    and `table`, or either kind without names, where there is one table ("")."""
    try:
        loaded = _parquet(path) if path.suffix == ".parquet" else _numpy(path)
    except FileNotFoundError:
        raise NotFound(f"no file {path}") from None
    except (ValueError, OSError, pa.ArrowException) as error:
        raise Refused(
            f"{path} is no file of touched keys: {error}",
            hint="an .npz with an array a table, an .npy, or a parquet file with columns `key` and `table`",
        ) from None
    for table, keys in loaded.items():
        if keys.ndim != 1 or not np.issubdtype(keys.dtype, np.integer):
            raise Refused(f"{path}: keys of table {table!r} are {keys.dtype}{list(keys.shape)}, not integers in one dimension")
    return {table: np.unique(keys.astype(np.int64)) for table, keys in loaded.items()}


def _numpy(path: Path) -> dict[str, NDArray[np.generic]]:
    loaded = np.load(path, allow_pickle=False)
    return {"": loaded} if isinstance(loaded, np.ndarray) else dict(loaded.items())


def _parquet(path: Path) -> dict[str, NDArray[np.generic]]:
    read = pq.read_table(path)
    if "key" not in read.column_names:
        raise ValueError("it has no column `key`")
    keys = read["key"].to_numpy()
    if "table" not in read.column_names:
        return {"": keys}
    names = read["table"].to_numpy()
    return {str(name): keys[names == name] for name in set(names)}
