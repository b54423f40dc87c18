# mypy: disable-error-code="call-arg,no-untyped-def,no-untyped-call"
"""Keys that are texts: everything below knows 64 bits, which are XXH64 (Collet) of the text's bytes with seed 0, as int64.
Frozen: docs/format.md specifies it. Knows no tables and no files.

A text is bytes; where one is given as characters, their UTF-8. The loops are numba, over the offsets and bytes of an Arrow array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from .errors import InvalidInput
from .hashing import load_word

U64 = np.uint64
_P1, _P2, _P3 = U64(0x9E3779B185EBCA87), U64(0xC2B2AE3D27D4EB4F), U64(0x165667B19E3779F9)
_P4, _P5 = U64(0x85EBCA77C2B2AE63), U64(0x27D4EB2F165667C5)
_FIRST, _LAST = U64(0x60EA27EEADC0B5D6), U64(0x61C8864E7A143579)
"""P1 + P2 and -P1, where the first and the last of the four sums begin."""

Texts: TypeAlias = pa.Array | pa.ChunkedArray | NDArray[np.generic] | Sequence[str | bytes]


def texts_of(texts: Texts) -> pa.LargeBinaryArray:
    """Strings or bytes, in Arrow, numpy or a list, as one array of bytes. `InvalidInput` for anything else, and for nulls."""
    try:
        given = texts if isinstance(texts, pa.Array | pa.ChunkedArray) else pa.array(texts)
        if pa.types.is_null(given.type) and not len(given):
            given = pa.array([], pa.large_binary())
        if not _is_text(given.type):
            raise InvalidInput(f"texts are needed for keys, not {given.type}")
        found = given.cast(pa.large_binary())
    except (pa.ArrowException, TypeError) as error:
        raise InvalidInput(f"not a list of texts: {error}") from None
    if found.null_count:
        raise InvalidInput("a key is null")
    return pa.concat_arrays(found.chunks or [pa.array([], pa.large_binary())]) if isinstance(found, pa.ChunkedArray) else found


def hash_texts(texts: Texts) -> NDArray[np.int64]:
    """int64[n]: the key that each text stands for. Accepts what `texts_of` does."""
    array = texts_of(texts)
    _, offsets, data = array.buffers()
    keys = np.empty(len(array), np.int64)
    if len(array):
        starts = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        _hash(np.frombuffer(data or b"", np.uint8), starts, keys.view(np.uint64))
    return keys


def hash_text(text: str | bytes) -> int:
    """The key that one text stands for."""
    return int(hash_texts([text])[0])


def _is_text(kind: pa.DataType) -> bool:
    tests = (
        pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
        pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary,
    )  # fmt: skip
    return any(test(kind) for test in tests)


@njit(inline="always", cache=True)
def _rotated(word, bits):
    return (word << U64(bits)) | (word >> U64(64 - bits))


@njit(inline="always", cache=True)
def _round(total, word):
    return _rotated(total + word * _P2, 31) * _P1


@njit(inline="always", cache=True)
def _joined(total, part):
    return (total ^ _round(U64(0), part)) * _P1 + _P4


@njit(inline="always", cache=True)
def _xxh64(data, at, length):
    end = at + length
    if length >= 32:
        a, b, c, d = _FIRST, _P2, U64(0), _LAST
        while at + 32 <= end:
            a = _round(a, load_word(data, at))
            b = _round(b, load_word(data, at + 8))
            c = _round(c, load_word(data, at + 16))
            d = _round(d, load_word(data, at + 24))
            at += 32
        total = _rotated(a, 1) + _rotated(b, 7) + _rotated(c, 12) + _rotated(d, 18)
        total = _joined(_joined(_joined(_joined(total, a), b), c), d)
    else:
        total = _P5
    total += U64(length)
    while at + 8 <= end:
        total = _rotated(total ^ _round(U64(0), load_word(data, at)), 27) * _P1 + _P4
        at += 8
    if at + 4 <= end:
        half = U64(data[at]) | (U64(data[at + 1]) << U64(8)) | (U64(data[at + 2]) << U64(16)) | (U64(data[at + 3]) << U64(24))
        total = _rotated(total ^ (half * _P1), 23) * _P2 + _P3
        at += 4
    while at < end:
        total = _rotated(total ^ (U64(data[at]) * _P5), 11) * _P1
        at += 1
    total ^= total >> U64(33)
    total *= _P2
    total ^= total >> U64(29)
    total *= _P3
    return total ^ (total >> U64(32))


@njit(nogil=True, cache=True)
def _hash(data, offsets, keys):
    for i in range(keys.size):
        keys[i] = _xxh64(data, offsets[i], offsets[i + 1] - offsets[i])
