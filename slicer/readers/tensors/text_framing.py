"""Texts as `TextSource.blocks` gives them: each is its length (uint64, little-endian) and its bytes. Knows no format."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numba import njit

from ..checkpoint import Array

HEAD_BYTES = 8


def framed(texts: pa.LargeBinaryArray) -> Array:
    """uint8[n]: every text behind its length."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    found = np.empty(int(ends[-1] - ends[0]) + HEAD_BYTES * len(texts), np.uint8)
    _frame(ends, np.frombuffer(data or b"", np.uint8), found)
    return found


@njit(nogil=True, cache=True)
def _frame(ends, data, out):  # type: ignore[no-untyped-def]
    at = 0
    for i in range(len(ends) - 1):
        length = ends[i + 1] - ends[i]
        for byte in range(8):
            out[at + byte] = (length >> (8 * byte)) & 0xFF
        at += 8
        out[at : at + length] = data[ends[i] : ends[i + 1]]
        at += length
