"""numpy's arrays, scalars and dtypes as a pickle spells them, for checkpoints that keep a few beside their tensors.

numpy._core.multiarray._reconstruct(ndarray, (0,), b"b") + state (1, shape, dtype, fortran, bytes)
numpy._core.multiarray.scalar(dtype, bytes)
numpy.dtype("f8", False, True) + state (3, "<", …)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .elements import tensor_bytes
from .pickle_machine import Constructor, Global, Value


class PickledDtype:
    """A dtype of numbers, whose byte order comes as a state."""

    __slots__ = ("dtype",)

    def __init__(self, code: Value, *_: Value) -> None:
        if not isinstance(code, str) or len(code) > 8:
            raise TypeError("a dtype without a code")
        self.dtype = np.dtype(code)
        if self.dtype.kind not in "biufc":
            raise ValueError(f"dtype {code} is none of numbers")

    def build(self, state: Value) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in {"<", ">", "=", "|"}:
            raise ValueError("the state of a dtype has no byte order")
        self.dtype = self.dtype.newbyteorder(state[1])

    def values(self, data: Value, shape: tuple[int, ...], *, fortran: bool = False) -> NDArray[Any]:
        """`data` as an array of that shape, little-endian and in C order, whichever order it is in itself."""
        if isinstance(data, str):
            data = data.encode("latin-1")
        if not isinstance(data, bytes | bytearray) or len(data) != tensor_bytes(shape, self.dtype.name, "a pickled array"):
            raise ValueError(f"the data of an array of shape {list(shape)} has another length")
        flat = np.frombuffer(data, self.dtype).astype(self.dtype.newbyteorder("<"))
        return np.ascontiguousarray(flat.reshape(shape[::-1]).T) if fortran else flat.reshape(shape)


class PickledArray:
    """An array, or a scalar as one without dimensions; empty until its state comes."""

    __slots__ = ("values",)

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values

    def build(self, state: Value) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("the state of an array has five parts")
        _, shape, dtype, fortran, data = state
        if not isinstance(shape, tuple) or not isinstance(dtype, PickledDtype):
            raise TypeError("the state of an array has no shape or no dtype")
        self.values = dtype.values(data, shape, fortran=bool(fortran))


def _reconstruct(kind: Value, *_: Value) -> PickledArray:
    if not isinstance(kind, Global) or kind.name != "numpy.ndarray":
        raise TypeError("it makes arrays only")
    return PickledArray(np.empty(0, np.uint8))


def _scalar(dtype: Value, data: Value) -> PickledArray:
    if not isinstance(dtype, PickledDtype):
        raise TypeError("a scalar without a dtype")
    return PickledArray(dtype.values(data, ()))


def _frombuffer(data: Value, dtype: Value, shape: Value, order: Value) -> PickledArray:
    if not isinstance(dtype, PickledDtype) or not isinstance(shape, tuple) or order not in {"C", "F"}:
        raise TypeError("an array without a dtype, a shape or an order")
    return PickledArray(dtype.values(data, shape, fortran=order == "F"))


def _encode(text: Value, encoding: Value) -> bytes:
    # Protocol 2 has no bytes: they are pickled as latin-1 text and this call.
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("it gives bytes of latin1 text only")
    return text.encode("latin-1")


NUMPY_GLOBALS: dict[str, Constructor | None] = {
    "numpy.ndarray": None,
    "numpy.dtype": PickledDtype,
    "_codecs.encode": _encode,
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _frombuffer for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
}
