"""Rows of bags: the sum or the mean of the rows of their keys, in the order of the keys. Knows no table."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .bags import Bags


def pooled(rows: NDArray[np.float32], bags: Bags, out: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32[n, dim] rows of n keys -> `out`, float32[bags, dim], filled; zeros for an empty bag. `bags` were checked."""
    _sum(rows, bags.offsets, out)
    averaged(rows.shape[0], bags, out)
    return out


def averaged(keys: int, bags: Bags, out: NDArray[np.float32]) -> None:
    """Sums in `out` (float32[bags, dim]) become what the bags of so many keys ask for."""
    if bags.pooling == "mean":
        sizes = np.diff(bags.offsets, append=keys)
        out /= np.maximum(sizes, 1).astype(np.float32)[:, None]


@njit(nogil=True, cache=True)
def _sum(rows: NDArray[np.float32], offsets: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    count, dim = rows.shape
    for bag in range(offsets.size):
        end = offsets[bag + 1] if bag + 1 < offsets.size else count
        for column in range(dim):
            out[bag, column] = 0
        for row in range(offsets[bag], end):
            for column in range(dim):
                out[bag, column] += rows[row, column]
