"""The files that are open: descriptors and mappings of those that were opened last, however many a checkpoint has.

What was opened last stays open, up to `KEPT` of them. An older one is closed when its last reader is done, and whoever still
needs it opens it again. Knows no format.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections import deque
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KEPT = 128
"""Systems let a process open 1024 files, often 256."""

_libc = ctypes.CDLL(None, use_errno=True)
_map, _unmap, _advise = _libc.mmap, _libc.munmap, _libc.madvise
_map.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_map.restype = ctypes.c_void_p
_unmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FAILED = ctypes.c_void_p(-1).value


class OpenFile:
    """Closed by `close` or with its last reference: a reader holds one for as long as it uses the descriptor."""

    __slots__ = ("__weakref__", "_closed", "_mapped", "descriptor", "identity")

    def __init__(self, path: Path) -> None:
        """`OSError` when it cannot be opened. `identity` tells a file from another under its name, or of another size."""
        self._mapped: NDArray[np.uint8] | None = None
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._closed = _Closed(self.descriptor)
        status = os.fstat(self.descriptor)
        self.identity = (status.st_dev, status.st_ino, status.st_size)

    @property
    def size(self) -> int:
        """Bytes that it had when it was opened."""
        return self.identity[2]

    def mapped(self) -> NDArray[np.uint8]:
        """All of it, read-only; the mapping goes with its last view. `OSError` when it cannot be mapped."""
        if self._mapped is None:
            self._mapped = np.asarray(_Mapping(self.descriptor, self.size))
        return self._mapped

    def close(self) -> None:
        self.descriptor, self._mapped = -1, None
        self._closed.now()


class _Closed:
    """Closes a descriptor with its last reference. Apart from `OpenFile`, since weak references outlive the beginning of a
    `__del__`: a reader would be given a file that is being closed."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def now(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.now()


_kept: deque[OpenFile] = deque(maxlen=KEPT)


def opened(path: Path) -> OpenFile:
    """The file, which stays open until `KEPT` others were opened. `OSError` when it cannot be."""
    file = OpenFile(path)
    _kept.append(file)
    return file


class _Mapping:
    """Not `mmap.mmap`, which holds a duplicate of the descriptor for as long as there is a view."""

    __slots__ = ("__array_interface__", "_address", "_size")

    def __init__(self, descriptor: int, size: int) -> None:
        self._address = None
        address = _map(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address == _FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._address, self._size = address, size
        self.__array_interface__ = {"version": 3, "shape": (size,), "typestr": "|u1", "data": (address, True)}
        _advise(address, size, mmap.MADV_SEQUENTIAL)

    def __del__(self) -> None:
        if self._address is not None:
            _unmap(self._address, self._size)
