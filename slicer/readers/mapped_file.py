"""A checkpoint file, opened for reading: ranges of it by copy or by mapping, never beyond its end. Knows no format."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt, InvalidInput, NotFound, Unreachable

MAX_HEADER_BYTES = 100_000_000
"""Of any header, index or pickle that has to be in memory as a whole; the bound that safetensors sets."""


class MappedFile:
    """Copies (`pread`) tell a file that shrank from one that did not, so whatever can be copied into a buffer is; the mapping
    serves views, and is made when the first is asked for."""

    __slots__ = ("_descriptor", "_map", "path", "size")

    def __init__(self, path: Path) -> None:
        """`NotFound` when there is no such file, `Unreachable` when it cannot be opened."""
        self.path = path
        self._map: mmap.mmap | None = None
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"no file at {path}") from None
        except OSError as error:
            raise Unreachable(f"{path}: {error.strerror}") from None
        self.size = os.fstat(self._descriptor).st_size

    def __str__(self) -> str:
        return str(self.path)

    def check(self, offset: int, length: int, what: str) -> None:
        """`Corrupt` unless [offset, offset + length) lies in the file."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise Corrupt(f"{self}: {what} at {offset}, {length} bytes, leaves the file of {self.size} bytes")

    def bytes_at(self, offset: int, length: int, what: str) -> bytes:
        """A header: at most `MAX_HEADER_BYTES`."""
        self.check(offset, length, what)
        if length > MAX_HEADER_BYTES:
            raise Corrupt(f"{self}: {what} has {length} bytes, at most {MAX_HEADER_BYTES} are read")
        found = bytearray(length)
        self.read_into(offset, found, what)
        return bytes(found)

    def read_into(self, offset: int, out: bytearray | memoryview, what: str) -> None:
        """Fills `out` from `offset`."""
        self._check_open()
        rest = memoryview(out).cast("B")
        while rest:
            try:
                taken = os.preadv(self._descriptor, [rest], offset)
            except OSError as error:
                raise Unreachable(f"{self}: {error.strerror}") from None
            if taken == 0:
                raise Corrupt(f"{self}: {what} ends at {offset}, {len(rest)} bytes early: the file has shrunk")
            offset, rest = offset + taken, rest[taken:]

    def view(
        self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...] | None = None
    ) -> NDArray[Any]:
        """A read-only array over the mapping, its range checked before. `strides` are in bytes. Touching pages of a file that
        shrinks later ends the process (SIGBUS): whoever cannot trust the writer reads by copy."""
        self._check_open()
        if os.fstat(self._descriptor).st_size < self.size:
            raise Corrupt(f"{self}: the file has shrunk from {self.size} bytes since it was opened")
        if 0 in shape or self.size == 0:
            return np.empty(shape, dtype)
        if self._map is None:
            self._map = mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ)
            self._map.madvise(mmap.MADV_SEQUENTIAL)
        return np.ndarray(shape, dtype, buffer=self._map, offset=offset, strides=strides)

    def close(self) -> None:
        """The mapping itself goes with its last view."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._map = -1, None

    def _check_open(self) -> None:
        if self._descriptor < 0:
            raise InvalidInput(f"{self} is closed")
