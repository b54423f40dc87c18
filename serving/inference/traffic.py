# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""How often keys are asked for, and which of them are worth keeping in process. Counts come from requests, and from the training
side.

Counting is bounded: a new key in a full place takes over the smallest count there and adds to it (Space-Saving of Metwally et
al., 2005, a few places at a time), so what is asked for often is never lost, and what is counted too high soon gives way. Old
traffic fades: counts are halved whenever the hot keys are chosen.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from penstock.pipeline.core.errors import InvalidInput
from penstock.pipeline.core.hashing import mix
from penstock.pipeline.core.records import NO_KEYS

from .members import Keys

PLACES = 8
STICKINESS = 1.25
"""A key that is hot stays so until another one is asked for so much more often."""


@njit(nogil=True, cache=True)
def _add(keys, counts, seen, weights):
    for i in range(seen.size):
        at = np.int64(mix(seen[i]) & np.uint64(keys.shape[0] - 1))
        to = 0
        for place in range(keys.shape[1]):
            if counts[at, place] > 0 and keys[at, place] == seen[i]:
                to = place
                break
            if counts[at, place] < counts[at, to]:
                to = place
        keys[at, to] = seen[i]
        counts[at, to] += weights[i]


class Counted(NamedTuple):
    """int64[n] keys, each once, and float[n] how often they were asked for, relative to each other."""

    keys: Keys
    counts: NDArray[np.floating]


class Counts:
    """Of one table: at most about `most` keys. From any thread; what comes while another thread counts is not counted."""

    def __init__(self, most: int) -> None:
        sets = 1 << max(0, (most // PLACES).bit_length() - 1)
        self._keys, self._counts = np.zeros((sets, PLACES), np.int64), np.zeros((sets, PLACES), np.float32)
        self._changing = threading.Lock()

    def add(self, keys: Keys) -> None:
        """Each of int64[n] keys was asked for once."""
        if keys.size and self._changing.acquire(blocking=False):
            try:
                _add(self._keys, self._counts, keys, np.ones(keys.size, np.float32))
            finally:
                self._changing.release()

    def add_counted(self, counted: Counted) -> None:
        with self._changing:
            _add(self._keys, self._counts, counted.keys, counted.counts.astype(np.float32))

    def fade(self) -> Counted:
        """What was counted; from now on it counts half."""
        with self._changing:
            there = self._counts > 0
            found = Counted(self._keys[there], self._counts[there])
            self._counts *= np.float32(0.5)
            self._counts[self._counts < 0.5] = 0
        return found

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self._counts.nbytes


def hottest(
    counted: Mapping[str, Counted], row_bytes: Mapping[str, int], budget: int, now: Mapping[str, Keys]
) -> dict[str, Keys]:
    """The keys of each table that answer most for `budget` bytes, where a row takes `row_bytes`. `now`: those that are hot."""
    if not counted:
        return {}
    names = list(counted)
    scores, sizes, owners = [], [], []
    for place, name in enumerate(names):
        keys, counts = counted[name]
        if keys.shape != counts.shape or not np.isfinite(counts).all() or (counts < 0).any():
            raise InvalidInput(f"table {name}: {keys.shape} keys, {counts.shape} counts: need one count, 0 or more, a key")
        stays = np.isin(keys, now.get(name, NO_KEYS))
        scores.append(counts * np.where(stays, STICKINESS, 1.0) / row_bytes[name])
        sizes.append(np.full(keys.size, row_bytes[name], np.int64))
        owners.append(np.full(keys.size, place))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    chosen = np.zeros(order.size, np.bool_)
    chosen[order] = np.cumsum(np.concatenate(sizes)[order]) <= budget
    owner = np.concatenate(owners)
    return {name: counted[name].keys[chosen[owner == place]] for place, name in enumerate(names)}
