"""Picks the rows of some keys out of a checkpoint: finds where they stand, and reads no more than the windows round them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Refused
from penstock.slicer.names import same_hash
from penstock.slicer.row_source import Keys, Rows, RowSource

WINDOW_ROWS = 4096
"""The rows wanted of one window are read in one piece, from the first to the last."""
CHUNK_ROWS = 1 << 21
"""Keys of a checkpoint that are looked through at a time."""


def locate(source: RowSource, wanted: Keys, table: str) -> NDArray[np.int64]:
    """int64[n]: the row number of each of `wanted` (int64[n], sorted, each once); -1 where the table does not have it.

    Costs nothing where row numbers are the keys, else one pass over the keys. `Refused` names a wanted key that is there twice.
    """
    if source.keys(0, 0) is None:
        return np.where((wanted >= 0) & (wanted < source.rows), wanted, -1)
    positions = np.full(len(wanted), -1, np.int64)
    for start in range(0, source.rows if len(wanted) else 0, CHUNK_ROWS):
        keys = source.keys(start, min(start + CHUNK_ROWS, source.rows))
        assert keys is not None
        # Both sides sorted: a search then goes through either one front to back, and stays in the cache.
        order = np.argsort(keys)
        rising = keys[order]
        first, behind = np.searchsorted(rising, wanted), np.searchsorted(rising, wanted, side="right")
        found = np.flatnonzero(behind > first)
        twice = found[(behind[found] > first[found] + 1) | (positions[found] >= 0)]
        if len(twice):
            at = int(twice[0])
            places = [*positions[at : at + 1][positions[at : at + 1] >= 0], *(start + order[first[at] : behind[at]])]
            raise _there_twice(source, int(wanted[at]), places, table)
        positions[found] = start + order[first[found]]
    return positions


def _there_twice(source: RowSource, key: int, places: list[int], table: str) -> Refused:
    names = [name for at in map(int, places) if (name := source.names(at, at + 1)) is not None]
    if not names:
        return Refused(f"table {table}: key {key} is there twice")
    return same_hash(table, key, (name[0].as_py() for name in names))


def take(source: RowSource, positions: NDArray[np.int64]) -> Rows:
    """float32[n, dim]: the rows at `positions` (int64[n], rising)."""
    out = np.empty((len(positions), source.dim), np.float32)
    if not len(positions):
        return out
    buffer = np.empty((min(WINDOW_ROWS, source.rows), source.dim), np.float32)
    starts = np.flatnonzero(np.diff(positions // WINDOW_ROWS, prepend=-1))
    for low, high in zip(starts, np.append(starts[1:], len(positions)), strict=True):
        first = int(positions[low])
        piece = source.read(first, buffer[: int(positions[high - 1]) + 1 - first])
        out[low:high] = piece[positions[low:high] - first]
    return out


def take_names(source: RowSource, positions: NDArray[np.int64]) -> pa.LargeBinaryArray | None:
    """The texts of the keys at `positions` (int64[n], rising); None where keys are numbers."""
    if source.names(0, 0) is None:
        return None
    parts = [pa.array([], pa.large_binary())]
    starts = np.flatnonzero(np.diff(positions // WINDOW_ROWS, prepend=-1))
    for low, high in zip(starts, np.append(starts[1:], len(positions)), strict=True):
        first = int(positions[low])
        piece = source.names(first, int(positions[high - 1]) + 1)
        assert piece is not None
        parts.append(piece.take(pa.array(positions[low:high] - first)))
    return pa.concat_arrays(parts)
