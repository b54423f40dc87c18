# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""The order of a run: by bucket, then by key. Sorts keys into it and finds keys in it. Knows keys, not rows.

A counting sort brings keys into buckets; within a bucket they mostly are in order already, as row numbers are. A search
goes through two sorted lists at once in growing steps, so its cost follows the shorter one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Refused
from penstock.pipeline.core.hashing import bucket_of, mix

MAX_KEYS = 2**31 - 1
"""Of one run; the order of more is not counted in 32 bits."""
OPEN = -1
"""Of a key that was not found yet."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """Keys in the order of a run: `keys` (int64[n]), where each of them was before (`order`, int32[n]), and where each bucket
    starts (`offsets`, int64[buckets + 1])."""

    keys: NDArray[np.int64]
    order: NDArray[np.int32]
    offsets: NDArray[np.int64]


def distinct(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """int64[n]: the keys of all parts, rising, each once. `np.unique` counts them in a hash table, many times slower."""
    keys = np.sort(np.concatenate([np.empty(0, np.int64), *parts]))
    return keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys


def ordered(keys: NDArray[np.int64], buckets: int, *, name: str) -> Ordered:
    """`Refused` when a key is there twice; `name` says of what, for the error."""
    if len(keys) > MAX_KEYS:
        raise Refused(f"{name}: {len(keys)} keys at once, at most {MAX_KEYS}")
    found, rising = _by_bucket(np.ascontiguousarray(keys), buckets)
    if rising:
        return found
    by_key = np.argsort(keys, kind="stable").astype(np.int32)
    found, rising = _by_bucket(keys[by_key], buckets)
    if not rising:
        raise Refused(f"{name}: key {found.keys[disordered(found.keys, found.offsets)]} is there twice")
    return Ordered(found.keys, by_key[found.order], found.offsets)


def locate(
    keys: NDArray[np.int64], offsets: NDArray[np.int64], asked: Ordered,
    which: NDArray[np.int32], positions: NDArray[np.int64], number: int,
) -> int:  # fmt: skip
    """Looks for those of the `asked` keys whose `which` (int32[n]) is still `OPEN` in a run, or in a stretch of whole buckets of
    one, whose buckets start at `offsets`: `keys[0]` stands at position `offsets[0]`. Where one is found `which` becomes `number`,
    and `positions` (int64[n]) its position. How many were found."""
    return int(_locate(keys, offsets, asked.keys, asked.offsets, which, positions, number))


def disordered(keys: NDArray[np.int64], offsets: NDArray[np.int64]) -> int:
    """The first position that breaks the order of a run or stands in the wrong bucket; -1 if none does."""
    return int(_disordered(keys, offsets))


def _by_bucket(keys: NDArray[np.int64], buckets: int) -> tuple[Ordered, bool]:
    """Sorted by bucket, and whether each bucket's keys rise, too."""
    found = Ordered(np.empty(len(keys), np.int64), np.empty(len(keys), np.int32), np.zeros(buckets + 1, np.int64))
    return found, bool(_order(keys, found.order, found.keys, found.offsets))


@njit(nogil=True, cache=True)
def _order(keys, order, sorted_keys, offsets):
    buckets, n, rising = offsets.size - 1, keys.size, True
    home = np.empty(n, np.uint16)
    for i in range(n):
        bucket = bucket_of(mix(keys[i]), buckets)
        home[i] = bucket
        offsets[bucket + 1] += 1
    for bucket in range(buckets):
        offsets[bucket + 1] += offsets[bucket]
    free = offsets[:-1].copy()
    for i in range(n):
        at = free[home[i]]
        free[home[i]] = at + 1
        order[at] = i
        sorted_keys[at] = keys[i]
        rising &= at == offsets[home[i]] or sorted_keys[at - 1] < keys[i]
    return rising


@njit(nogil=True, cache=True)
def _locate(keys, offsets, asked, asked_offsets, which, positions, number):
    shift, hits = offsets[0], 0
    for bucket in range(offsets.size - 1):
        at, end = offsets[bucket] - shift, offsets[bucket + 1] - shift
        if at == end:
            continue
        for i in range(asked_offsets[bucket], asked_offsets[bucket + 1]):
            if which[i] != OPEN:
                continue
            key = asked[i]
            # The first position at or beyond `at` whose key is not smaller: steps of 1, 2, 4, ..., then halves of the last.
            if at < end and keys[at] < key:
                step = np.int64(1)
                while at + step < end and keys[at + step] < key:
                    at += step
                    step += step
                high = min(at + step, end)
                while high - at > 1:
                    middle = (at + high) >> 1
                    if keys[middle] < key:
                        at = middle
                    else:
                        high = middle
                at = high
            if at < end and keys[at] == key:
                which[i] = number
                positions[i] = at + shift
                hits += 1
    return hits


@njit(nogil=True, cache=True)
def _disordered(keys, offsets):
    buckets = offsets.size - 1
    for bucket in range(buckets):
        for i in range(offsets[bucket], offsets[bucket + 1]):
            key = keys[i - offsets[0]]
            if bucket_of(mix(key), buckets) != bucket or (i > offsets[bucket] and keys[i - offsets[0] - 1] >= key):
                return i
    return -1
