# mypy: disable-error-code="no-untyped-def,no-any-return,no-untyped-call"
"""The loops of the outbox and of the key sets: which touch of a key is its newest, and sets of int64 keys.

numba: compiled once, cached on disk, free of the GIL. They know arrays only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from penstock.pipeline.core.hashing import bucket_of, mix

U64 = np.uint64
EMPTY = np.uint8(0)


@njit(nogil=True, cache=True)
def newest_by_partition(keys, deleted, buckets, partitions, slots):
    """Of int64[n] keys in the order of their touches, the newest touch of each, grouped: those of partition p that are put
    are order[bounds[2p]:bounds[2p + 1]], its deletions order[bounds[2p + 1]:bounds[2p + 2]], each in the order of touches.

    `deleted` bool[n]; `slots` int64[2^k] with 2^k >= 2n is scratch. Returns (order int64[m], bounds int64[2 * partitions + 1]).
    """
    n, mask = keys.size, U64(slots.size - 1)
    slots[:] = -1
    group = np.empty(n, np.int32)
    bounds = np.zeros(2 * partitions + 1, np.int64)
    for i in range(n - 1, -1, -1):
        mixed = mix(keys[i])
        at = mixed & mask
        while slots[at] >= 0 and keys[slots[at]] != keys[i]:
            at = (at + U64(1)) & mask
        if slots[at] >= 0:
            group[i] = -1
            continue
        slots[at] = i
        group[i] = 2 * (bucket_of(mixed, buckets) * partitions // buckets) + deleted[i]
        bounds[group[i] + 1] += 1
    for g in range(2 * partitions):
        bounds[g + 1] += bounds[g]
    order, next_at = np.empty(bounds[-1], np.int64), bounds[:-1].copy()
    for i in range(n):
        if group[i] >= 0:
            order[next_at[group[i]]] = i
            next_at[group[i]] += 1
    return order, bounds


@njit(nogil=True, cache=True)
def add_keys(table, used, keys):
    """Adds int64[n] keys to an open-addressing set (`table` int64[2^k], `used` uint8[2^k]: 0 empty, 1 there, 2 removed), in
    which at least n slots are empty. Returns (how many are new, how many empty slots were taken)."""
    mask, new, taken = U64(table.size - 1), 0, 0
    for i in range(keys.size):
        at, free = mix(keys[i]) & mask, np.int64(-1)
        while used[at] != 0 and not (used[at] == 1 and table[at] == keys[i]):
            if used[at] == 2 and free < 0:
                free = np.int64(at)
            at = (at + U64(1)) & mask
        if used[at] == 1:
            continue
        if free < 0:
            free = np.int64(at)
            taken += 1
        table[free], used[free] = keys[i], 1
        new += 1
    return new, taken


@njit(nogil=True, cache=True)
def remove_keys(table, used, keys):
    """Removes int64[n] keys from such a set; returns how many were there."""
    mask, removed = U64(table.size - 1), 0
    for i in range(keys.size):
        at = mix(keys[i]) & mask
        while used[at] != 0 and not (used[at] == 1 and table[at] == keys[i]):
            at = (at + U64(1)) & mask
        if used[at] == 1:
            used[at] = 2
            removed += 1
    return removed
