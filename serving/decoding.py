# mypy: disable-error-code="call-arg,no-untyped-def,no-untyped-call,var-annotated,attr-defined"
"""Which encoded rows a serving table takes, by a number that its kernels know. Knows no slots; layouts and values are those of
core.codecs."""

from __future__ import annotations

import numpy as np
from numba import njit

from penstock.pipeline.core.errors import InvalidInput, Unsupported

from .machine import float_of

FLOAT32, FLOAT16, INT8 = 0, 1, 2
_CODES = {"float32": FLOAT32, "float16": FLOAT16, "int8": INT8}


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
    return float_of(np.uint32(word & np.uint64(0xFFFFFFFF)))
