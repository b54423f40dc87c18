"""Which keys were touched since the last checkpoint, and of which among them the log does not hold the row. Bounded: a table
whose list would grow beyond the bound counts as touched as a whole. It is widened so, never cut; and knows nothing of rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .folding_kernels import add_keys, remove_keys

_SMALLEST = 1024


class KeySet:
    """A set of int64 keys, for millions of them. Not for several threads at once."""

    __slots__ = ("_filled", "_table", "_used", "size")

    def __init__(self) -> None:
        self.size, self._filled = 0, 0
        self._table, self._used = np.empty(_SMALLEST, np.int64), np.zeros(_SMALLEST, np.uint8)

    def __len__(self) -> int:
        return self.size

    def add(self, keys: NDArray[np.int64]) -> None:
        keys = np.ascontiguousarray(keys, np.int64)
        if 3 * (self._filled + len(keys)) > 2 * len(self._table):
            self._grow(len(keys))
        new, taken = add_keys(self._table, self._used, keys)
        self.size += new
        self._filled += taken

    def discard(self, keys: NDArray[np.int64]) -> None:
        if self.size:
            self.size -= remove_keys(self._table, self._used, np.ascontiguousarray(keys, np.int64))

    def array(self) -> NDArray[np.int64]:
        """int64[size], in no order."""
        found: NDArray[np.int64] = self._table[self._used == 1]
        return found

    def _grow(self, more: int) -> None:
        keys = self.array()
        slots = max(_SMALLEST, 1 << (2 * (len(keys) + more)).bit_length())
        self._table, self._used = np.empty(slots, np.int64), np.zeros(slots, np.uint8)
        self.size, self._filled = add_keys(self._table, self._used, keys)


@dataclass(slots=True)
class TouchedKeys:
    """`limit` bounds the keys of all tables together. `owes_dense`: the dense slice counts as touched, and the log does not hold
    it."""

    limit: int
    whole: set[str] = field(default_factory=set)
    owes_dense: bool = False
    _touched: dict[str, KeySet] = field(default_factory=dict)
    _unsent: dict[str, KeySet] = field(default_factory=dict)

    def __len__(self) -> int:
        """Keys held; those of whole tables are not."""
        return sum(map(len, self._touched.values()))

    @property
    def tables(self) -> set[str]:
        return self.whole | {table for table, keys in self._touched.items() if len(keys)}

    @property
    def unsent(self) -> int:
        """Touched keys whose row the log does not hold; those of whole tables are not counted."""
        return sum(map(len, self._unsent.values()))

    def sent(self, table: str, keys: NDArray[np.int64]) -> None:
        """Touched, and its row goes into the log."""
        self._touch(table, keys)
        if table in self._unsent:
            self._unsent[table].discard(keys)

    def kept_back(self, table: str, keys: NDArray[np.int64]) -> None:
        """Touched, and its row does not go into the log."""
        if self._touch(table, keys):
            self._unsent.setdefault(table, KeySet()).add(keys)

    def widen(self, table: str) -> None:
        """All of the table counts as touched from now on."""
        self.whole.add(table)
        self._touched.pop(table, None)
        self._unsent.pop(table, None)

    def merge(self, other: TouchedKeys) -> None:
        """Takes back what an earlier checkpoint, that does not count after all, had taken away. What was sent since is sent."""
        self.owes_dense |= other.owes_dense
        for table in other.whole:
            self.widen(table)
        for table in other.tables - other.whole:
            unsent = other.unsent_keys(table)
            if table in self._touched and len(unsent):
                resent = np.setdiff1d(self._touched[table].array(), self.unsent_keys(table), assume_unique=True)
                unsent = np.setdiff1d(unsent, resent, assume_unique=True)
            if self._touch(table, other.keys(table)) and len(unsent):
                self._unsent.setdefault(table, KeySet()).add(unsent)

    def keys(self, table: str) -> NDArray[np.int64]:
        """The touched keys of a table that is not whole, in no order."""
        return self._touched[table].array() if table in self._touched else np.empty(0, np.int64)

    def unsent_keys(self, table: str) -> NDArray[np.int64]:
        return self._unsent[table].array() if table in self._unsent else np.empty(0, np.int64)

    def _touch(self, table: str, keys: NDArray[np.int64]) -> bool:
        """Whether the keys are held one by one."""
        if table not in self.whole:
            self._touched.setdefault(table, KeySet()).add(keys)
            while len(self) > self.limit:
                self.widen(max(self._touched, key=lambda name: len(self._touched[name])))
        return table not in self.whole


def touched_from(parts: Iterable[tuple[str, NDArray[np.int64]]], *, whole: Iterable[str], limit: int) -> TouchedKeys:
    """What a resume begins with: all of it kept back, until it is put again."""
    found = TouchedKeys(limit)
    for table in whole:
        found.widen(table)
    for table, keys in parts:
        found.kept_back(table, keys)
    return found
