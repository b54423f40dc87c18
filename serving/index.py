# mypy: disable-error-code="call-arg,no-untyped-def,no-untyped-call,var-annotated,attr-defined"
"""From key to slot: an open-addressing index that readers search while one writer changes it. Knows no rows, no labels.

    entries   int64[HEADER + 2 * capacity]; places are pairs (key, value), probed one after the other, wrapping round
    value     a slot number > 0, or
              EMPTY    0   no key has ever been here (so memory fresh from the system is an empty index)
              DELETED -1   the key had a slot; the place stays its own until the index is rebuilt
              ABSENT  -2   for indexes of before-images: the key had no row
    header    word 0  CAPACITY
              word 8  USED      places that are not EMPTY (on a cache line that readers do not need)
              word 9  DEAD      places that are DELETED

A key's home is its mixed key, halves exchanged, scaled to the capacity: the upper half is the bucket, and some buckets may be
full where others are empty. Places are in the order of homes, so a rebuild reads and writes front to back.
A key is written before its value is published, and never changes; so a reader that sees a value sees its key.
An index that fills up is rebuilt beside itself, a bit with every write, which go to both; then the new one takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from penstock.pipeline.core.hashing import mix, mulhigh, prefetch

from .machine import load_acquire, store_release
from .memory import claim, frozen, zeroed

Words = NDArray[np.int64]
EMPTY, DELETED, ABSENT = 0, -1, -2
HEADER = 16
CAPACITY, _USED, _DEAD = 0, 8, 9
_U64 = np.uint64
_AHEAD = 32
NO_INDEX: Words = np.empty(0, np.int64)
"""Stands for an index that is not there."""

START_LOAD, FULL_LOAD, NEW_LOAD = 0.7, 0.85, 0.47
"""Used places at which a rebuild begins, at which it is ended at once, and live ones that the new index begins with."""
SMALLEST, MOVED_PER_KEY, MOVED_AT_LEAST = 16, 32, 4096


@njit(inline="always", cache=True)
def home(entries, mixed):
    """Where the search for a mixed key begins."""
    exchanged = (mixed << _U64(32)) | (mixed >> _U64(32))
    return HEADER + 2 * np.int64(mulhigh(exchanged, _U64(entries[CAPACITY])))


@njit(inline="always", cache=True)
def value_from(entries, key, start):
    """The value of `key`, whose home is `start`. For readers: each value is loaded once, as a place that is EMPTY now may soon be
    another key's."""
    place = start
    value = load_acquire(entries, place + 1)
    while value != EMPTY and entries[place] != key:
        place += 2
        if place == entries.size:
            place = HEADER
        value = load_acquire(entries, place + 1)
    return value


@njit(inline="always", cache=True)
def value_of(entries, key, mixed):
    """As `value_from`, of a mixed key."""
    return value_from(entries, key, home(entries, mixed))


@njit(inline="always", cache=True)
def place_of(entries, key, start):
    """The place of `key`, or the EMPTY one where it would go, searched from `start` on. For the writer."""
    place = start
    while entries[place + 1] != EMPTY and entries[place] != key:
        place += 2
        if place == entries.size:
            place = HEADER
    return place


@njit(inline="always", cache=True)
def publish(entries, place, key, value):
    """Gives `key` a value at its place; the only store that readers synchronise with."""
    before = entries[place + 1]
    if before == EMPTY:
        entries[place] = key
        entries[_USED] += 1
    if before == DELETED:
        entries[_DEAD] -= 1
    if value == DELETED:
        entries[_DEAD] += 1
    store_release(entries, place + 1, value)


@njit(inline="always", cache=True)
def publish_also(shadow, mixed, key, value):
    """The same in the index that is being built, if there is one; a deleted key that it has not got is left out."""
    if shadow.size:
        place = place_of(shadow, key, home(shadow, mixed))
        before = shadow[place + 1]
        if value != before and (value != DELETED or before != EMPTY):
            publish(shadow, place, key, value)


@njit(nogil=True, cache=True)
def _move(entries, shadow, start, stop):
    for place in range(start, stop, 2):
        value = entries[place + 1]
        if value not in (EMPTY, DELETED):
            key = entries[place]
            to = place_of(shadow, key, home(shadow, mix(key)))
            if shadow[to + 1] == EMPTY:
                publish(shadow, to, key, value)


@njit(nogil=True, cache=True)
def _find(entries, keys, values):
    n = keys.size
    for i in range(-_AHEAD, n):
        ahead = i + _AHEAD
        if ahead < n:
            # Until the value is known, its home stands here.
            values[ahead] = home(entries, mix(keys[ahead]))
            prefetch(entries, values[ahead])
        if i >= 0:
            values[i] = value_from(entries, keys[i], values[i])


@njit(nogil=True, cache=True)
def _scan(entries, first, last, keys, values):
    """Fills in the keys with a slot whose mixed key is in [first, last], and returns how many there are."""
    found = 0
    for place in range(HEADER, entries.size, 2):
        if entries[place + 1] > 0 and first <= mix(entries[place]) <= last:
            keys[found], values[found] = entries[place], entries[place + 1]
            found += 1
    return found


@dataclass(frozen=True, slots=True)
class Span:
    """A contiguous range of buckets, at least one, out of `bucket_count`, as mixed keys."""

    bucket_count: int
    first: int
    stop: int

    @property
    def low(self) -> int:
        """The smallest mixed key."""
        return -(-(self.first << 64) // self.bucket_count)

    @property
    def high(self) -> int:
        """The largest mixed key."""
        return -(-(self.stop << 64) // self.bucket_count) - 1


def _empty(capacity: int) -> Words:
    entries: Words = zeroed(HEADER + 2 * capacity, np.int64)
    entries[CAPACITY] = capacity
    return entries


@dataclass(slots=True)
class Index:
    """`entries` is what readers take, once, for a whole search. Writers call `reserve`, then kernels of `writes`."""

    entries: Words = field(init=False, default_factory=lambda: _empty(SMALLEST))
    shadow: Words = field(init=False, default_factory=lambda: NO_INDEX)
    _moved: int = field(init=False, default=0)

    @property
    def keys(self) -> int:
        """How many have a value other than DELETED."""
        return int(self.entries[_USED] - self.entries[_DEAD])

    @property
    def nbytes(self) -> int:
        return self.entries.nbytes + self.shadow.nbytes

    def reserve(self, more: int) -> None:
        """Room for `more` new keys. A rebuild goes on by as much as pays for them; only where that is too late, to its end."""
        if self.shadow.size:
            self._move(max(MOVED_AT_LEAST, MOVED_PER_KEY * more))
        while not self._fits(more):
            if not self.shadow.size:
                self._begin(more)
            self._move(int(self.entries[CAPACITY]))
        if not self.shadow.size and self.entries[_USED] + more > START_LOAD * self.entries[CAPACITY]:
            self._begin(more)

    def claim(self) -> None:
        """Takes the memory of the index as it is now; from any thread."""
        claim(self.entries)

    def find(self, keys: NDArray[np.int64]) -> Words:
        """int64[n] keys -> int64[n] values, EMPTY and below where there is no slot. From any thread."""
        values = np.empty(keys.size, np.int64)
        _find(self.entries, frozen(keys), values)
        return values

    def scan(self, buckets: Span) -> tuple[NDArray[np.int64], Words]:
        """The keys of these buckets that have a slot, in no order, and their slots. Only while nobody writes."""
        keys, values = np.empty(self.keys, np.int64), np.empty(self.keys, np.int64)
        count = _scan(self.entries, np.uint64(buckets.low), np.uint64(buckets.high), keys, values)
        return keys[:count].copy(), values[:count].copy()

    def contents(self) -> tuple[NDArray[np.int64], Words]:
        """All keys and their values, DELETED ones as well, in no order. Only while nobody writes."""
        keys, values = self.entries[HEADER::2], self.entries[HEADER + 1 :: 2]
        used = values != EMPTY
        return keys[used], values[used]

    def _fits(self, more: int) -> bool:
        if self.entries[_USED] + more > FULL_LOAD * self.entries[CAPACITY]:
            return False
        if not self.shadow.size:
            return True
        # In the end the shadow has all that is live here, and what has been deleted from it meanwhile.
        return self.keys + int(self.shadow[_DEAD]) + more <= FULL_LOAD * int(self.shadow[CAPACITY])

    def _begin(self, more: int) -> None:
        self.shadow = _empty(max(SMALLEST, int((self.keys + more) / NEW_LOAD)))
        self._moved = HEADER

    def _move(self, places: int) -> None:
        stop = min(self._moved + 2 * places, self.entries.size)
        if self.keys:
            # Places are in the same order there: this is where most of them go.
            claim(self.shadow[self._moved * self.shadow.size // self.entries.size : stop * self.shadow.size // self.entries.size])
        _move(self.entries, self.shadow, self._moved, stop)
        self._moved = stop
        if stop == self.entries.size:
            self.entries, self.shadow = self.shadow, NO_INDEX
