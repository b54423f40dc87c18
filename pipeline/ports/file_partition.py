"""One partition of a file log, as its writers see it: the lock, the tail, commits, recovery, truncation.

Any number of processes may hold one of these for the same folder; each change is made under the folder's lock. It knows
no queues, threads or clocks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from threading import Lock

from ..core.errors import Corrupt, InvalidInput, OutcomeUnknown, StorageFull, Unreachable
from ..core.ids import Offset, Partition
from ..core.times import WallTime
from .file_format import (
    HEADER,
    LOCK_FILE,
    TAIL_FILE,
    Tail,
    encoded,
    index_entries,
    index_name,
    segment_name,
)
from .file_segments import BLOCK_BYTES, Place, bases_in, read_block
from .file_tail import TailFile
from .log_checks import above_end, another_log

LOCK_TIMEOUT_S = 30.0
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FilePartition:
    """`durable=False` leaves writing to the disk to the operating system: a crash of the process loses nothing
    acknowledged, a crash of the machine may."""

    def __init__(
        self, folder: Path, *, url: str, identity: str, segment_bytes: int, max_record_bytes: int, durable: bool
    ) -> None:
        self._folder = folder
        self._url = url
        self._identity = identity
        self._segment_bytes = segment_bytes
        self._max_record_bytes = max_record_bytes
        self._durable = durable
        self._mutex = Lock()
        self._segment: tuple[Offset, int] | None = None
        self._closed = False
        with translated(str(folder)):
            self._lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
            self.tail = TailFile(folder / TAIL_FILE)

    def append(self, payloads: Sequence[bytes], appended_at: WallTime) -> Offset:
        """Commits all of them, or none, and returns the offset of the first.

        `StorageFull`: none is in the log. `OutcomeUnknown`: the device failed in between.
        """
        with self._locked():
            tail = self._settled()
            size = sum(map(len, payloads)) + HEADER.size * len(payloads)
            if tail.position and tail.position + size > self._segment_bytes:
                tail = self._roll(tail)
            segment = self._opened(tail)
            self._write(segment, encoded(payloads, tail.offset, appended_at), tail.position)
            self._acknowledge(Tail(tail.base, tail.position + size, Offset(tail.offset + len(payloads))))
            self._index(tail.base, index_entries(payloads, tail.offset, tail.position))
            return tail.offset

    def settle(self) -> Tail:
        """Takes in what a dead writer left whole behind the tail, and cuts off the rest; returns the tail."""
        with self._locked():
            return self._settled()

    def begin(self) -> Offset:
        with translated(str(self._folder)):
            return bases_in(self._folder)[0]

    def truncate(self, before: Offset) -> None:
        """Deletes the segments that hold nothing at or beyond `before`, the oldest first; the newest one stays."""
        with self._locked():
            tail = self._settled()
            if before > tail.offset:
                raise above_end(self._url, self._number, before, tail.offset)
            for base, following in pairwise(bases_in(self._folder)):
                if following <= before:
                    with suppress(FileNotFoundError):
                        os.unlink(self._folder / index_name(base))
                    os.unlink(self._folder / segment_name(base))

    def check_not_replaced(self) -> None:
        """`PositionGone` when the folder that this object opened is no longer the one at its path."""
        try:
            there = os.stat(self._folder / LOCK_FILE)
        except FileNotFoundError:
            raise another_log(self._url, self._identity) from None
        if there.st_ino != os.fstat(self._lock).st_ino:
            raise another_log(self._url, self._identity)

    def close(self) -> None:
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            if self._segment is not None:
                os.close(self._segment[1])
            self.tail.close()
            os.close(self._lock)

    @property
    def _number(self) -> Partition:
        return Partition(int(self._folder.name))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Excludes other threads of this object by a mutex, everybody else by the lock file."""
        deadline, pause_s = time.monotonic() + LOCK_TIMEOUT_S, 0.00005
        with self._mutex, translated(str(self._folder)):
            if self._closed:
                raise InvalidInput(f"{self._folder}: this partition object is closed")
            while True:
                try:
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Unreachable(f"{self._folder}: another process held the lock for {LOCK_TIMEOUT_S} s") from None
                    time.sleep(pause_s)
                    pause_s = min(2 * pause_s, 0.002)
            try:
                self.check_not_replaced()
                yield
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _settled(self) -> Tail:
        tail = self.tail.read()
        segment = self._opened(tail)
        size = os.fstat(segment).st_size
        if size < tail.position:
            raise Corrupt(f"{self._folder}: segment {tail.base} has {size} bytes, {tail.position} were acknowledged")
        if size > tail.position:
            found = self._whole_after(segment, tail, size)
            os.ftruncate(segment, found.position)
            os.fdatasync(segment)
            if found != tail:
                self._acknowledge(found)
            return found
        return tail

    def _whole_after(self, segment: int, tail: Tail, size: int) -> Tail:
        """The tail after the whole records behind it, up to the first that is not."""
        while True:
            try:
                block = read_block(
                    segment,
                    Place(tail.offset, tail.base, tail.position),
                    limit=size,
                    max_record_bytes=self._max_record_bytes,
                    most_bytes=BLOCK_BYTES,
                    at_least=1,
                )
            except Corrupt:
                return tail
            if not block.entries:
                return tail
            tail = Tail(tail.base, tail.position + block.size, Offset(tail.offset + len(block.entries)))

    def _roll(self, tail: Tail) -> Tail:
        """Begins the next segment. The tail goes first: a segment file that no tail has named would mislead seeks."""
        rolled = Tail(tail.offset, 0, tail.offset)
        self._acknowledge(rolled)
        self.tail.force()
        return rolled

    def _opened(self, tail: Tail) -> int:
        """The descriptor of the tail's segment, which is made if the tail has only named it yet; kept until the next one."""
        if self._segment is None or self._segment[0] != tail.base:
            path, flags = self._folder / segment_name(tail.base), os.O_RDWR | os.O_CLOEXEC
            try:
                opened = os.open(path, flags)
            except FileNotFoundError:
                if tail.position:
                    raise
                opened = os.open(path, flags | os.O_CREAT, 0o644)
            if not tail.position:
                sync_folder(self._folder)
            if self._segment is not None:
                os.close(self._segment[1])
            self._segment = (tail.base, opened)
        return self._segment[1]

    def _write(self, segment: int, block: bytes, position: int) -> None:
        """Writes the block, or takes back what it wrote of it."""
        rest, at = memoryview(block), position
        try:
            while rest:
                written = os.pwrite(segment, rest, at)
                rest, at = rest[written:], at + written
        except OSError:
            self._take_back(segment, position)
            raise
        if self._durable:
            try:
                os.fdatasync(segment)
            except OSError as error:
                self._take_back(segment, position)
                raise OutcomeUnknown(f"{self._folder}: {error.strerror} while the write was made durable") from error

    def _acknowledge(self, tail: Tail) -> None:
        try:
            self.tail.advance(tail)
        except OSError as error:
            raise OutcomeUnknown(f"{self._folder}: {error.strerror} while the tail was written") from error

    def _take_back(self, segment: int, position: int) -> None:
        try:
            os.ftruncate(segment, position)
        except OSError as error:
            raise OutcomeUnknown(f"{self._folder}: {error.strerror} while a failed write was taken back") from error

    def _index(self, base: Offset, entries: bytes) -> None:
        """A hint: it is neither forced nor missed."""
        if not entries:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        with suppress(OSError):
            index = os.open(self._folder / index_name(base), flags, 0o644)
            try:
                os.write(index, entries)
            finally:
                os.close(index)


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def translated(subject: str) -> Iterator[None]:
    """Turns an `OSError` inside into the error of the tree that it means; `subject` names the file or folder."""
    try:
        yield
    except OSError as error:
        message = f"{subject}: {error.strerror or error}"
        if error.errno in _FULL:
            raise StorageFull(message) from error
        raise (Corrupt(message) if isinstance(error, FileNotFoundError) else Unreachable(message)) from error
