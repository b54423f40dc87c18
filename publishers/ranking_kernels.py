# mypy: disable-error-code="no-untyped-def,no-any-return,no-untyped-call,call-arg"
"""The loops of the ranking: a keyed room of rows that are linked by level and by age, so that a put, a take and a drop cost
the same however many rows wait; and the sketches that tell how far a row has moved.

A sketch is the row's values added up with fixed random signs in `SKETCH` groups: the squared distance of two sketches is, on
average, that of the rows (Alon, Matias, Szegedy: "tug of war"), in a fraction of their bytes.

Slots are numbered from 1 in links and in the index, so that zeroed memory is empty. numba: compiled once, cached on disk, free
of the GIL; arrays only. What a loop needs lies anywhere in memory, so it asks for it some rounds before.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from penstock.pipeline.core.hashing import mix, prefetch

from .sent_rows import CHANGE, CHANGES, MEMORY, NOTHING, SENT, SKETCH, ask_for

U64 = np.uint64
LEVELS = 64
DELETED, RESTORED = LEVELS - 1, LEVELS - 2
"""Deletions are few bytes, and a row that should be gone is wrong altogether; what is sent again was due before."""
_MIDDLE = 32
_BY_AGE = LEVELS
SIZE, USED, FREE = 0, 1, 2
_FAR, _NEAR = 32, 16
"""So many rounds before a slot's turn it is asked for, then what it refers to."""


class Slots(NamedTuple):
    """The rows of one table that wait. `ends` are first and last of each level, then of the list by age; `sizes` has how many
    rows wait, how many slots were ever used, and the first free one."""

    keys: NDArray[np.int64]
    rows: NDArray[np.uint8]
    deleted: NDArray[np.bool_]
    levels: NDArray[np.uint8]
    since: NDArray[np.int64]
    sketches: NDArray[np.float32]
    after: NDArray[np.int32]
    before: NDArray[np.int32]
    ends: NDArray[np.int32]
    level_rows: NDArray[np.int64]
    places: NDArray[np.int32]
    sizes: NDArray[np.int64]


def new_slots(capacity: int, width: int) -> Slots:
    """Nothing waits. Memory is taken by the pages that are used."""

    def zeros(*shape: int, dtype: Any) -> NDArray[Any]:
        return np.zeros(shape, dtype)

    return Slots(
        keys=np.empty(capacity, np.int64), rows=np.empty((capacity, width), np.uint8), deleted=np.empty(capacity, np.bool_),
        levels=np.empty(capacity, np.uint8), since=np.empty(capacity, np.int64),
        sketches=np.empty((capacity, SKETCH), np.float32),
        after=zeros(2, capacity, dtype=np.int32), before=zeros(2, capacity, dtype=np.int32),
        ends=zeros(LEVELS + 1, 2, dtype=np.int32), level_rows=zeros(LEVELS, dtype=np.int64),
        places=zeros(1 << (2 * capacity).bit_length(), dtype=np.int32), sizes=zeros(3, dtype=np.int64),
    )  # fmt: skip


def with_room(slots: Slots, more: int) -> Slots:
    """The same rows, and room for `more`: the same arrays where these have it."""
    capacity, used = len(slots.keys), int(slots.sizes[USED])
    if slots.sizes[SIZE] + more <= capacity:
        return slots
    grown = new_slots(2 * capacity + more, slots.rows.shape[1])
    old: list[NDArray[Any]] = [*slots]
    new: list[NDArray[Any]] = [*grown]
    for before, now in zip(old, new, strict=True):
        if before is slots.places:
            continue
        if before.shape == now.shape:
            now[...] = before
        elif before.shape[0] == capacity:
            now[:used] = before[:used]
        else:
            now[:, :used] = before[:, :used]
    find_places(grown)
    return grown


@njit(cache=True)
def _link_last(slots, which, kind, slot):
    last = slots.ends[which, 1]
    slots.before[kind, slot], slots.after[kind, slot] = last, 0
    if last:
        slots.after[kind, last - 1] = slot + 1
    else:
        slots.ends[which, 0] = slot + 1
    slots.ends[which, 1] = slot + 1


@njit(cache=True)
def _link_first(slots, which, kind, slot):
    first = slots.ends[which, 0]
    slots.before[kind, slot], slots.after[kind, slot] = 0, first
    if first:
        slots.before[kind, first - 1] = slot + 1
    else:
        slots.ends[which, 1] = slot + 1
    slots.ends[which, 0] = slot + 1


@njit(cache=True)
def _unlink(slots, which, kind, slot):
    before, after = slots.before[kind, slot], slots.after[kind, slot]
    if before:
        slots.after[kind, before - 1] = after
    else:
        slots.ends[which, 0] = after
    if after:
        slots.before[kind, after - 1] = before
    else:
        slots.ends[which, 1] = before


@njit(cache=True)
def _place(slots, key):
    """Where in the index `key` is, or would be."""
    mask = U64(slots.places.size - 1)
    at = mix(key) & mask
    while slots.places[at] and slots.keys[slots.places[at] - 1] != key:
        at = (at + U64(1)) & mask
    return at


@njit(cache=True)
def _forget(slots, at):
    """Empties a place of the index, and closes the gap in what was pushed past it."""
    mask = U64(slots.places.size - 1)
    hole, at = at, (at + U64(1)) & mask
    while slots.places[at]:
        home = mix(slots.keys[slots.places[at] - 1]) & mask
        if ((at - home) & mask) >= ((at - hole) & mask):
            slots.places[hole] = slots.places[at]
            hole = at
        at = (at + U64(1)) & mask
    slots.places[hole] = 0


@njit(cache=True)
def _new_slot(slots, at, key):
    if slots.sizes[FREE]:
        slot = slots.sizes[FREE] - 1
        slots.sizes[FREE] = slots.after[0, slot]
    else:
        slot = slots.sizes[USED]
        slots.sizes[USED] += 1
    slots.sizes[SIZE] += 1
    slots.places[at], slots.keys[slot] = slot + 1, key
    return slot


@njit(cache=True)
def _take_out(slots, slot):
    """The slot is free; what it holds stays there until it is used again."""
    level = np.int64(slots.levels[slot])
    _unlink(slots, level, 0, slot)
    _unlink(slots, _BY_AGE, 1, slot)
    mask = U64(slots.places.size - 1)
    at = mix(slots.keys[slot]) & mask
    while slots.places[at] != slot + 1:
        at = (at + U64(1)) & mask
    _forget(slots, at)
    slots.level_rows[level] -= 1
    slots.sizes[SIZE] -= 1
    slots.after[0, slot] = slots.sizes[FREE]
    slots.sizes[FREE] = slot + 1


@njit(cache=True)
def _take_out_all(slots, taken):
    """All these slots, in this order."""
    capacity, mask = slots.keys.size, U64(slots.places.size - 1)
    for i in range(taken.size):
        if i + _FAR < taken.size:
            slot = taken[i + _FAR]
            prefetch(slots.keys, slot)
            for kind in range(2):
                prefetch(slots.before, kind * capacity + slot)
                prefetch(slots.after, kind * capacity + slot)
        if i + _NEAR < taken.size:
            slot = taken[i + _NEAR]
            prefetch(slots.places, np.int64(mix(slots.keys[slot]) & mask))
            before, after = np.int64(slots.before[1, slot]), np.int64(slots.after[1, slot])
            if before:
                prefetch(slots.after, capacity + before - 1)
            if after:
                prefetch(slots.before, capacity + after - 1)
        _take_out(slots, taken[i])


@njit(cache=True)
def _fill(slots, slot, row, values, signs):
    """A row into a slot, and its sketch."""
    slots.deleted[slot] = False
    for j in range(row.size):
        slots.rows[slot, j] = row[j]
    for k in range(SKETCH):
        slots.sketches[slot, k] = 0
    for j in range(values.size):
        slots.sketches[slot, j % SKETCH] += signs[j] * values[j]


@njit(cache=True)
def _level(slots, sent, slot):
    """How much it matters that this row arrives: its change since the last one sent, in units of what changes of this table are
    (root mean square), times how often the key is asked for. A key of which nothing is known is new: all of it is change."""
    key = slots.keys[slot]
    at = mix(key) & U64(sent.keys.size - 1)
    state = sent.states[at] if sent.keys[at] == key else NOTHING
    square = 0.0
    for k in range(SKETCH):
        before = np.float64(sent.sketches[at, k]) if state == SENT else 0.0
        moved = np.float64(slots.sketches[slot, k]) - before
        square += moved * moved
    if not np.isfinite(square):
        return RESTORED
    if state == SENT:
        sent.means[CHANGES] = min(sent.means[CHANGES] + 1, MEMORY)
        sent.means[CHANGE] += (square - sent.means[CHANGE]) / sent.means[CHANGES]
    weight = np.float64(sent.weights[at]) if state != NOTHING and sent.weights[at] > 0 else 1.0
    if square == 0:
        return 0
    relative = square / sent.means[CHANGE] if sent.means[CHANGE] > 0 else 1.0
    level = _MIDDLE + np.rint(np.log2(relative) + 2 * np.log2(weight))
    return int(min(max(level, 0), RESTORED))


@njit(nogil=True, cache=True)
def find_places(slots):
    """Fills an index that is empty, after the slots were moved into larger arrays."""
    slot = np.int64(slots.ends[_BY_AGE, 0]) - 1
    while slot >= 0:
        slots.places[_place(slots, slots.keys[slot])] = slot + 1
        slot = np.int64(slots.after[1, slot]) - 1


@njit(nogil=True, cache=True)
def add_rows(slots, sent, signs, keys, rows, values, now):
    """The touches of int64[n] keys in their order: uint8[m, width] rows with float32[m, dim] values, then n - m deletions. What
    waits of a key is replaced; it keeps its age."""
    mask = U64(slots.places.size - 1)
    for i in range(keys.size):
        if i + _FAR < keys.size:
            prefetch(slots.places, np.int64(mix(keys[i + _FAR]) & mask))
            ask_for(sent, keys[i + _FAR])
        if i + _NEAR < keys.size:
            slot = np.int64(slots.places[mix(keys[i + _NEAR]) & mask]) - 1
            if slot >= 0:
                prefetch(slots.keys, slot)
                prefetch(slots.levels, slot)
                prefetch(slots.before, slot)
                prefetch(slots.after, slot)
        at = _place(slots, keys[i])
        if slots.places[at]:
            slot = np.int64(slots.places[at] - 1)
            _unlink(slots, np.int64(slots.levels[slot]), 0, slot)
            slots.level_rows[slots.levels[slot]] -= 1
        else:
            slot = _new_slot(slots, at, keys[i])
            slots.since[slot] = now
            _link_last(slots, _BY_AGE, 1, slot)
        if i < rows.shape[0]:
            _fill(slots, slot, rows[i], values[i], signs)
            slots.levels[slot] = _level(slots, sent, slot)
        else:
            slots.deleted[slot], slots.levels[slot] = True, DELETED
        _link_last(slots, np.int64(slots.levels[slot]), 0, slot)
        slots.level_rows[slots.levels[slot]] += 1


@njit(nogil=True, cache=True)
def restore_rows(slots, signs, keys, rows, values):
    """What went out and may not have arrived, of keys that nothing newer waits of: older than all that waits."""
    for i in range(keys.size):
        at = _place(slots, keys[i])
        if slots.places[at]:
            continue
        slot = _new_slot(slots, at, keys[i])
        slots.since[slot] = 0
        slots.levels[slot] = RESTORED if i < rows.shape[0] else DELETED
        slots.deleted[slot] = True
        if i < rows.shape[0]:
            _fill(slots, slot, rows[i], values[i], signs)
        _link_first(slots, _BY_AGE, 1, slot)
        _link_last(slots, np.int64(slots.levels[slot]), 0, slot)
        slots.level_rows[slots.levels[slot]] += 1


@njit(nogil=True, cache=True)
def take_oldest(slots, before, limit):
    """Takes out at most `limit` rows that wait since earlier than `before`, oldest first: int64[k] slots."""
    found = np.empty(min(limit, slots.sizes[SIZE]), np.int64)
    count, slot = 0, np.int64(slots.ends[_BY_AGE, 0]) - 1
    while count < found.size and slots.since[slot] < before:
        found[count] = slot
        slot = np.int64(slots.after[1, slot]) - 1
        count += 1
    _take_out_all(slots, found[:count])
    return found[:count]


@njit(nogil=True, cache=True)
def _take_by_level(slots, limit, first, step, end, links):
    """Takes out `limit` rows, level by level from `first` on, in each from that `end` of the list along its links."""
    found = np.empty(min(limit, slots.sizes[SIZE]), np.int64)
    count = 0
    for at in range(LEVELS):
        slot = np.int64(slots.ends[first + step * at, end]) - 1
        while count < found.size and slot >= 0:
            found[count] = slot
            slot = np.int64(links[0, slot]) - 1
            count += 1
    _take_out_all(slots, found)
    return found


def take_highest(slots: Slots, limit: int) -> NDArray[np.int64]:
    """Takes out the `limit` rows of the highest levels, in each the newest first: int64[k] slots."""
    return _take_by_level(slots, limit, LEVELS - 1, -1, 1, slots.before)


def take_lowest(slots: Slots, limit: int) -> NDArray[np.int64]:
    """Takes out the `limit` rows of the lowest levels, in each the oldest touch first: int64[k] slots."""
    return _take_by_level(slots, limit, 0, 1, 0, slots.after)


@njit(nogil=True, cache=True)
def remember(sent, slots, taken):
    """The rows in these slots, just taken out, go to the log."""
    mask = U64(sent.keys.size - 1)
    for i in range(taken.size):
        if i + _FAR < taken.size:
            prefetch(slots.keys, taken[i + _FAR])
            prefetch(slots.sketches, SKETCH * taken[i + _FAR])
        if i + _NEAR < taken.size:
            ask_for(sent, slots.keys[taken[i + _NEAR]])
        slot = taken[i]
        key = slots.keys[slot]
        at = mix(key) & mask
        if sent.states[at] == NOTHING or sent.keys[at] != key:
            sent.keys[at], sent.weights[at] = key, 0
        sent.states[at] = SENT
        for k in range(SKETCH):
            sent.sketches[at, k] = 0 if slots.deleted[slot] else slots.sketches[slot, k]
