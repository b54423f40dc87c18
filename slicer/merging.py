# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Merges sorted lists of keys, the newer list first. Knows keys and references to where they came from, not rows.

A reference is a number of the list's run and a position in it, in one word.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from penstock.pipeline.core.hashing import bucket_of, mix

POSITION_BITS = 40
_POSITION = np.int64((1 << POSITION_BITS) - 1)


class Listed(NamedTuple):
    """Keys (int64[n]) in the order of a run, and a reference to each (int64[n])."""

    keys: NDArray[np.int64]
    references: NDArray[np.int64]

    @classmethod
    def of(cls, keys: NDArray[np.int64], run: int, low: int) -> Listed:
        """The keys of run number `run` from position `low`."""
        start = (run << POSITION_BITS) + low
        return cls(keys, np.arange(start, start + len(keys)))

    @property
    def runs(self) -> NDArray[np.int64]:
        return self.references >> POSITION_BITS

    @property
    def positions(self) -> NDArray[np.int64]:
        return self.references & _POSITION


def merged(lists: list[Listed], buckets: int) -> Listed:
    """One list of all keys, each once: of a key in several lists, that of the first list."""
    while len(lists) > 1:
        pairs = [_merged(lists[i], lists[i + 1], buckets) for i in range(0, len(lists) - 1, 2)]
        lists = pairs + lists[len(pairs) * 2 :]
    return lists[0]


def _merged(newer: Listed, older: Listed, buckets: int) -> Listed:
    most = len(newer.keys) + len(older.keys)
    keys, references = np.empty(most, np.int64), np.empty(most, np.int64)
    count = _merge(newer.keys, newer.references, older.keys, older.references, buckets, keys, references)
    return Listed(keys[:count], references[:count])


@njit(nogil=True, cache=True)
def _merge(newer, newer_references, older, older_references, buckets, keys, references):
    i, j, count = 0, 0, 0
    a = bucket_of(mix(newer[0]), buckets) if newer.size else np.int64(0)
    b = bucket_of(mix(older[0]), buckets) if older.size else np.int64(0)
    while i < newer.size and j < older.size:
        x, y = newer[i], older[j]
        if a < b or (a == b and x <= y):
            keys[count] = x
            references[count] = newer_references[i]
            i += 1
            if i < newer.size:
                a = bucket_of(mix(newer[i]), buckets)
            if x == y:
                j += 1
                if j < older.size:
                    b = bucket_of(mix(older[j]), buckets)
        else:
            keys[count] = y
            references[count] = older_references[j]
            j += 1
            if j < older.size:
                b = bucket_of(mix(older[j]), buckets)
        count += 1
    while i < newer.size:
        keys[count] = newer[i]
        references[count] = newer_references[i]
        i += 1
        count += 1
    while j < older.size:
        keys[count] = older[j]
        references[count] = older_references[j]
        j += 1
        count += 1
    return count
