# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg"
"""Zeroed arrays under huge pages. Knows no table.

A random read of a large array costs a page walk beside the cache miss; pages of 2 MiB take that away. Linux gives them to
whoever asks (`madvise`), elsewhere the pages stay small and everything still works.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from penstock.pipeline.core.errors import StorageFull

from .machine import claim_at

HUGE_PAGE = 1 << 21
_ADVICE: int | None = getattr(mmap, "MADV_HUGEPAGE", None)


def zeroed(count: int, dtype: type[np.generic]) -> NDArray[Any]:
    """`count` elements, all 0, aligned to a huge page when they fill one; untouched pages take no memory.
    `StorageFull` when the system refuses."""
    size = count * np.dtype(dtype).itemsize
    try:
        if size < HUGE_PAGE:
            return np.zeros(count, dtype)
        mapped = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, MemoryError):
        raise StorageFull(f"no memory for {size >> 20} MiB of rows", hint="hold fewer buckets, or give more memory") from None
    if _ADVICE is not None:
        mapped.madvise(_ADVICE)
    whole = np.frombuffer(mapped, np.uint8)
    skip = -whole.ctypes.data % HUGE_PAGE
    return whole[skip : skip + size].view(dtype)


def claim(array: NDArray[Any]) -> None:
    """Takes the pages of an array of `zeroed`, at any time and from any thread. What is read before it is written, as an index
    is, is else first given one shared page of zeros; and fresh memory is slow where another system has to give it."""
    _claim(array.ctypes.data, array.nbytes)


@njit(nogil=True, cache=True)
def _claim(address, count):
    for at in range(0, count, HUGE_PAGE):
        claim_at(address + at)


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A flat read-only view in C order, copied only if it has to be: kernels then compile once, whoever owns the bytes."""
    flat = np.ascontiguousarray(array).reshape(-1)
    flat.flags.writeable = False
    return flat
