# mypy: disable-error-code="call-arg,no-untyped-def,no-untyped-call,var-annotated,attr-defined"
"""Encoded rows to float32, value by value, inside a gather. Knows no slots; the layouts are those of core.codecs.

float32   dim little-endian values
float16   dim little-endian values
int8      dim bytes, then float32 scale, float32 bias: value = byte * scale + bias, rounded after each step (FBGEMM)
"""

from __future__ import annotations

import numpy as np
from numba import njit

from penstock.pipeline.core.errors import InvalidInput, Unsupported

from .machine import float_of

FLOAT32, FLOAT16, INT8 = 0, 1, 2
_CODES = {"float32": FLOAT32, "float16": FLOAT16, "int8": INT8}
_U32 = np.uint32
_EXPONENT, _NORMAL, _INFINITE, _SMALLEST = _U32(31 << 23), _U32(112 << 23), _U32(224 << 23), _U32(113 << 23)


def code_of(codec: str, *, dim: int, width: int) -> int:
    """The kernels' number of a codec; `Unsupported` if they have none, `InvalidInput` if `width` is not that of `dim` values."""
    if codec not in _CODES:
        raise Unsupported(f"codec {codec!r}: a serving table decodes {', '.join(_CODES)}")
    code = _CODES[codec]
    expected = {FLOAT32: 4 * dim, FLOAT16: 2 * dim, INT8: dim + 8}[code]
    if dim < 1 or width != expected:
        raise InvalidInput(f"codec {codec}: a row of dim {dim} has {expected} bytes, not {width}")
    return code


@njit(inline="always", cache=True)
def word_to_float(word):
    """The float32 in the lower half of a 64-bit word."""
    return float_of(_U32(word & np.uint64(0xFFFFFFFF)))


@njit(inline="always", cache=True)
def half_to_float(half):
    """float32 of the bits of a float16, exactly (Giesen, 2012): not every CPU has an instruction for it."""
    shifted = _U32(_U32(half & 0x7FFF) << _U32(13))
    exponent = shifted & _EXPONENT
    bias = _U32(_INFINITE if exponent == _EXPONENT else _NORMAL)
    value = float_of(_U32(shifted + bias))
    if exponent == 0:
        value = float_of(_U32(shifted + _SMALLEST)) - float_of(_SMALLEST)
    return -value if half & 0x8000 else value
