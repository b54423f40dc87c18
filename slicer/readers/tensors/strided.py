"""A tensor that lies uncompressed in a file, in any strides and either byte order. Knows no format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..checkpoint import Array, TensorInfo
from ..files.mapped_file import MappedFile
from .elements import bytes_of, check_buffer, check_range, convert_into, storage_dtype


@dataclass(frozen=True, slots=True)
class StridedTensor:
    """`offset` is that of element 0 in the file; `strides` are in bytes, None for C order. The whole must lie in the file:
    whoever makes one has checked it."""

    info: TensorInfo
    file: MappedFile
    offset: int
    strides: tuple[int, ...] | None = None
    big_endian: bool = False

    def rows(self, start: int, stop: int) -> Array:
        check_range(self.info.shape, start, stop, self.info.name)
        return self._native(self._view()[start:stop])

    def read(self) -> Array:
        return self._native(self._view())

    def read_into(self, start: int, out: Array) -> None:
        check_buffer(self.info.shape, start, out, self.info.name)
        if self._as_stored and out.dtype == storage_dtype(self.info.dtype):
            if out.size:
                row_bytes = out.nbytes // len(out)
                self.file.read_into(self.offset + start * row_bytes, bytes_of(out), f"tensor {self.info.name}")
        else:
            convert_into(self._view()[start : start + len(out)], self.info.dtype, out)

    def blocks(self, limit_bytes: int) -> Iterator[Array]:
        dtype = storage_dtype(self.info.dtype)
        each = max(1, limit_bytes // dtype.itemsize)
        if not self._as_stored:
            yield from np.nditer(
                self._view(), ["external_loop", "buffered", "zerosize_ok"],
                op_dtypes=dtype, order="C", casting="equiv", buffersize=each,
            )  # fmt: skip
            return
        buffer = np.empty(min(each, self.info.nbytes // dtype.itemsize), dtype)
        for at in range(0, self.info.nbytes, max(1, buffer.nbytes)):
            block = buffer[: (self.info.nbytes - at) // dtype.itemsize]
            self.file.read_into(self.offset + at, bytes_of(block), f"tensor {self.info.name}")
            yield block

    @property
    def _as_stored(self) -> bool:
        return self.strides is None and not self.big_endian

    def _view(self) -> Array:
        dtype = storage_dtype(self.info.dtype)
        stored = dtype.newbyteorder(">") if self.big_endian else dtype
        return self.file.view(self.offset, stored, self.info.shape, self.strides)

    def _native(self, view: Array) -> Array:
        # Compiled loops want aligned elements in C order and little-endian; members of a zip may lie anywhere.
        return np.require(view, storage_dtype(self.info.dtype), ["ALIGNED", "C_CONTIGUOUS"])
