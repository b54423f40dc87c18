"""Folding a stretch of the update log: of all that was written to a table, what stands at the end. Knows no log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt

FOLD_AT_BYTES = 64 << 20
"""Rows beyond this are folded before more are taken, so that memory follows the keys and not the touches."""


class Written(NamedTuple):
    """What was written to one table, every key once: int64[n] keys with uint8[n, width] rows, and int64[m] deleted keys."""

    keys: NDArray[np.int64]
    rows: NDArray[np.uint8]
    tombstones: NDArray[np.int64]


@dataclass(slots=True)
class Fold:
    """Takes writes in order; the newest of a key wins."""

    width: int
    _keys: list[NDArray[np.int64]] = field(default_factory=list)
    _rows: list[NDArray[np.uint8]] = field(default_factory=list)
    _puts: list[NDArray[np.bool_]] = field(default_factory=list)
    _held_bytes: int = 0
    _pending_bytes: int = 0

    def add(self, keys: NDArray[np.int64], rows: NDArray[np.uint8], tombstones: NDArray[np.int64], *, name: str = "") -> None:
        """One record's writes; copied. `Corrupt` when its rows are not `width` bytes wide; `name` says where it stands."""
        if len(rows) and rows.shape[1] != self.width:
            raise Corrupt(f"{name}: rows of {rows.shape[1]} bytes, the table has {self.width}")
        for some, data, put in ((keys, rows, True), (tombstones, None, False)):
            if len(some):
                self._keys.append(np.array(some))
                self._rows.append(np.zeros((len(some), self.width), np.uint8) if data is None else np.array(data))
                self._puts.append(np.full(len(some), put))
                self._pending_bytes += self._rows[-1].nbytes + some.nbytes
        # A fold of mostly distinct keys does not shrink: as much again may come before the next one.
        if self._pending_bytes > max(FOLD_AT_BYTES, self._held_bytes):
            self._shrink()

    def written(self) -> Written:
        """What stands: sorted by key."""
        self._shrink()
        if not self._keys:
            return Written(np.empty(0, np.int64), np.empty((0, self.width), np.uint8), np.empty(0, np.int64))
        keys, rows, puts = self._keys[0], self._rows[0], self._puts[0]
        return Written(keys[puts], rows[puts], keys[~puts])

    def _shrink(self) -> None:
        if not self._keys:
            return
        keys = np.concatenate(self._keys)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        last = order[np.append(ordered[1:] != ordered[:-1], True)]
        # Gathered batch by batch from where they are: no copy of all rows is made besides the result.
        rows = np.empty((len(last), self.width), np.uint8)
        by_batch = np.argsort(last, kind="stable")
        starts = np.cumsum([0, *map(len, self._keys)])
        ends = np.searchsorted(last[by_batch], starts)
        for number, batch in enumerate(self._rows):
            places = by_batch[ends[number] : ends[number + 1]]
            rows[places] = batch[last[places] - starts[number]]
        puts = np.concatenate(self._puts)[last]
        self._keys, self._rows, self._puts = [keys[last]], [rows], [puts]
        self._held_bytes, self._pending_bytes = rows.nbytes, 0
