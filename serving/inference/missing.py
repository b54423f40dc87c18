# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg"
"""The keys of a request that are not here, each once, and their rows back to wherever they were asked for. Knows no cluster."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from penstock.pipeline.core.hashing import mix
from penstock.pipeline.core.records import NO_KEYS

from ..memory import frozen
from .members import Keys
from .near_cache import Flags, Rows, readonly

_SMALLEST = 16


class Missing(NamedTuple):
    """int64[n] keys, each once, and int64[m] `places` among them of the keys that are not known, in their order."""

    keys: Keys
    places: NDArray[np.int64]

    @classmethod
    def of(cls, keys: Keys, known: Flags) -> Missing:
        """Of int64[n] keys those that are not `known` (bool[n])."""
        lacking = int(np.count_nonzero(~known))
        if not lacking:
            return cls(NO_KEYS, NO_KEYS)
        table = np.zeros(2 * max(_SMALLEST, 1 << (2 * lacking - 1).bit_length()), np.int64)
        unique, places = np.empty(lacking, np.int64), np.empty(lacking, np.int64)
        count = int(_distinct(frozen(keys), known, table, unique, places))
        return cls(unique[:count], places)

    def spread(self, known: Flags, rows: Rows, found: Flags, out: Rows, there: Flags) -> None:
        """Rows (float32[n, dim]) and `found` (bool[n]) of `keys` to `out` and `there`, where nothing is `known` yet."""
        _spread(self.places, known, readonly(rows), frozen(found), out, there)


@njit(nogil=True, cache=True)
def _distinct(keys, known, table, unique, places):
    count, lacking = 0, 0
    for i in range(keys.size):
        if known[i]:
            continue
        at = 2 * np.int64(mix(keys[i]) & np.uint64(table.size // 2 - 1))
        while table[at + 1] and table[at] != keys[i]:
            at = (at + 2) & (table.size - 1)
        if not table[at + 1]:
            unique[count] = keys[i]
            count += 1
            table[at], table[at + 1] = keys[i], count
        places[lacking] = table[at + 1] - 1
        lacking += 1
    return count


@njit(nogil=True, cache=True)
def _spread(places, known, rows, found, out, there):
    lacking = 0
    for i in range(known.size):
        if not known[i]:
            place = places[lacking]
            lacking += 1
            for j in range(out.shape[1]):
                out[i, j] = rows[place, j]
            there[i], known[i] = found[place], True
