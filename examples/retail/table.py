"""An embedding table that grows: a row is born when its key is first trained. With its row-wise Adagrad.

It knows keys and rows, and nothing of what they mean or where they are delivered.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import InvalidInput

from .keys import Keys
from .model import DIM, Floats, initial_rows

INITIAL_ACCUMULATOR = 0.1
"""The sum of mean squared gradients that a row is born with, and that every row goes on from where a checkpoint was restored
without its accumulators: steps are then longer for a while, never unbounded."""
_CAPACITY = 1024


class EmbeddingTable:
    """Rows float32[n, 16] and accumulators float32[n] in the order of birth; found by a sorted index of keys."""

    def __init__(self, keys: Keys, rows: Floats, accumulators: Floats | None) -> None:
        """Keys int64[n], no two equal, rows float32[n, 16], accumulators float32[n]; all are copied. `InvalidInput` otherwise."""
        if rows.shape != (keys.size, DIM):
            raise InvalidInput(f"rows of shape {rows.shape} for {keys.size} keys of dim {DIM}")
        if accumulators is None:
            accumulators = np.full(keys.size, INITIAL_ACCUMULATOR, np.float32)
        if accumulators.shape != keys.shape:
            raise InvalidInput(f"accumulators of shape {accumulators.shape} for {keys.size} keys")
        if not (np.isfinite(rows).all() and np.isfinite(accumulators).all()):
            raise InvalidInput("a row or an accumulator that is not finite")
        self._slots = np.argsort(keys, kind="stable")
        self._sorted = keys[self._slots].astype(np.int64)
        if np.any(twice := self._sorted[1:] == self._sorted[:-1]):
            raise InvalidInput(f"key {self._sorted[1:][twice][0]} twice")
        self._keys = keys.astype(np.int64)
        self._rows = rows.astype(np.float32)
        self._accumulators = accumulators.astype(np.float32)

    def __len__(self) -> int:
        return self._sorted.size

    @property
    def keys(self) -> Keys:
        """A copy, in the order of birth, as are the two below."""
        return self._keys[: len(self)].copy()

    @property
    def rows(self) -> Floats:
        return self._rows[: len(self)].copy()

    @property
    def accumulators(self) -> Floats:
        return self._accumulators[: len(self)].copy()

    def lookup(self, keys: Keys) -> Floats:
        """int64[m] -> float32[m, 16]; zeros where there is no row, as a replica answers."""
        slots = self._find(keys)
        rows = np.zeros((keys.size, DIM), np.float32)
        known = slots >= 0
        rows[known] = self._rows[slots[known]]
        return rows

    def born(self, keys: Keys) -> NDArray[np.int64]:
        """int64[m] -> their slots, int64[m]; rows are made for those that have none."""
        slots = self._find(keys)
        if slots.size and slots.min() < 0:
            self._add(np.unique(keys[slots < 0]))
            slots = self._find(keys)
        return slots

    def read(self, slots: NDArray[np.int64]) -> Floats:
        return self._rows[slots]

    def learn(self, slots: NDArray[np.int64], gradients: Floats, *, rate: float) -> Keys:
        """Row-wise Adagrad with float32[m, 16] gradients, those of one row summed first. Returns the keys it touched."""
        order = np.argsort(slots, kind="stable")
        arranged = slots[order]
        starts = np.flatnonzero(np.concatenate([[True], arranged[1:] != arranged[:-1]]))
        touched = arranged[starts]
        total = np.add.reduceat(gradients[order], starts, axis=0)
        self._accumulators[touched] += np.mean(total * total, axis=1)
        self._rows[touched] -= rate * total / np.sqrt(self._accumulators[touched])[:, None]
        return self._keys[touched]

    def _find(self, keys: Keys) -> NDArray[np.int64]:
        """Slots; -1 where there is no row."""
        if not len(self):
            return np.full(keys.size, -1, np.int64)
        places = np.minimum(np.searchsorted(self._sorted, keys), len(self) - 1)
        return np.where(self._sorted[places] == keys, self._slots[places], -1)

    def _add(self, keys: Keys) -> None:
        before, after = len(self), len(self) + keys.size
        if after > self._keys.size:
            room = max(after, 2 * before, _CAPACITY) - before
            self._keys = np.concatenate([self._keys[:before], np.empty(room, np.int64)])
            self._rows = np.concatenate([self._rows[:before], np.empty((room, DIM), np.float32)])
            self._accumulators = np.concatenate([self._accumulators[:before], np.empty(room, np.float32)])
        self._keys[before:after] = keys
        self._rows[before:after] = initial_rows(keys)
        self._accumulators[before:after] = INITIAL_ACCUMULATOR
        places = np.searchsorted(self._sorted, keys)
        self._sorted = np.insert(self._sorted, places, keys)
        self._slots = np.insert(self._slots, places, np.arange(before, after))


def empty_table() -> EmbeddingTable:
    return EmbeddingTable(np.empty(0, np.int64), np.empty((0, DIM), np.float32), None)
