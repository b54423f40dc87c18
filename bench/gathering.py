# mypy: disable-error-code="call-arg,no-untyped-def,no-untyped-call,var-annotated"
"""A bare gather of rows whose places are known, prefetched: what the same rows cost without an index."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from penstock.serving.machine import address_of, copy_bytes
from penstock.serving.slab import address_of_slot, prefetch_row
from penstock.serving.table import Table

_AHEAD = 24


@njit(nogil=True, cache=True)
def _gather(directory, shift, stride, width, slots, out):
    to = address_of(out)
    for i in range(slots.size):
        if i + _AHEAD < slots.size:
            prefetch_row(address_of_slot(directory, shift, stride, slots[i + _AHEAD]), width)
        copy_bytes(to + i * width, address_of_slot(directory, shift, stride, slots[i]), width)


def slots_of(table: Table, keys: NDArray[np.int64]) -> NDArray[np.int64]:
    return table._index.find(keys)


def gather(table: Table, slots: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    """`out`: uint8[n * width], the encoded rows."""
    slab = table._slab
    _gather(slab.directory, slab.shift, slab.stride, slab.width, slots, out)
