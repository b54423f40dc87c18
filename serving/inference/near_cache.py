# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Rows that were asked for lately, in bounded memory: what is not hot, but asked for again. Knows no log, no network.

Sets of `WAYS` keys; of a full set the entry that was read longest ago gives way. An entry goes when it expires, and when the log
writes its key. An answer that was on its way while the log wrote a key must not bring it back, so each set counts what was
dropped from it: who asks takes the count as a ticket, and what comes with another ticket is not kept (the leases of Nishtala et
al., NSDI 2013, a set at a time).
"""

from __future__ import annotations

import threading

import numpy as np
from numba import njit
from numpy.typing import NDArray

from penstock.pipeline.core.hashing import mix
from penstock.pipeline.core.times import WallTime

from ..memory import frozen
from .members import Keys

WAYS = 8
_ENTRY_BYTES = 8 + 8 + 1
Rows = NDArray[np.float32]
Flags = NDArray[np.bool_]


@njit(inline="always", cache=True)
def _set_of(key, sets):
    return np.int64(mix(key) & np.uint64(sets - 1))


@njit(nogil=True, cache=True)
def _get(keys, read_at, there, rows, wanted, oldest, known, found, out):
    sets, hits = keys.shape[0], 0
    for i in range(wanted.size):
        if known[i]:
            continue
        at = _set_of(wanted[i], sets)
        for way in range(keys.shape[1]):
            if keys[at, way] == wanted[i] and read_at[at, way] >= oldest:
                known[i], found[i], hits = True, there[at, way], hits + 1
                out[i] = rows[at, way]
                break
    return hits


@njit(nogil=True, cache=True)
def _put(keys, read_at, there, rows, dropped, fresh, found, new, proven, tickets, now):
    sets, kept = keys.shape[0], 0
    for i in range(fresh.size):
        at = _set_of(fresh[i], sets)
        if not proven[i] or dropped[at] != tickets[i]:
            continue
        to = 0
        for way in range(keys.shape[1]):
            if read_at[at, way] and keys[at, way] == fresh[i]:
                to = way
                break
            if read_at[at, way] < read_at[at, to]:
                to = way
        keys[at, to], read_at[at, to], there[at, to] = fresh[i], now, found[i]
        rows[at, to] = new[i]
        kept += 1
    return kept


@njit(nogil=True, cache=True)
def _drop(keys, read_at, dropped, gone):
    for i in range(gone.size):
        at = _set_of(gone[i], keys.shape[0])
        dropped[at] += 1
        for way in range(keys.shape[1]):
            if keys[at, way] == gone[i]:
                read_at[at, way] = 0


@njit(nogil=True, cache=True)
def _tickets(dropped, wanted, out):
    for i in range(wanted.size):
        out[i] = dropped[_set_of(wanted[i], dropped.size)]


def readonly(rows: Rows) -> Rows:
    """A read-only view in C order, copied only if it has to be: kernels then compile once, whoever owns the bytes."""
    view = np.ascontiguousarray(rows).view()
    view.flags.writeable = False
    return view


class NearCache:
    """Of one table, in at most `nbytes`; with less than one set takes, none. `expiry_us`: how long an entry counts. Any thread
    may call anything; they wait for each other, a lookup's worth."""

    def __init__(self, *, dim: int, nbytes: int, expiry_us: int) -> None:
        self.expiry_us = expiry_us
        fit = nbytes // (WAYS * (_ENTRY_BYTES + 4 * dim) + 8)
        self.sets = 1 << (fit.bit_length() - 1) if fit else 0
        shape = (self.sets, WAYS)
        self._keys, self._read_at, self._there = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
        self._rows = np.zeros((*shape, dim), np.float32)
        self._dropped = np.zeros(self.sets, np.int64)
        self._changing = threading.Lock()

    @property
    def nbytes(self) -> int:
        parts = (self._keys, self._read_at, self._there, self._rows, self._dropped)
        return sum(part.nbytes for part in parts)

    def get(self, keys: Keys, now: WallTime, *, known: Flags, found: Flags, out: Rows) -> int:
        """Fills in what is here of int64[n] keys that are not `known` (bool[n]): `found` bool[n], `out` float32[n, dim]. Returns
        how many."""
        if not self.sets:
            return 0
        with self._changing:
            oldest = max(1, now - self.expiry_us)
            return int(_get(self._keys, self._read_at, self._there, self._rows, frozen(keys), oldest, known, found, out))

    def tickets(self, keys: Keys) -> Keys:
        """int64[n], for `put`: taken before the rows of these keys are asked for."""
        found = np.zeros(keys.size, np.int64)
        if self.sets:
            with self._changing:
                _tickets(self._dropped, frozen(keys), found)
        return found

    def put(self, keys: Keys, found: Flags, rows: Rows, *, proven: Flags, tickets: Keys, now: WallTime) -> int:
        """Keeps what was asked for where it is `proven` (bool[n]), but for what was dropped since. Returns how many."""
        if not self.sets:
            return 0
        with self._changing:
            mine = (self._keys, self._read_at, self._there, self._rows, self._dropped)
            return int(_put(*mine, frozen(keys), frozen(found), readonly(rows), proven, tickets, now))

    def drop(self, keys: Keys) -> None:
        if self.sets and keys.size:
            with self._changing:
                _drop(self._keys, self._read_at, self._dropped, frozen(keys))

    def clear(self) -> None:
        """Drops all."""
        with self._changing:
            self._read_at[:] = 0
            self._dropped += 1
