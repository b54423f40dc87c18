"""numpy's arrays, scalars and dtypes as a pickle spells them, for checkpoints that keep a few beside their tensors.

numpy._core.multiarray._reconstruct(ndarray, (0,), b"b") + state (1, shape, dtype, fortran, bytes)
numpy._core.multiarray.scalar(dtype, bytes)
numpy.dtype("f8", False, True) + state (3, "<", …)
"""

from __future__ import annotations

import re
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ..tensors.elements import tensor_bytes
from .pickle_machine import Buildable, Constructor, Global, Value

_NUMBER = re.compile(r"[<>=|]?[biufc][0-9]{1,2}")


class PickledDtype(Buildable):
    """A dtype of numbers, whose byte order comes as a state."""

    __slots__ = ("dtype",)

    def __init__(self, code: Value, *_: Value) -> None:
        # What else numpy's parser takes is no number, or ends in errors of any kind.
        if not isinstance(code, str) or not _NUMBER.fullmatch(code):
            raise ValueError("a dtype that is none of numbers")
        self.dtype = np.dtype(code)

    def build(self, state: Value) -> None:
        # Compared, not hashed or printed: a value that a pickle nested can take forever.
        match state:
            case (_, ("<" | ">" | "=" | "|") as order, *_):
                self.dtype = self.dtype.newbyteorder(order)
            case _:
                raise ValueError("the state of a dtype has no byte order")

    def values(self, data: Value, shape: tuple[int, ...], *, fortran: bool = False) -> NDArray[Any]:
        """`data` as an array of that shape, little-endian and in C order; a view where it is so already."""
        if isinstance(data, str):
            data = data.encode("latin-1")
        if not isinstance(data, bytes | bytearray) or len(data) != tensor_bytes(shape, self.dtype.name, "a pickled array"):
            raise ValueError(f"the data of an array of shape {list(shape)} has another length")
        flat = np.frombuffer(data, self.dtype).astype(self.dtype.newbyteorder("<"), copy=False)
        return np.ascontiguousarray(flat.reshape(shape[::-1]).T) if fortran else flat.reshape(shape)


class PickledArray(Buildable):
    """An array, or a scalar as one without dimensions; empty until its state comes."""

    __slots__ = ("values",)

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def build(self, state: Value) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("the state of an array has five parts")
        _, shape, dtype, fortran, data = state
        if not _is_shape(shape) or not isinstance(dtype, PickledDtype):
            raise TypeError("the state of an array has no shape or no dtype")
        self.values = dtype.values(data, shape, fortran=bool(fortran))


def _is_shape(value: Value) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple) and all(type(size) is int for size in value)


def _reconstruct(kind: Value, *_: Value) -> PickledArray:
    if not isinstance(kind, Global) or kind.name != "numpy.ndarray":
        raise TypeError("it makes arrays only")
    return PickledArray(np.empty(0, np.uint8))


def _scalar(dtype: Value, data: Value) -> PickledArray:
    if not isinstance(dtype, PickledDtype):
        raise TypeError("a scalar without a dtype")
    return PickledArray(dtype.values(data, ()))


def _frombuffer(data: Value, dtype: Value, shape: Value, order: Value) -> PickledArray:
    if not isinstance(dtype, PickledDtype) or not _is_shape(shape) or order not in ("C", "F"):
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
