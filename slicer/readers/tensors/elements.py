"""Element types and shapes of tensors: their names, their sizes, and the checks that come before any allocation.

dtypes that numpy lacks are carried as their bits: bfloat16 as uint16, the 8-bit floats as uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt, InvalidInput, Unsupported

BITS_ONLY = {
    "bfloat16": "<u2",
    "float8_e4m3fn": "<u1",
    "float8_e5m2": "<u1",
    "float8_e4m3fnuz": "<u1",
    "float8_e5m2fnuz": "<u1",
    "float8_e8m0fnu": "<u1",
}
TEXT = "string"
"""Texts of any length: see `TextSource`."""
MAX_DIMENSIONS = 32
LARGEST = 2**63 - 1


def storage_dtype(name: str) -> np.dtype[Any]:
    """The little-endian numpy dtype that elements of dtype `name` are read as."""
    return np.dtype(BITS_ONLY.get(name, name)).newbyteorder("<")


def is_float(name: str) -> bool:
    return name in BITS_ONLY or kind_of(name) == "f"


def is_text(name: str) -> bool:
    return name == TEXT or kind_of(name) in {"S", "U"}


def kind_of(name: str) -> str:
    """numpy's letter for a kind of dtype; "" for words that numpy does not know, which only the format does."""
    try:
        return np.dtype(name).kind
    except TypeError:
        return ""


def element_bytes(dtype: str) -> int:
    return storage_dtype(dtype).itemsize


def tensor_bytes(shape: Sequence[int], dtype: str, name: str) -> int:
    """Bytes of a tensor in C order; `Corrupt` names the tensor when its shape is none that memory could ever hold."""
    if len(shape) > MAX_DIMENSIONS:
        raise Corrupt(f"{name}: {len(shape)} dimensions, at most {MAX_DIMENSIONS}")
    extent = element_bytes(dtype)
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= LARGEST:
            raise Corrupt(f"{name}: {size!r} is no size of a dimension")
        extent *= max(size, 1)
    if extent > LARGEST:
        raise Corrupt(f"{name}: shape {list(shape)} overflows 64 bits")
    return 0 if 0 in shape else extent


def widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 as its bits -> float32 of the same shape; exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def bytes_of(values: NDArray[Any]) -> memoryview:
    """The bytes of an array in C order, not copied."""
    return values.reshape(-1).view(np.uint8).data


def convert_into(values: NDArray[Any], dtype: str, out: NDArray[Any]) -> None:
    """Copies `values`, elements of dtype `dtype` as stored, into `out`, as `TensorSource.read_into` promises."""
    if out.dtype == storage_dtype(dtype):
        np.copyto(out, values)
    elif dtype == "bfloat16" and out.dtype == np.float32:
        np.left_shift(values, 16, out=out.view(np.uint32), dtype=np.uint32, casting="unsafe")
    elif dtype in BITS_ONLY:
        raise Unsupported(f"{dtype} elements cannot be read as {out.dtype}")
    elif (out.dtype == np.float32 and is_float(dtype)) or np.can_cast(np.dtype(dtype), out.dtype, "safe"):
        with np.errstate(over="ignore"):
            np.copyto(out, values, casting="same_kind")
    else:
        raise InvalidInput(f"{dtype} elements cannot be read as {out.dtype} without loss")


def check_range(shape: tuple[int, ...], start: int, stop: int, name: str) -> None:
    """`InvalidInput` unless [start, stop) are rows of a tensor of that shape."""
    if not shape:
        raise InvalidInput(f"tensor {name} is a scalar: it has no rows")
    if not 0 <= start <= stop <= shape[0]:
        raise InvalidInput(f"tensor {name} has rows 0 to {shape[0]}, not {start} to {stop}")


def check_buffer(shape: tuple[int, ...], start: int, out: NDArray[Any], name: str) -> None:
    """`InvalidInput` unless `out` can take rows from `start` of a tensor of that shape."""
    if not out.flags.c_contiguous or not out.flags.writeable or out.ndim != len(shape) or out.shape[1:] != shape[1:]:
        raise InvalidInput(f"tensor {name}: the buffer {list(out.shape)} is no C-order [n, *{list(shape[1:])}]")
    check_range(shape, start, start + len(out), name)
