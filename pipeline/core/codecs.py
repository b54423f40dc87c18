"""Row codecs: how the values of an embedding row become the bytes that are stored, sent, hashed and served.

    codec     bytes a row    layout, little-endian
    float32   4 * dim        the values as they are
    float16   2 * dim        IEEE half, rounded to nearest even
    int8      dim + 8        uint8 q[dim], then float32 scale, float32 bias; value = fma(q, scale, bias)

int8 is FBGEMM's fused 8-bit row-wise format, bit for bit: bias = min, scale = (max - min) / 255, and
q = rint((value - min) * (255 / (max - min + 1e-8))), all in float32 (Fused8BitRowwiseQuantizedSBFloat in QuantUtils.cc).

A row that a codec cannot hold (NaN, infinity, overflow) is refused whole. Knows no table, key or file.
`half_value` and `int8_value` are for use inside other kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from .errors import Corrupt, InvalidInput, Refused, Unsupported

Rows = NDArray[np.float32]
Encoded = NDArray[np.uint8]
RowName = Callable[[int], str]
_BLOCK = 16384


class Codec(Protocol):
    """One way to write a row. Encoding is a pure function of the values: equal rows are equal bytes on every machine."""

    @property
    def name(self) -> str: ...

    def width(self, dim: int) -> int:
        """Bytes of an encoded row of `dim` values."""
        ...

    def encode(self, rows: Rows, *, row_name: RowName = ...) -> Encoded:
        """float32[n, dim] -> uint8[n, width], C order; with float32 a view of `rows` where these are in C order.

        `Refused` for the first row that does not fit; `row_name` says what row i is called in the message."""
        ...

    def decode(self, encoded: Encoded, dim: int) -> Rows:
        """uint8[n, width] -> float32[n, dim]; with float32 a view of `encoded` where this is in C order.

        `Corrupt` when the width is not that of `dim` values."""
        ...


def by_number(row: int) -> str:
    return f"row {row}"


def codec(name: str) -> Codec:
    """The codec of that name; `Unsupported` lists the names there are."""
    try:
        return CODECS[name]
    except KeyError:
        raise Unsupported(f"codec {name!r} is not known (codecs: {', '.join(CODECS)})") from None


def first_not_finite(rows: Rows) -> int:
    """The first row of float32[n, dim] that holds a NaN or an infinity; -1 when none does."""
    return _first_with_all(np.ascontiguousarray(rows), np.uint32, 0x7F800000)


@dataclass(frozen=True, slots=True)
class Float32:
    name: str = "float32"

    def width(self, dim: int) -> int:
        return 4 * _checked_dim(dim)

    def encode(self, rows: Rows, *, row_name: RowName = by_number) -> Encoded:
        rows = _checked_rows(rows)
        _refuse(rows, first_not_finite(rows), row_name, self.name)
        return rows.view(np.uint8)

    def decode(self, encoded: Encoded, dim: int) -> Rows:
        return _checked_encoded(self, encoded, dim).view("<f4")


@dataclass(frozen=True, slots=True)
class Float16:
    name: str = "float16"

    def width(self, dim: int) -> int:
        return 2 * _checked_dim(dim)

    def encode(self, rows: Rows, *, row_name: RowName = by_number) -> Encoded:
        rows = _checked_rows(rows)
        halves = np.empty(rows.shape, "<u2")
        _to_halves(rows.view(np.uint32).reshape(-1), halves.reshape(-1))
        # NaN, infinity and whatever rounds to infinity have all bits of the half's exponent set.
        _refuse(rows, _first_with_all(halves, np.uint16, 0x7C00), row_name, self.name)
        return halves.view(np.uint8)

    def decode(self, encoded: Encoded, dim: int) -> Rows:
        encoded = _checked_encoded(self, encoded, dim)
        rows = np.empty((len(encoded), dim), np.float32)
        _from_halves(encoded.view("<u2").reshape(-1), rows.reshape(-1))
        return rows


@dataclass(frozen=True, slots=True)
class Int8Rowwise:
    name: str = "int8"

    def width(self, dim: int) -> int:
        return _checked_dim(dim) + 8

    def encode(self, rows: Rows, *, row_name: RowName = by_number) -> Encoded:
        rows = _checked_rows(rows)
        encoded = np.empty((len(rows), self.width(rows.shape[1])), np.uint8)
        line = np.empty((len(rows), 2), "<f4")
        _refuse(rows, _quantize(rows, rows.view(np.int32), encoded, line), row_name, self.name)
        encoded[:, rows.shape[1] :] = line.view(np.uint8)
        return encoded

    def decode(self, encoded: Encoded, dim: int) -> Rows:
        encoded = _checked_encoded(self, encoded, dim)
        rows = np.empty((len(encoded), dim), np.float32)
        _dequantize(encoded, np.ascontiguousarray(encoded[:, dim:]).view("<f4"), rows)
        return rows


CODECS: dict[str, Codec] = {each.name: each for each in (Float32(), Float16(), Int8Rowwise())}


def _checked_dim(dim: int) -> int:
    if dim < 1:
        raise InvalidInput(f"a row of {dim} values: need at least 1")
    return dim


def _checked_rows(rows: Rows) -> Rows:
    if rows.ndim != 2 or rows.dtype != np.float32:
        raise InvalidInput(f"rows are {rows.dtype}{list(rows.shape)}, not float32[n, dim]")
    _checked_dim(rows.shape[1])
    return np.ascontiguousarray(rows)


def _checked_encoded(codec: Codec, encoded: Encoded, dim: int) -> Encoded:
    width = codec.width(dim)
    if encoded.ndim != 2 or encoded.dtype != np.uint8 or encoded.shape[1] != width:
        raise Corrupt(f"{codec.name} rows are {encoded.dtype}{list(encoded.shape)}, not uint8[n, {width}] of dim {dim}")
    return np.ascontiguousarray(encoded)


def _refuse(rows: Rows, row: int, row_name: RowName, codec: str) -> None:
    if row < 0:
        return
    if np.isfinite(rows[row]).all():
        raise Refused(f"{row_name(row)}: its values, {rows[row].min()} to {rows[row].max()}, overflow {codec}")
    raise Refused(f"{row_name(row)}: holds a NaN or an infinity")


def _first_with_all(rows: NDArray[Any], word: type[np.unsignedinteger[Any]], mask: int) -> int:
    found = int(_first_word_with_all(rows.view(word).reshape(-1), word(mask)))
    return found // rows.shape[1] if found >= 0 else -1


@intrinsic
def _fma(typingctx, a, b, c):  # type: ignore[no-untyped-def]
    """a * b + c, rounded once."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.fma(*args)

    return types.float32(types.float32, types.float32, types.float32), codegen


@intrinsic
def _as_float(typingctx, word):  # type: ignore[no-untyped-def]
    """The float32 whose bits a 32-bit integer is."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def _as_word(typingctx, value):  # type: ignore[no-untyped-def]
    """The bits of a float32."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@njit(inline="always", cache=True)
def _from_ordered(word):  # type: ignore[no-untyped-def]
    return _as_float(np.uint32(word ^ ((word >> np.int32(31)) & np.int32(0x7FFFFFFF))))  # type: ignore[call-arg]


@njit(inline="always", cache=True)
def half_value(half):  # type: ignore[no-untyped-def]
    """The float32 of a float16's bits, exactly, and without branches (after F. Giesen, "half_to_float_fast4")."""
    shifted = (np.uint32(half) & np.uint32(0x7FFF)) << np.uint32(13)
    word = _as_word(_as_float(shifted) * _as_float(np.uint32(239 << 23)))  # type: ignore[call-arg, var-annotated]
    word |= np.uint32(0x7F800000) if shifted >= np.uint32(0x7C00 << 13) else np.uint32(0)
    return _as_float(np.uint32(word | ((np.uint32(half) & np.uint32(0x8000)) << np.uint32(16))))


@njit(inline="always", cache=True)
def int8_value(byte, scale, bias):  # type: ignore[no-untyped-def]
    return _fma(np.float32(byte), scale, bias)  # type: ignore[call-arg]


@njit(nogil=True, cache=True)
def _to_halves(words, halves):  # type: ignore[no-untyped-def]
    # Without branches, so that it vectorises (after F. Giesen, "float_to_half_fast3_rtne").
    least_normal, beyond, magic = np.uint32(113 << 23), np.uint32(143 << 23), np.uint32(126 << 23)
    for i in range(words.size):
        word = words[i] & np.uint32(0x7FFFFFFF)
        odd = (word >> np.uint32(13)) & np.uint32(1)
        normal = np.uint32(word + np.uint32(0xC8000FFF) + odd) >> np.uint32(13)
        # Adding 0.5 shifts a value below the normal halves to its place and rounds it on the way.
        small = _as_word(_as_float(word) + _as_float(magic)) - magic  # type: ignore[call-arg]
        half = small if word < least_normal else normal
        special = np.uint32(0x7E00) if word > np.uint32(0x7F800000) else np.uint32(0x7C00)
        half = special if word >= beyond else half
        halves[i] = np.uint16(half | ((words[i] >> np.uint32(16)) & np.uint32(0x8000)))


@njit(nogil=True, cache=True)
def _from_halves(halves, values):  # type: ignore[no-untyped-def]
    for i in range(halves.size):
        values[i] = half_value(halves[i])


@njit(nogil=True, cache=True)
def _first_word_with_all(words, mask):  # type: ignore[no-untyped-def]
    # A whole block is looked at without a branch, which vectorises; only a bad one is searched.
    for start in range(0, words.size, _BLOCK):
        block = words[start : start + _BLOCK]
        bad = 0
        for i in range(block.size):
            bad |= (block[i] & mask) == mask
        if bad:
            for i in range(block.size):
                if (block[i] & mask) == mask:
                    return start + i
    return -1


@njit(nogil=True, cache=True)
def _quantize(rows, words, encoded, line):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        row = rows[i]
        # Floats in the order of their bits, as integers: both extremes in one loop that vectorises, and NaN outside them.
        least_word, most_word = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
        for j in range(row.size):
            word = words[i, j] ^ ((words[i, j] >> np.int32(31)) & np.int32(0x7FFFFFFF))
            least_word, most_word = min(least_word, word), max(most_word, word)
        if most_word >= np.int32(0x7F800000) or least_word <= np.int32(-0x7F800001):
            return i
        least, most = _from_ordered(least_word), _from_ordered(most_word)
        if least == 0:
            # -0 and +0 are one minimum: the first of them counts.
            for j in range(row.size - 1, -1, -1):
                least = row[j] if row[j] == 0 else least
        spread = most - least
        if not np.isfinite(spread):
            return i
        line[i, 0], line[i, 1] = spread / np.float32(255), least
        inverse = np.float32(255) / (spread + np.float32(1e-8))
        for j in range(row.size):
            encoded[i, j] = np.uint8(np.int32(np.rint((row[j] - least) * inverse)))
    return -1


@njit(nogil=True, cache=True)
def _dequantize(encoded, line, rows):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        scale, bias = line[i, 0], line[i, 1]
        for j in range(rows.shape[1]):
            rows[i, j] = int8_value(encoded[i, j], scale, bias)
