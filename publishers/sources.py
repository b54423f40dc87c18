"""Where a publish takes its rows from: a checkpoint on disk, or arrays in memory. By table, as the config names its tensors."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.config import ModelConfig
from penstock.pipeline.core.errors import InvalidInput, NotFound, Refused, Unsupported
from penstock.pipeline.core.schema import TableSchema
from penstock.pipeline.core.text_keys import Texts, hash_texts, texts_of
from penstock.pipeline.environment import Environment
from penstock.slicer.readers import Checkpoint, open_checkpoint
from penstock.slicer.readers.tensors.elements import BITS_ONLY, widened
from penstock.slicer.row_source import ArraySource, Keys, Rows, RowSource

from .births import schema_at_birth
from .table_reading import Reading


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint as it will be sliced. `name` says what it is, for errors."""

    name: str
    tables: Mapping[str, RowSource]
    dense: Mapping[str, NDArray[np.generic]]
    path: Path | None = None
    """Where it lies, if it does."""
    partial: bool = False
    """Whether the tables hold only what changed, and those that did not change are not there."""
    deleted: Mapping[str, Keys] = field(default_factory=dict)
    """Keys (int64[n], sorted) that a partial checkpoint says are gone, by table."""

    def touched(self) -> dict[str, Keys]:
        """Every key that a partial checkpoint says something of: int64[n] by table, sorted. `Refused` for one that it both has
        and says is gone."""
        found = {}
        for name, table in self.tables.items():
            keys, gone = table.keys(0, table.rows), self.deleted.get(name, np.empty(0, np.int64))
            assert keys is not None
            if len(both := np.intersect1d(keys, gone)):
                raise Refused(f"{self.name}: key {both[0]} of table {name} has a row, and is said to be deleted")
            found[name] = np.union1d(keys, gone)
        return found

    def check_whole(self) -> None:
        """`Refused`: a partial checkpoint is no state."""
        if self.partial:
            raise Refused(
                f"{self.name} holds only the rows that changed, which make a delta and no snapshot",
                hint="`penstock publish delta` takes it",
            )


@contextmanager
def checkpoint_source(path: Path, model: ModelConfig) -> Iterator[Source]:
    """The checkpoint at `path`, of whatever format. `NotFound` names a tensor that it does not have, `Refused` one that is no
    table, or an empty one."""
    if not model.tables:
        raise InvalidInput("the config declares no tables for this model", hint=f"`penstock inspect {path}` proposes them")
    with open_checkpoint(path) as checkpoint:
        read = Reading(checkpoint, path)
        tables = {}
        for name, settings in model.tables.items():
            if settings.retired:
                read.pass_over(settings)
            elif (found := read.table(name, settings)) is not None:
                tables[name] = found
        if checkpoint.partial and not tables:
            raise NotFound(f"{path} has rows of none of the tables {', '.join(model.tables)}", hint=read.hint)
        deleted = {name: read.deleted(name, model.tables[name]) for name in tables if checkpoint.partial}
        dense = {name: _dense(checkpoint, name) for name in _dense_names(checkpoint, path, model, read.used)}
        yield Source(str(path), tables, dense, path, checkpoint.partial, deleted)


def array_source(
    tables: Mapping[str, tuple[Keys | Texts, Rows]], dense: Mapping[str, NDArray[np.generic]], model: ModelConfig
) -> Source:
    """A checkpoint in memory: per table int64[n] keys, or n texts, and float32[n, dim] rows. Here a table may be empty."""
    found = {}
    for name, (given, rows) in tables.items():
        is_number = isinstance(given, np.ndarray) and given.dtype.kind in "iu"
        names = None if is_number else texts_of(given)
        keys = np.asarray(given) if names is None else hash_texts(names)
        if keys.ndim != 1 or rows.ndim != 2 or len(keys) != len(rows):
            raise Refused(f"table {name}: keys of shape {keys.shape} and rows of shape {rows.shape} do not belong together")
        if model.tables and name not in model.tables:
            raise NotFound(f"the config declares no table {name!r}, but {', '.join(sorted(model.tables))}")
        found[name] = ArraySource(np.ascontiguousarray(rows, np.float32), np.ascontiguousarray(keys, np.int64), names)
    return Source("the arrays given", found, dense)


def born_as(env: Environment, source: Source) -> dict[str, TableSchema]:
    """What the source's tables are, or will be born as; errors as of `schema_at_birth`."""
    return {
        name: schema_at_birth(env, name, dim=table.dim, keys="int64" if table.names(0, 0) is None else "string")
        for name, table in source.tables.items()
    }


def _dense(checkpoint: Checkpoint, name: str) -> NDArray[np.generic]:
    """A tensor in a dtype that numpy has; bfloat16 becomes float32, without a loss. `Unsupported` names any other."""
    values, dtype = checkpoint.read(name), checkpoint.info(name).dtype
    if dtype in BITS_ONLY and dtype != "bfloat16":
        raise Unsupported(f"dense tensor {name} is {dtype}", hint="leave it out by a list of dense patterns in the config")
    return widened(values) if dtype == "bfloat16" else values


def _dense_names(checkpoint: Checkpoint, path: Path, model: ModelConfig, used: set[str]) -> list[str]:
    left = [info for info in checkpoint.tensors if info.name not in used]
    if model.dense is None:
        # Of a partial checkpoint only the config can say whether its dense tensors are all that there are.
        return [info.name for info in left if info.role == "dense" and not checkpoint.partial]
    found = {pattern: [info.name for info in left if fnmatch.fnmatchcase(info.name, pattern)] for pattern in model.dense}
    for pattern, names in found.items():
        if not names:
            if checkpoint.partial:
                return []
            raise NotFound(
                f"{path} has no tensor for the dense pattern {pattern!r}", hint=f"`penstock inspect {path}` lists what it has"
            )
    return sorted({name for names in found.values() for name in names})
