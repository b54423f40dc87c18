"""Durable files in one folder tree: temporary files, locks, folders, and what an operating system's error means.

Knows nothing of objects or conditions. A temporary file is locked by whoever writes it for as long as they live, so what
nobody has locked was left behind by a dead process, in whatever container that ran.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..core.errors import InvalidInput, NotFound, PenstockError, StorageFull, Unreachable

LOCKS, TEMPORARY = ".locks", ".temporary"
LOCK_FILES = 256
LOCK_WAIT_S = 30.0
ATTEMPTS = 100
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ABSENT = {errno.ENOENT, errno.ENOTDIR}
_MISPLACED = {errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def translated(subject: str) -> Iterator[None]:
    """Turns an `OSError` inside into the error of the tree that it means; `subject` names the file."""
    try:
        yield
    except OSError as error:
        raise _meaning(error, subject) from error


def _meaning(error: OSError, subject: str) -> PenstockError:
    message = f"{subject}: {error.strerror or error}"
    if error.errno in _FULL:
        return StorageFull(message)
    if error.errno in _ABSENT:
        return NotFound(f"{subject}: no such object")
    if error.errno == errno.ELOOP:
        return InvalidInput(f"{subject}: a symbolic link, which is not followed")
    return InvalidInput(message) if error.errno in _MISPLACED else Unreachable(message)


class Writeback:
    """Starts the device early on what is written to one file, so that the `fsync` at its end finds little left to do: with
    one large `fsync` a file takes several times as long. A hint; only Linux takes it."""

    _STEP_BYTES = 8 << 20
    _START_WRITE = 2
    _call = getattr(ctypes.CDLL(None), "sync_file_range", None)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._started = 0

    def written(self, end: int) -> None:
        """The file was written up to `end`."""
        length = end - self._started
        if length >= self._STEP_BYTES and self._call:
            self._call(self._descriptor, ctypes.c_int64(self._started), ctypes.c_int64(length), self._START_WRITE)
            self._started = end


class LocalFiles:
    """The folder `root`: what was published in it outlives a crash of the machine once the call returned."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self._swept = False
        self._sweeping = threading.Lock()

    def path(self, key: str) -> Path:
        """Where `key` stands; `InvalidInput` when a symbolic link on the way leads out of the root."""
        path = self.root / key
        self.folder(str(path.parent))
        return path

    def folder(self, name: str) -> Path:
        """The folder `name` ("" is the root), on the same condition."""
        path = self.root / name
        if not Path(os.path.realpath(path)).is_relative_to(self.root):
            raise InvalidInput(f"{name}: a symbolic link leads out of {self.root}")
        return path

    @contextmanager
    def temporary(self) -> Iterator[tuple[int, Path]]:
        """A new file, open for writing and locked; it is gone after the block unless it was renamed."""
        folder = self.root / TEMPORARY
        with self._sweeping:
            if not self._swept:
                self.make_folder(folder)
                _sync_folder(self.root.parent)
                self.sweep()
                self._swept = True
        descriptor, path = _locked_file(folder)
        try:
            yield descriptor, path
        finally:
            with suppress(FileNotFoundError):
                path.unlink()
            os.close(descriptor)

    def sweep(self) -> int:
        """Removes the temporary files of dead processes; how many there were."""
        removed = 0
        try:
            left_behind = list(os.scandir(self.root / TEMPORARY))
        except FileNotFoundError:
            return 0
        for entry in left_behind:
            with suppress(FileNotFoundError), _opened(Path(entry.path), os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
                if _try_lock(descriptor):
                    os.unlink(entry.path)
                    removed += 1
        return removed

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Excludes every other process and thread that holds `key` (or, rarely, another one with the same lock file)."""
        folder = self.root / LOCKS
        self.make_folder(folder)
        stripe = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=2).digest()) % LOCK_FILES
        with _opened(folder / f"{stripe:02x}", os.O_RDWR | os.O_CREAT) as descriptor:
            deadline, pause_s = time.monotonic() + LOCK_WAIT_S, 0.0005
            while not _try_lock(descriptor):
                if time.monotonic() > deadline:
                    raise Unreachable(f"{key}: its lock was held for {LOCK_WAIT_S:.0f} s by another process")
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.02)
            yield

    def link(self, temporary: Path, target: Path) -> None:
        """Publishes a synced file as `target`; `FileExistsError` if there is one."""
        self._publish(lambda: os.link(temporary, target), target)

    def rename(self, temporary: Path, target: Path) -> None:
        """Publishes a synced file as `target`, in the place of what is there."""
        self._publish(lambda: os.rename(temporary, target), target)

    def remove(self, target: Path) -> None:
        """Deletes `target` if it is there, and the folders that are empty then."""
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            target.unlink()
            _sync_folder(target.parent)
        for folder in target.parents:
            if folder == self.root:
                break
            try:
                folder.rmdir()
            except OSError as error:
                if error.errno in _ABSENT:
                    continue
                break

    def make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            self._sync_up(folder)

    def _publish(self, move: Callable[[], None], target: Path) -> None:
        for attempt in range(ATTEMPTS):
            try:
                self._make_parents(target)
                move()
                break
            except FileNotFoundError:
                # The removal of another object took a folder away meanwhile.
                if attempt == ATTEMPTS - 1:
                    raise
        self._sync_up(target.parent)

    def _make_parents(self, target: Path) -> None:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            if any(parent.is_file() for parent in target.parents):
                raise InvalidInput(f"{target.relative_to(self.root)}: a part of this key is an object itself") from None
            raise FileNotFoundError(f"{target.parent}: was a folder, and has gone meanwhile") from None

    def _sync_up(self, folder: Path) -> None:
        """Makes the names down to `folder` durable; another process may have made one and not yet have synced it."""
        while True:
            _sync_folder(folder)
            if folder == self.root:
                break
            folder = folder.parent


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked_file(folder: Path) -> tuple[int, Path]:
    for _ in range(ATTEMPTS):
        path = folder / f"{os.getpid()}-{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        # A sweep may have come between the two calls.
        if _try_lock(descriptor) and os.fstat(descriptor).st_nlink:
            return descriptor, path
        os.close(descriptor)
    raise Unreachable(f"{folder}: no temporary file could be locked")


def _sync_folder(folder: Path) -> None:
    # A folder that is gone held nothing any more.
    with suppress(FileNotFoundError), _opened(folder, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)
