# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg"
"""Which keys of a table are hot, and what is known of each besides its row. Knows no rows, no log.

Open addressing over mixed keys; int64 pairs (key, place + 1), 0 where nothing is. The set of keys never changes; one thread
writes the marks, any thread reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from penstock.pipeline.core.hashing import mix, prefetch
from penstock.slicer.ordering import distinct

from ..memory import frozen

Keys = NDArray[np.int64]
_AHEAD = 16
_SMALLEST = 16


@njit(inline="always", cache=True)
def _home(pairs, key):
    return 2 * np.int64(mix(key) & np.uint64(pairs.size // 2 - 1))


@njit(nogil=True, cache=True)
def _fill(pairs, keys):
    for i in range(keys.size):
        at = _home(pairs, keys[i])
        while pairs[at + 1]:
            at = (at + 2) & (pairs.size - 1)
        pairs[at], pairs[at + 1] = keys[i], i + 1


@njit(nogil=True, cache=True)
def _find(pairs, keys, places):
    for i in range(-_AHEAD, keys.size):
        if i + _AHEAD < keys.size:
            prefetch(pairs, _home(pairs, keys[i + _AHEAD]))
        if i >= 0:
            at = _home(pairs, keys[i])
            while pairs[at + 1] and pairs[at] != keys[i]:
                at = (at + 2) & (pairs.size - 1)
            places[i] = pairs[at + 1] - 1


@dataclass(slots=True, eq=False)
class Members:
    """`keys`: int64[n], each once. `absent` bool[n]: known to have no row. `written` int64[n]: when the log last wrote it, on the
    clock of the table."""

    keys: Keys
    absent: NDArray[np.bool_] = field(init=False)
    written: NDArray[np.int64] = field(init=False)
    _pairs: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        count = self.keys.size
        self.absent, self.written = np.zeros(count, np.bool_), np.zeros(count, np.int64)
        self._pairs = np.zeros(2 * max(_SMALLEST, 1 << (2 * count - 1).bit_length()), np.int64)
        _fill(self._pairs, frozen(self.keys))

    def places(self, keys: Keys) -> NDArray[np.int64]:
        """int64[n] keys -> int64[n] places among `keys`, -1 for those that are not hot."""
        places = np.empty(keys.size, np.int64)
        _find(self._pairs, frozen(keys), places)
        return places

    def replaced(self, keys: Keys) -> Members:
        """Other keys; what is known of those that stay is kept."""
        found = Members(distinct([keys]))
        places = self.places(found.keys)
        stay = places >= 0
        found.absent[stay], found.written[stay] = self.absent[places[stay]], self.written[places[stay]]
        return found

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.absent.nbytes + self.written.nbytes + self._pairs.nbytes
