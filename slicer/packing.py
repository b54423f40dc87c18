# mypy: disable-error-code="call-arg,no-untyped-def,no-untyped-call"
"""Loops over rows at memory speed: gathering, checking and hashing them. Knows bytes and buckets, no files.

Rows are taken `GROUP` at a time through every step, so that only the first one reads memory. What is gathered from is
asked for ahead of its use: on rows in hash order that is worth more than everything else here (see bench/slicing.py).
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from penstock.pipeline.core.hashing import bucket_of, load_word, mix, prefetch, put_hash

U64 = np.uint64
GROUP = 64
AHEAD = 24
USUAL = 128
"""Bytes of the usual row, 32 floats: a length known when compiling becomes a few vector moves, not a loop or a call."""
LINE = 64
_MOST_LINES = 8
_EXPONENTS, _ONE_UP, _SIGNS = U64(0x7F8000007F800000), U64(0x0080000000800000), U64(0x8000000080000000)


@intrinsic
def copy_bytes(typingctx, target, at, source, start, length):
    """`length` bytes of the uint8 array `source` from `start` to those of `target` from `at`; they must not overlap."""

    def codegen(context, builder, signature, args):
        from numba.np.arrayobj import make_array

        byte = ir.IntType(8).as_pointer()
        ends = [make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 2)]
        pointers = [builder.bitcast(builder.gep(data, [args[i]]), byte) for data, i in zip(ends, (1, 3), strict=True)]
        kind = ir.FunctionType(ir.VoidType(), [byte, byte, ir.IntType(64), ir.IntType(1)])
        memcpy = builder.module.declare_intrinsic("llvm.memcpy", [byte, byte, ir.IntType(64)], kind)
        builder.call(memcpy, [*pointers, args[4], ir.IntType(1)(0)])
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp, types.int64), codegen


@njit(inline="always", cache=True)
def prefetch_row(source, at, width):
    for line in range(0, min(width, _MOST_LINES * LINE), LINE):
        prefetch(source, at + line)


@njit(inline="always", cache=True)
def copy_row(target, at, source, start, width):
    if width == USUAL:
        copy_bytes(target, at, source, start, USUAL)
    else:
        copy_bytes(target, at, source, start, width)


@njit(inline="always", cache=True)
def infinite(data, at, width):
    """Whether one of the float32 in these bytes has all exponent bits set: is a NaN or an infinity."""
    found = U64(0)
    for word in range(width >> 3):
        found |= (load_word(data, at + (word << 3)) & _EXPONENTS) + _ONE_UP
    if width & 7:
        last = at + width - 4
        found |= U64(data[last + 3] & 0x7F == 0x7F and data[last + 2] >= 0x80) << U64(31)
    return found & _SIGNS != U64(0)


@njit(inline="always", cache=True)
def unequal(one, at, other, start, width):
    """Whether `width` bytes of two uint8 arrays differ."""
    found = U64(0)
    for word in range(width >> 3):
        found |= load_word(one, at + (word << 3)) ^ load_word(other, start + (word << 3))
    for i in range(width & ~7, width):
        found |= U64(one[at + i] ^ other[start + i])
    return found != U64(0)


@njit(nogil=True, cache=True)
def _gather(source, order, width, target):
    n = order.size
    for i in range(n):
        prefetch_row(source, order[min(i + AHEAD, n - 1)] * np.int64(width), width)
        copy_row(target, i * width, source, order[i] * np.int64(width), width)


@njit(inline="always", cache=True)
def _checked(source, order, width, target):
    n = order.size
    for low in range(0, n, GROUP):
        high = min(low + GROUP, n)
        bad = False
        for i in range(low, high):
            prefetch_row(source, order[min(i + AHEAD, n - 1)] * np.int64(width), width)
            copy_bytes(target, i * width, source, order[i] * np.int64(width), width)
        for i in range(low, high):
            bad |= infinite(target, i * width, width)
        if bad:
            for i in range(low, high):
                if infinite(target, i * width, width):
                    return i
    return -1


@njit(nogil=True, cache=True)
def _gather_finite(source, order, width, target):
    if width == USUAL:
        return _checked(source, order, USUAL, target)
    return _checked(source, order, width, target)


@njit(nogil=True, cache=True)
def _scatter(source, positions, places, width, target):
    for i in range(places.size):
        copy_row(target, places[i] * width, source, positions[i] * width, width)


@njit(nogil=True, cache=True)
def _add_puts(keys, data, width, digests):
    if width == USUAL:
        for i in range(keys.size):
            mixed = mix(keys[i])
            digests[bucket_of(mixed, digests.size)] += put_hash(mixed, data, i * USUAL, USUAL)
        return
    for i in range(keys.size):
        mixed = mix(keys[i])
        digests[bucket_of(mixed, digests.size)] += put_hash(mixed, data, i * width, width)


@njit(nogil=True, cache=True)
def _differing(new, old, old_is_there, width, picked):
    count = 0
    for i in range(old_is_there.size):
        if not old_is_there[i] or unequal(new, i * width, old, i * width, width):
            picked[count] = i
            count += 1
    return count


@njit(inline="always", cache=True)
def _changed(source, order, old, old_is_there, width, picked):
    n, count = order.size, 0
    for i in range(n):
        prefetch_row(source, order[min(i + AHEAD, n - 1)] * np.int64(width), width)
        at = order[i] * np.int64(width)
        if infinite(source, at, width):
            return -1 - i
        if not old_is_there[i] or unequal(source, at, old, i * width, width):
            picked[count] = i
            count += 1
    return count


@njit(nogil=True, cache=True)
def _differing_finite(source, order, old, old_is_there, width, picked):
    if width == USUAL:
        return _changed(source, order, old, old_is_there, USUAL, picked)
    return _changed(source, order, old, old_is_there, width, picked)


@njit(nogil=True, cache=True)
def _touch(data):
    total = np.int64(0)
    for at in range(0, data.size, 4096):
        total += data[at]
    return total


def flat(rows: NDArray[np.generic]) -> NDArray[np.uint8]:
    """The bytes of an array in C order, without a copy."""
    return rows.reshape(-1).view(np.uint8)


def gather(source: NDArray[np.uint8], order: NDArray[np.integer], width: int, target: NDArray[np.uint8]) -> None:
    """Rows `order` of `source` (bytes) one after the other into `target` (bytes)."""
    _gather(source, order, width, target)


def gather_finite(source: NDArray[np.uint8], order: NDArray[np.integer], width: int, target: NDArray[np.uint8]) -> int:
    """As `gather`, of float32 rows: -1, or the first index into `order` whose row holds a NaN or an infinity."""
    return int(_gather_finite(source, order, width, target))


def scatter(
    source: NDArray[np.uint8], positions: NDArray[np.int64], places: NDArray[np.int64], width: int, target: NDArray[np.uint8]
) -> None:
    """Row `positions[i]` of `source` becomes row `places[i]` of `target`, all bytes."""
    _scatter(source, positions, places, width, target)


def add_puts(keys: NDArray[np.int64], rows: NDArray[np.uint8], width: int, digests: NDArray[np.uint64]) -> None:
    """Adds the hashes of rows (bytes) to `digests` (uint64[buckets])."""
    _add_puts(keys, rows, width, digests)


def differing(new: NDArray[np.uint8], old: NDArray[np.uint8], old_is_there: NDArray[np.bool_], width: int) -> NDArray[np.int64]:
    """Which rows (bytes) are not the same in both; those that `old` does not have are not."""
    picked = np.empty(len(old_is_there), np.int64)
    return picked[: _differing(new, old, old_is_there, width, picked)]


def differing_finite(
    source: NDArray[np.uint8], order: NDArray[np.int32], old: NDArray[np.uint8], old_is_there: NDArray[np.bool_], width: int
) -> NDArray[np.int64] | int:
    """As `differing`, of the float32 rows `order` of `source`, where they are; or the first index into `order` whose row holds
    a NaN or an infinity."""
    picked = np.empty(len(order), np.int64)
    count = int(_differing_finite(source, order, old, old_is_there, width, picked))
    return picked[:count] if count >= 0 else -1 - count


def touch(data: NDArray[np.uint8]) -> None:
    """Reads a byte of every page, so that the pages of a mapped file are there before they are read in another order."""
    _touch(data)
