# mypy: disable-error-code="no-untyped-def"
"""Keys by the part of the buckets that they lie in, and rows back into the order of the keys. Knows no replica."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from penstock.pipeline.core.hashing import bucket_of, mix

from .memory import frozen

Places = NDArray[np.int64]
"""int64[n]: where each of n rows belongs."""


class Share(NamedTuple):
    """Keys (int64[n]) of one part, and their places among those that were split, ascending."""

    keys: NDArray[np.int64]
    places: Places


def split(keys: NDArray[np.int64], places: Places | None, edges: Sequence[int], bucket_count: int) -> list[Share]:
    """A share for each of the ranges of buckets [edges[i], edges[i+1]), which cover all; of the keys at `places`, or all."""
    part_of = np.repeat(np.arange(len(edges) - 1, dtype=np.int32), np.diff(edges))
    keys, chosen = frozen(keys), frozen(np.arange(keys.size) if places is None else places)
    counts = np.zeros(len(edges) - 1, np.int64)
    parts = np.empty(chosen.size, np.int32)
    _assign(keys, chosen, bucket_count, part_of, parts, counts)
    starts = np.zeros(len(edges), np.int64)
    np.cumsum(counts, out=starts[1:])
    found, at = np.empty(chosen.size, np.int64), np.empty(chosen.size, np.int64)
    _arrange(keys, chosen, parts, starts[:-1].copy(), found, at)
    return [Share(found[low:high], at[low:high]) for low, high in pairwise(starts.tolist())]


def put_rows(
    rows: NDArray[np.float32],
    found: NDArray[np.bool_],
    places: Places,
    all_rows: NDArray[np.float32],
    all_found: NDArray[np.bool_],
) -> None:
    """Writes `rows` (float32[n, dim]) and `found` (bool[n]) at their places of the whole."""
    _put_rows(frozen(rows), frozen(found), frozen(places), all_rows, all_found)


def warm() -> None:
    """Compiles, or loads what was compiled, before it is needed in a hurry."""
    (share,) = split(np.zeros(1, np.int64), None, [0, 1], 1)
    rows, found = np.zeros((1, 1), np.float32), np.zeros(1, np.bool_)
    put_rows(rows, found, share.places, rows.copy(), found.copy())


@njit(nogil=True, cache=True)
def _assign(keys, chosen, bucket_count, part_of, parts, counts):
    for i in range(chosen.size):
        part = part_of[bucket_of(mix(keys[chosen[i]]), bucket_count)]
        parts[i] = part
        counts[part] += 1


@njit(nogil=True, cache=True)
def _arrange(keys, chosen, parts, free, found, at):
    for i in range(chosen.size):
        place = free[parts[i]]
        free[parts[i]] = place + 1
        found[place] = keys[chosen[i]]
        at[place] = chosen[i]


@njit(nogil=True, cache=True)
def _put_rows(rows, found, places, all_rows, all_found):
    dim = all_rows.shape[1]
    for i in range(places.size):
        place = places[i]
        all_found[place] = found[i]
        for j in range(dim):
            all_rows[place, j] = rows[i * dim + j]
