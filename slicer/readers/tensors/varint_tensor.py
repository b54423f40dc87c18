"""A tensor whose elements are varints one after the other, decoded as they are read. Knows no message.

There is no way to its middle but from its beginning: ascending ranges go on where the last one ended, others start again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt

from ..checkpoint import Array, TensorInfo
from ..files.mapped_file import MappedFile
from ..files.wire import decode_varints
from .elements import check_buffer, check_range, convert_into, storage_dtype

_WINDOW_BYTES = 1 << 16
_LONGEST = 10


class VarintTensor:
    """Signed types are two's complement in 64 bits; floats and bool are given by their bits."""

    __slots__ = ("_file", "_first", "_next", "_offset", "_size", "_values", "info")

    def __init__(self, info: TensorInfo, file: MappedFile, offset: int, size: int) -> None:
        """`size` bytes from `offset` lie in the file. `Corrupt` when they cannot be as many numbers as the tensor has."""
        count = math.prod(info.shape)
        if not count <= size <= _LONGEST * count:
            raise Corrupt(f"{file}: tensor {info.name}: {count} numbers in {size} bytes")
        self.info = info
        self._file, self._offset, self._size = file, offset, size
        self._restart()

    def rows(self, start: int, stop: int) -> Array:
        check_range(self.info.shape, start, stop, self.info.name)
        found = np.empty((stop - start, *self.info.shape[1:]), storage_dtype(self.info.dtype))
        self._fill(start * math.prod(self.info.shape[1:]), found.reshape(-1))
        return found

    def read(self) -> Array:
        found = np.empty(self.info.shape, storage_dtype(self.info.dtype))
        self._fill(0, found.reshape(-1))
        return found

    def read_into(self, start: int, out: Array) -> None:
        check_buffer(self.info.shape, start, out, self.info.name)
        row = math.prod(self.info.shape[1:])
        each = max(1, _WINDOW_BYTES // max(1, row))
        for at in range(0, len(out), each):
            part = out[at : at + each]
            convert_into(self.rows(start + at, start + at + len(part)), self.info.dtype, part)

    def blocks(self, limit_bytes: int) -> Iterator[Array]:
        dtype, count = storage_dtype(self.info.dtype), math.prod(self.info.shape)
        each = max(1, limit_bytes // dtype.itemsize)
        for at in range(0, count, each):
            block = np.empty(min(each, count - at), dtype)
            self._fill(at, block)
            yield block

    def _restart(self) -> None:
        """The window of decoded numbers: where it begins among them, they, and where the next one's bytes begin."""
        self._first, self._next = 0, 0
        self._values: Array = np.empty(0, storage_dtype(self.info.dtype))

    def _fill(self, at: int, out: Array) -> None:
        """Elements from `at` on."""
        if at < self._first:
            self._restart()
        done = 0
        while done < len(out):
            begin = at + done - self._first
            if begin >= len(self._values):
                self._advance()
                continue
            some = self._values[begin : begin + len(out) - done]
            out[done : done + len(some)] = some
            done += len(some)

    def _advance(self) -> None:
        what, count = f"{self._file}: tensor {self.info.name}", math.prod(self.info.shape)
        raw = self._file.bytes_at(self._offset + self._next, min(_WINDOW_BYTES, self._size - self._next), "numbers")
        end = _whole(raw)
        if not end:
            raise Corrupt(f"{what}: {self._first + len(self._values)} numbers of {count}, or one that does not end")
        values = _typed(decode_varints(raw[:end], what), self.info.dtype, what)
        self._first, self._values = self._first + len(self._values), values
        self._next += end
        behind = self._first + len(values)
        if behind > count or (behind == count) != (self._next == self._size):
            raise Corrupt(f"{what}: its {self._size} bytes are not {count} numbers")


def _whole(raw: bytes) -> int:
    """How many bytes are whole numbers."""
    ends = np.flatnonzero(np.frombuffer(raw[-_LONGEST:], np.uint8) < 0x80)
    return max(0, len(raw) - _LONGEST) + int(ends[-1]) + 1 if len(ends) else 0


def _typed(numbers: NDArray[np.uint64], dtype: str, what: str) -> Array:
    """The numbers as elements; `Corrupt` for one that the dtype cannot hold."""
    target = storage_dtype(dtype)
    if target.kind in "fb":
        target = np.dtype(f"<u{target.itemsize}")
    wide = numbers if target.kind == "u" else numbers.view(np.int64)
    found = wide.astype(target)
    if (found.astype(wide.dtype) != wide).any() or (dtype == "bool" and (found > 1).any()):
        raise Corrupt(f"{what}: a number that {dtype} cannot hold")
    return found.view(storage_dtype(dtype))
