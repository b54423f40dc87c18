"""Rows of a table as a checkpoint has them: one tensor, parts that follow one another, or parts that take turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from penstock.pipeline.core.errors import Refused
from penstock.slicer.readers import Checkpoint, TensorInfo
from penstock.slicer.row_source import Rows

FLOATS = ("float16", "bfloat16", "float32", "float64")


class Values(Protocol):
    """`rows` x `dim` floats, read as `RowSource.read` says."""

    @property
    def rows(self) -> int: ...

    @property
    def dim(self) -> int: ...

    def read(self, start: int, out: Rows) -> Rows: ...


@dataclass(frozen=True, slots=True)
class TensorValues:
    """A tensor of floats in two dimensions."""

    checkpoint: Checkpoint
    info: TensorInfo

    @property
    def rows(self) -> int:
        return self.info.shape[0]

    @property
    def dim(self) -> int:
        return self.info.shape[1]

    def read(self, start: int, out: Rows) -> Rows:
        if self.info.dtype == "float32":
            return self.checkpoint.rows(self.info.name, start, start + len(out))
        self.checkpoint.read_rows_into(self.info.name, start, out)
        return out


@dataclass(frozen=True, slots=True)
class Sliced:
    """Parts that follow one another: row 0 of a part comes behind the last row of the one before."""

    parts: Sequence[TensorValues]
    starts: Sequence[int]
    """Of each part, and the end of the last."""

    @classmethod
    def of(cls, parts: Sequence[TensorValues]) -> Sliced:
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + part.rows)
        return cls(parts, starts)

    @property
    def rows(self) -> int:
        return self.starts[-1]

    @property
    def dim(self) -> int:
        return self.parts[0].dim

    def read(self, start: int, out: Rows) -> Rows:
        stop = start + len(out)
        for part, low, high in zip(self.parts, self.starts, self.starts[1:], strict=False):
            first, last = max(start, low), min(stop, high)
            if first >= last:
                continue
            if (first, last) == (start, stop):
                return part.read(first - low, out)
            part.checkpoint.read_rows_into(part.info.name, first - low, out[first - start : last - start])
        return out


@dataclass(frozen=True, slots=True)
class Interleaved:
    """Parts that take turns: row r of part i of n is row r * n + i, as in TensorFlow's "mod" partition strategy."""

    parts: Sequence[TensorValues]

    @classmethod
    def of(cls, parts: Sequence[TensorValues], table: str) -> Interleaved:
        found, count = cls(parts), len(parts)
        for number, part in enumerate(parts):
            if part.rows != (due := (found.rows - number + count - 1) // count):
                raise Refused(
                    f"table {table}: part {part.info.name} has {part.rows} rows, by modulo {due} of {found.rows} belong to it",
                    hint='do the parts follow one another? Then leave partition = "modulo" out',
                )
        return found

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def dim(self) -> int:
        return self.parts[0].dim

    def read(self, start: int, out: Rows) -> Rows:
        count = len(self.parts)
        for number, part in enumerate(self.parts):
            turns = out[(number - start) % count :: count]
            if len(turns):
                first = (start + (number - start) % count) // count
                turns[:] = part.read(first, np.empty(turns.shape, np.float32))
        return out


@dataclass(frozen=True, slots=True)
class Selected:
    """Some rows of others, at `positions` (int64[n], rising)."""

    values: Values
    positions: np.ndarray[tuple[int], np.dtype[np.int64]]

    @property
    def rows(self) -> int:
        return len(self.positions)

    @property
    def dim(self) -> int:
        return self.values.dim

    def read(self, start: int, out: Rows) -> Rows:
        for low, high in stretches(self.positions[start : start + len(out)]):
            wanted = self.positions[start + low : start + high]
            first = int(wanted[0])
            piece = self.values.read(first, np.empty((int(wanted[-1]) + 1 - first, self.dim), np.float32))
            out[low:high] = piece[wanted - first]
        return out


NEAR = 64
"""Rows that are read for nothing, rather than reading twice."""


def stretches(positions: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Sequence[tuple[int, int]]:
    """Bounds of the groups of rising positions that lie near each other."""
    if not len(positions):
        return []
    breaks = (np.flatnonzero(np.diff(positions) > NEAR) + 1).tolist()
    return list(zip([0, *breaks], [*breaks, len(positions)], strict=True))


def values_of(checkpoint: Checkpoint, infos: Sequence[TensorInfo], table: str, where: str, *, modulo: bool) -> Values:
    """The rows of a table in these tensors. `Refused` names one that holds no rows of floats, or other ones than the first."""
    for info in infos:
        if len(info.shape) != 2 or info.dtype not in FLOATS:
            found = f"{info.dtype}{list(info.shape)}"
            raise Refused(f"{where}: tensor {info.name} of table {table} is {found}, rows are floats in two dimensions")
        if info.shape[1] != infos[0].shape[1]:
            raise Refused(
                f"{where}: rows of {info.name} have {info.shape[1]} values, those of {infos[0].name} {infos[0].shape[1]}; "
                f"both are parts of table {table}"
            )
    parts = [TensorValues(checkpoint, info) for info in infos]
    if len(parts) == 1:
        return parts[0]
    return Interleaved.of(parts, table) if modulo else Sliced.of(parts)
