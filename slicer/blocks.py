"""Streams one object into a store from few reused buffers, as fast as its disk takes it. Knows no run, no row.

Fresh memory is the slow part on virtual machines, so buffers are filled where they are written from, and used again. Where
an upload goes to a local file and the file system allows it, whole blocks are written past the page cache by two threads;
anywhere else one thread feeds the upload while the next block is filled.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.hashing import MAX_ROW_BYTES
from penstock.pipeline.ports.local_files import translated
from penstock.pipeline.ports.store import ObjectStore, Upload

BLOCK = 1 << 20
DIRECT_FROM = 8 * BLOCK
"""Objects smaller than this are not worth going past the page cache."""
_BUFFERS = 6
_WRITERS = 2


@runtime_checkable
class FileUpload(Protocol):
    """An upload into a file that stands open under this descriptor, and that nobody writes to but through the upload."""

    def write(self, block: bytes | bytearray | memoryview) -> None: ...

    def fileno(self) -> int: ...


class Buffers:
    """Page-aligned buffers of a block and a row; for one stream at a time."""

    def __init__(self) -> None:
        self._free: deque[NDArray[np.uint8]] = deque()
        self._made = 0

    def take(self) -> NDArray[np.uint8] | None:
        """A buffer; None when all are in use."""
        if self._free:
            return self._free.popleft()
        if self._made == _BUFFERS:
            return None
        self._made += 1
        return np.frombuffer(mmap.mmap(-1, BLOCK + MAX_ROW_BYTES), np.uint8)

    def give(self, buffer: NDArray[np.uint8]) -> None:
        self._free.append(buffer)


class Stream:
    """Bytes of one object in order. Fill `room()` from its front, then say `advance(count)`."""

    def __init__(self, key: str, upload: Upload, buffers: Buffers, direct: int | None) -> None:
        self._key = key
        self._upload = upload
        self._buffers = buffers
        self._direct = direct
        self._threads = ThreadPoolExecutor(1 if direct is None else _WRITERS, thread_name_prefix="blocks")
        self._writes: deque[tuple[Future[None], NDArray[np.uint8]]] = deque()
        self._current = self._take()
        self._filled = 0
        self._written = 0

    @property
    def position(self) -> int:
        """How many bytes were given so far."""
        return self._written + self._filled

    def room(self) -> NDArray[np.uint8]:
        """At least as many bytes as the longest row has."""
        return self._current[self._filled :]

    def advance(self, count: int) -> None:
        self._filled += count
        if self._filled < BLOCK:
            return
        full, over = self._current, self._filled - BLOCK
        self._submit(full, BLOCK)
        self._current, self._filled = self._take(), over
        self._current[:over] = full[BLOCK : BLOCK + over]

    def append(self, data: bytes | NDArray[np.uint8]) -> None:
        """Copies `data` to the end."""
        rest = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
        while len(rest):
            room = self.room()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            self.advance(count)
            rest = rest[count:]

    def finish(self) -> None:
        """Everything is in the upload when this returns."""
        while self._writes:
            self._settle()
        last = self._current.data[: self._filled]
        if self._direct is None:
            self._upload.write(last)
        else:
            # The end of the file is no whole block: it goes through the page cache.
            self._write_at(self._file(), last, self._written)
        self._written += self._filled
        self._filled = 0

    def close(self) -> None:
        """Waits for the threads and gives the buffers back, whatever has happened."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for _, buffer in self._writes:
            self._buffers.give(buffer)
        self._writes.clear()
        self._buffers.give(self._current)

    def _take(self) -> NDArray[np.uint8]:
        while (buffer := self._buffers.take()) is None:
            self._settle()
        return buffer

    def _settle(self) -> None:
        write, buffer = self._writes[0]
        write.result()
        self._writes.popleft()
        self._buffers.give(buffer)

    def _submit(self, buffer: NDArray[np.uint8], count: int) -> None:
        view = buffer.data[:count]
        if self._direct is None:
            write = self._threads.submit(self._upload.write, view)
        else:
            write = self._threads.submit(self._write_at, self._direct, view, self._written)
        self._writes.append((write, buffer))
        self._written += count

    def _file(self) -> int:
        assert isinstance(self._upload, FileUpload)
        return self._upload.fileno()

    def _write_at(self, descriptor: int, view: memoryview, at: int) -> None:
        with translated(self._key):
            while view:
                count = os.pwrite(descriptor, view, at)
                view, at = view[count:], at + count


@contextmanager
def streaming(store: ObjectStore, key: str, size: int, buffers: Buffers) -> Iterator[Stream]:
    """A stream of `size` bytes into the object `key`, which exists once the context ends without an exception."""
    with store.upload(key, size_hint=size) as upload, _direct(upload, size) as direct:
        stream = Stream(key, upload, buffers, direct)
        try:
            yield stream
            stream.finish()
        finally:
            stream.close()


@contextmanager
def _direct(upload: Upload, size: int) -> Iterator[int | None]:
    """A second descriptor of the upload's file that goes past the page cache; None where there is no such thing."""
    descriptor = None
    if size >= DIRECT_FROM and isinstance(upload, FileUpload) and hasattr(os, "O_DIRECT"):
        try:
            descriptor = os.open(f"/proc/self/fd/{upload.fileno()}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            # As on tmpfs. What can go wrong with the file itself is found by writing to it.
            descriptor = None
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)
