"""A checkpoint file for reading: ranges of it by copy or by mapping, never beyond its end. Knows no format."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt, InvalidInput, NotFound, Unreachable

from .open_file import OpenFile, opened

MAX_HEADER_BYTES = 100_000_000
"""Of any header, index or pickle that has to be in memory as a whole; the bound that safetensors sets."""


class MappedFile:
    """Copies (`pread`) tell a file that shrank from one that did not, so whatever can be copied into a buffer is; the mapping
    serves views, and is made when the first is asked for. There may be more of these than files that a process may open: the
    system's is opened again when it is needed, and has to be the same."""

    __slots__ = ("_absolute", "_identity", "_opened", "path", "size")

    def __init__(self, path: Path) -> None:
        """`NotFound` when there is no such file, `Unreachable` when it cannot be opened."""
        self.path, self._absolute = path, path.absolute()
        file = self._open(f"no file at {path}")
        self.size, self._identity = file.size, file.identity
        self._opened: weakref.ref[OpenFile] | None = weakref.ref(file)

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
        file = self._file()
        rest = memoryview(out).cast("B")
        while rest:
            try:
                taken = os.preadv(file.descriptor, [rest], offset)
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
        file = self._file()
        if os.fstat(file.descriptor).st_size < self.size:
            raise Corrupt(f"{self}: the file has shrunk from {self.size} bytes since it was opened")
        if 0 in shape or self.size == 0:
            return np.empty(shape, dtype)
        try:
            mapped = file.mapped()
        except OSError as error:
            raise Unreachable(f"{self}: cannot be mapped: {error.strerror}") from None
        return np.ndarray(shape, dtype, buffer=mapped, offset=offset, strides=strides)

    def close(self) -> None:
        """The mapping itself goes with its last view."""
        file = self._opened() if self._opened is not None else None
        if file is not None:
            file.close()
        self._opened = None

    def _file(self) -> OpenFile:
        if self._opened is None:
            raise InvalidInput(f"{self} is closed")
        return self._opened() or self._again()

    def _again(self) -> OpenFile:
        file = self._open(f"{self}: the file was removed while it was read")
        if file.identity != self._identity:
            raise Corrupt(f"{self}: the file was changed while it was read")
        self._opened = weakref.ref(file)
        return file

    def _open(self, missing: str) -> OpenFile:
        try:
            return opened(self._absolute)
        except (FileNotFoundError, ValueError):
            # A name that a file said can be one that no file has: with a NUL in it, or half a surrogate.
            raise NotFound(missing) from None
        except OSError as error:
            raise Unreachable(f"{self.path}: {error.strerror}") from None


class FileWindow(MappedFile):
    """Part of an opened file as though it were one of its own, such as an archive inside a larger file. It shares the file's
    descriptor and mapping, and is closed with it."""

    __slots__ = ("_start", "_whole")

    def __init__(self, whole: MappedFile, start: int, size: int, what: str) -> None:
        """`Corrupt` when the window leaves the file."""
        whole.check(start, size, what)
        self._whole, self._start = whole, start
        self.path, self.size = whole.path, size

    def __str__(self) -> str:
        return f"{self._whole} from {self._start}"

    def read_into(self, offset: int, out: bytearray | memoryview, what: str) -> None:
        self._whole.read_into(self._start + offset, out, what)

    def view(
        self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...] | None = None
    ) -> NDArray[Any]:
        return self._whole.view(self._start + offset, dtype, shape, strides)

    def close(self) -> None:
        """The whole file is closed by whoever opened it."""
