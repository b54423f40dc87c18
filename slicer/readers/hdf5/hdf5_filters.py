"""The filters that a chunk of an HDF5 dataset went through, undone in memory that is known beforehand. Knows no dataset.

deflate      zlib (RFC 1950)            lzf          LibLZF, as h5py registers it
shuffle      byte i of every element, then byte i + 1, …; bytes that make no whole element follow as they are
fletcher32   the checksum of what is before it, in 4 bytes at the end; verified
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt

Bytes = NDArray[np.uint8]
DEFLATE, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000
_CHECKSUM_BYTES = 4


def unfiltered(data: Bytes, filters: Sequence[int], *, skipped: int, width: int, nbytes: int, what: str) -> Bytes:
    """The `nbytes` of a chunk of elements of `width` bytes. `filters` are in the order of writing; bit i of `skipped` says that
    filter i was left out. `Corrupt` when they do not come to that."""
    applied = [each for index, each in enumerate(filters) if not skipped >> index & 1]
    while applied:
        each = applied.pop()
        limit = nbytes + _CHECKSUM_BYTES * applied.count(FLETCHER32)
        if each == DEFLATE:
            data = _inflated(data, limit, what)
        elif each == LZF:
            data = _unlzf(data, limit, what)
        elif each == SHUFFLE:
            data = _unshuffled(data, width)
        else:
            data = _verified(data, what)
    if len(data) != nbytes:
        raise Corrupt(f"{what}: a chunk has {len(data)} bytes, {nbytes} belong there")
    return data


def _inflated(data: Bytes, limit: int, what: str) -> Bytes:
    inflator = zlib.decompressobj()
    try:
        found = inflator.decompress(data.data, limit + 1)
        if len(found) <= limit and not inflator.eof:
            # The checksum may be left when all bytes are there; nothing may come out with it.
            found += inflator.decompress(inflator.unconsumed_tail, 1)
    except zlib.error as error:
        raise Corrupt(f"{what}: a chunk does not inflate: {error}") from None
    if len(found) > limit or not inflator.eof:
        raise Corrupt(f"{what}: a chunk inflates to more than {limit} bytes, or does not end")
    return np.frombuffer(found, np.uint8)


def _unlzf(data: Bytes, limit: int, what: str) -> Bytes:
    found = np.empty(limit, np.uint8)
    taken = _unlzf_into(data, found)
    if taken < 0:
        raise Corrupt(f"{what}: a chunk is no lzf, or holds more than {limit} bytes")
    return found[:taken]


@njit(nogil=True, cache=True)
def _unlzf_into(data, out):  # type: ignore[no-untyped-def]
    """How many bytes came out; -1 when the input is broken or `out` too small."""
    at, to = 0, 0
    while at < len(data):
        control = int(data[at])
        at += 1
        if control < 32:
            length = control + 1
            if at + length > len(data) or to + length > len(out):
                return -1
            out[to : to + length] = data[at : at + length]
            at += length
        else:
            length = control >> 5
            if length == 7:
                if at >= len(data):
                    return -1
                length += int(data[at])
                at += 1
            if at >= len(data):
                return -1
            begin = to - ((control & 0x1F) << 8) - int(data[at]) - 1
            at += 1
            length += 2
            if begin < 0 or to + length > len(out):
                return -1
            for index in range(length):
                out[to + index] = out[begin + index]
        to += length
    return to


def _unshuffled(data: Bytes, width: int) -> Bytes:
    count = len(data) // width
    found = np.empty_like(data)
    elements = found[: count * width].reshape(count, width)
    for index in range(width):
        elements[:, index] = data[index * count : (index + 1) * count]
    found[count * width :] = data[count * width :]
    return found


def _verified(data: Bytes, what: str) -> Bytes:
    if len(data) < _CHECKSUM_BYTES:
        raise Corrupt(f"{what}: a chunk of {len(data)} bytes has no checksum")
    body, end = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    stored, computed = struct.unpack("<I", end.tobytes())[0], _fletcher32(body)
    # Before 1.6.3 the library wrote it with the bytes of each half swapped on little-endian machines.
    swapped = (computed & 0x00FF00FF) << 8 | (computed >> 8) & 0x00FF00FF
    if stored not in {computed, swapped}:
        raise Corrupt(f"{what}: a chunk differs from its checksum")
    return body


def _fletcher32(data: Bytes) -> int:
    low, high = _fletcher_sums(data)
    return int(high) << 16 | int(low)


@njit(nogil=True, cache=True)
def _fletcher_sums(data):  # type: ignore[no-untyped-def]
    """Sums of big-endian 16-bit words in one's complement: 65535 stands for 0 unless all words are."""
    low, high = np.uint64(0), np.uint64(0)
    for index in range(0, len(data) - 1, 2):
        low += np.uint64(data[index]) << np.uint64(8) | np.uint64(data[index + 1])
        high += low
        if index % 512 == 510:
            low = (low & np.uint64(0xFFFF)) + (low >> np.uint64(16))
            high = (high & np.uint64(0xFFFF)) + (high >> np.uint64(16))
    if len(data) % 2:
        low += np.uint64(data[-1]) << np.uint64(8)
        high += low
    for _ in range(4):
        low = (low & np.uint64(0xFFFF)) + (low >> np.uint64(16))
        high = (high & np.uint64(0xFFFF)) + (high >> np.uint64(16))
    return low, high
