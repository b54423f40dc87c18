# mypy: disable-error-code="call-arg,no-untyped-def,var-annotated,arg-type,no-any-return,no-untyped-call"
"""Hashes that everything stored and sent relies on: key to bucket, row to digest. Frozen: docs/format.md specifies them.

    mix(key)                    the 64-bit finaliser of MurmurHash3 (Appleby), a bijection
    bucket(key, n)              the upper 64 bits of mix(key) * n: buckets are contiguous ranges of the mixed key
    row_hash(key, op, row)      multiply-fold over pairs of little-endian 64-bit words, the row zero-padded to 16 bytes,
                                seeded with the mixed key and the op; a tombstone has no words
    digest                      the sum modulo 2^64 of row hashes: independent of order, kept incrementally

The loops are numba: compiled once, cached on disk, free of the GIL. Functions in lower case without an underscore that
take scalars are for use inside other kernels.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from .digests import MAX_ROW_BYTES, digest_text

__all__ = [
    "MAX_ROW_BYTES", "add_puts", "add_tombstones", "bucket_of", "bucket_range", "buckets_of", "digest_text", "load_word", "mix",
    "mulfold", "mulhigh", "partitions_of", "prefetch", "put_hash", "tombstone_hash",
]  # fmt: skip

U64 = np.uint64
_GOLDEN = 0x9E3779B97F4A7C15
_P1, _P2, _P3 = U64(0x9E3779B185EBCA87), U64(0xC2B2AE3D27D4EB4F), U64(0x165667919E3779F9)


def _splitmix(count: int) -> NDArray[np.uint64]:
    """`count` odd constants: the SplitMix64 sequence (Steele, Lea, Flood) from seed 0, lowest bit set."""
    state, found, mask = 0, [], 2**64 - 1
    for _ in range(count):
        state = (state + _GOLDEN) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        found.append((z ^ (z >> 31)) | 1)
    return np.array(found, np.uint64)


_K = _splitmix(MAX_ROW_BYTES // 8)


@intrinsic
def mulfold(typingctx, a, b):
    """Upper and lower half of the 128-bit product, xored."""

    def codegen(context, builder, signature, args):
        wide, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.xor(builder.trunc(product, word), builder.trunc(builder.lshr(product, wide(64)), word))

    return types.uint64(types.uint64, types.uint64), codegen


@intrinsic
def mulhigh(typingctx, a, b):
    """Upper half of the 128-bit product."""

    def codegen(context, builder, signature, args):
        wide, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, wide(64)), word)

    return types.uint64(types.uint64, types.uint64), codegen


@intrinsic
def load_word(typingctx, data, at):
    """The little-endian 64-bit word at byte `at` of a uint8 array, aligned or not."""

    def codegen(context, builder, signature, args):
        from numba.np.arrayobj import make_array

        array = make_array(signature.args[0])(context, builder, args[0])
        pointer = builder.bitcast(builder.gep(array.data, [args[1]]), ir.IntType(64).as_pointer())
        word = builder.load(pointer)
        word.align = 1
        return word

    return types.uint64(data, types.intp), codegen


@intrinsic
def prefetch(typingctx, data, at):
    """Asks for the cache line of element `at`; a hint without effect on results."""

    def codegen(context, builder, signature, args):
        from numba.np.arrayobj import make_array

        array = make_array(signature.args[0])(context, builder, args[0])
        byte = ir.IntType(8).as_pointer()
        pointer = builder.bitcast(builder.gep(array.data, [args[1]]), byte)
        i32 = ir.IntType(32)
        hint = builder.module.declare_intrinsic("llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32]))
        builder.call(hint, [pointer, i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.void(data, types.intp), codegen


@njit(inline="always", cache=True)
def mix(key):
    k = U64(key)
    k ^= k >> U64(33)
    k *= U64(0xFF51AFD7ED558CCD)
    k ^= k >> U64(33)
    k *= U64(0xC4CEB9FE1A85EC53)
    return k ^ (k >> U64(33))


@njit(inline="always", cache=True)
def bucket_of(mixed, buckets):
    """The bucket of a mixed key among `buckets`."""
    return np.int64(mulhigh(mixed, U64(buckets)))


@njit(inline="always", cache=True)
def _folded(data, at, i):
    """The 16 bytes of a row from its byte `i`; the row starts at byte `at`."""
    word = U64(i >> 3)
    return mulfold(load_word(data, at + i) ^ _K[word], load_word(data, at + i + 8) ^ _K[word + U64(1)])


@njit(inline="always", cache=True)
def put_hash(mixed, data, at, width):
    """row_hash of an encoded row: `width` bytes of the uint8 array `data` from byte `at`, its key already mixed."""
    total, i = U64(0), np.int64(0)
    if width >= 64:
        # Four sums that do not wait for each other.
        a, b, c, d = U64(0), U64(0), U64(0), U64(0)
        while i + 64 <= width:
            a += _folded(data, at, i)
            b += _folded(data, at, i + 16)
            c += _folded(data, at, i + 32)
            d += _folded(data, at, i + 48)
            i += 64
        total = (a + b) + (c + d)
    while i + 16 <= width:
        total += _folded(data, at, i)
        i += 16
    if i < width:
        word, first, second = U64(i >> 3), U64(0), U64(0)
        if i + 8 <= width:
            first = load_word(data, at + i)
            for j in range(i + 8, width):
                second |= U64(data[at + j]) << U64((j & 7) << 3)
        else:
            for j in range(i, width):
                first |= U64(data[at + j]) << U64((j & 7) << 3)
        total += mulfold(first ^ _K[word], second ^ _K[word + U64(1)])
    h = mulfold(total ^ _P1, mixed ^ _P2)
    h ^= h >> U64(37)
    h *= _P3
    return h ^ (h >> U64(32))


@njit(inline="always", cache=True)
def tombstone_hash(mixed):
    """row_hash of a deletion, its key already mixed."""
    h = mulfold(_P1, mixed ^ _P3)
    h ^= h >> U64(37)
    h *= _P3
    return h ^ (h >> U64(32))


@njit(nogil=True, cache=True)
def _buckets(keys, buckets, out):
    for i in range(keys.size):
        out[i] = bucket_of(mix(keys[i]), buckets)


@njit(nogil=True, cache=True)
def _add_puts(keys, data, width, buckets, digests):
    for i in range(keys.size):
        mixed = mix(keys[i])
        digests[bucket_of(mixed, buckets)] += put_hash(mixed, data, i * width, width)


@njit(nogil=True, cache=True)
def _put_hashes(keys, data, width, out):
    for i in range(keys.size):
        out[i] = put_hash(mix(keys[i]), data, i * width, width)


@njit(nogil=True, cache=True)
def _add_tombstones(keys, buckets, digests):
    for i in range(keys.size):
        mixed = mix(keys[i])
        digests[bucket_of(mixed, buckets)] += tombstone_hash(mixed)


def buckets_of(keys: NDArray[np.int64], buckets: int) -> NDArray[np.int32]:
    """int64[n] keys -> int32[n] buckets in [0, buckets)."""
    out = np.empty(keys.size, np.int32)
    _buckets(keys, buckets, out)
    return out


def partitions_of(buckets: NDArray[np.int32], *, bucket_count: int, partition_count: int) -> NDArray[np.int32]:
    """int32[n] buckets -> int32[n] partitions: partition p holds the buckets b with b * partition_count // bucket_count == p."""
    return (buckets.astype(np.int64) * partition_count // bucket_count).astype(np.int32)


def bucket_range(partition: int, *, bucket_count: int, partition_count: int) -> range:
    """The buckets of one partition."""
    first, last = (-(-p * bucket_count // partition_count) for p in (partition, partition + 1))
    return range(first, last)


def add_puts(digests: NDArray[np.uint64], keys: NDArray[np.int64], rows: NDArray[np.uint8]) -> None:
    """Adds the hashes of encoded rows (uint8[n, width], C order) to `digests` (uint64[buckets]), each to its key's bucket."""
    _add_puts(keys, np.ascontiguousarray(rows).reshape(-1), rows.shape[1], digests.size, digests)


def put_hashes(keys: NDArray[np.int64], rows: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """uint64[n]: the hash of each encoded row (uint8[n, width], C order) under its key, as it counts in a digest."""
    out = np.empty(keys.size, np.uint64)
    _put_hashes(keys, np.ascontiguousarray(rows).reshape(-1), rows.shape[1], out)
    return out


def add_tombstones(digests: NDArray[np.uint64], keys: NDArray[np.int64]) -> None:
    """Adds the hashes of deletions of `keys` (int64[n]) to `digests` (uint64[buckets])."""
    _add_tombstones(keys, digests.size, digests)
