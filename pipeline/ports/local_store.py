"""The object store in a local folder, shared by any number of processes: `file:///path`.

    root/a/b/c                the object a/b/c
    root/.temporary/PID-...   what is being written; linked or renamed into its place once it is durable
    root/.locks/00 ... ff     held while an object that exists is compared, replaced or deleted

`Create` is a `link`, which has one winner by itself. A token is a hash of the content. Modification times are not read.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..core.errors import CommitConflict, Corrupt, InvalidInput, NotFound
from .local_files import LocalFiles, Writeback, translated
from .object_keys import checked_key, checked_prefix
from .store import Condition, Create, Entry, Found, Swap, Token, Upload

GATHER_BYTES = 1 << 20


class LocalStore:
    """Implements `ObjectStore`; safe to share among threads. The folder is made by the first write."""

    def __init__(self, root: Path) -> None:
        self._files = LocalFiles(root)
        self.url = self._files.root.as_uri()

    def get(self, key: str) -> Found:
        with self._opened(key) as descriptor:
            data = _read(descriptor, key, 0, os.fstat(descriptor).st_size)
        return Found(data, _token(data))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise InvalidInput(f"{key}: a range of {length} bytes from {start}")
        with self._opened(key) as descriptor:
            size = os.fstat(descriptor).st_size
            if start + length > size:
                raise Corrupt(f"{key}: {length} bytes from {start} were asked for, the object has {size}")
            return _read(descriptor, key, start, length)

    def size(self, key: str) -> int:
        with self._opened(key) as descriptor:
            return os.fstat(descriptor).st_size

    def put(self, key: str, data: bytes, condition: Condition) -> Token:
        target = self._files.path(checked_key(key))
        with translated(key):
            if isinstance(condition, Swap):
                self._check_unchanged(key, condition.token)
            elif isinstance(condition, Create) and target.is_file():
                raise CommitConflict(f"{key}: exists already")
            with self._files.temporary() as (descriptor, path):
                _write_all(descriptor, memoryview(data))
                os.fsync(descriptor)
                self._publish(key, path, target, condition)
        return _token(data)

    @contextmanager
    def upload(self, key: str, *, size_hint: int = 0) -> Iterator[Upload]:
        target = self._files.path(checked_key(key))
        with ExitStack() as stack:
            with translated(key):
                descriptor, path = stack.enter_context(self._files.temporary())
            upload = _LocalUpload(key, descriptor)
            yield upload
            with translated(key):
                upload.finish()
                with self._files.locked(key):
                    self._files.rename(path, target)

    def list(self, prefix: str) -> Iterator[Entry]:
        checked_prefix(prefix)
        folder, _, _ = prefix.rpartition("/")
        with translated(prefix):
            yield from self._below(folder + "/" if folder else "", prefix)

    def delete(self, key: str) -> None:
        target = self._files.path(checked_key(key))
        if not os.path.lexists(target):
            return
        with translated(key), self._files.locked(key):
            self._files.remove(target)

    def local_path(self, key: str) -> Path | None:
        """Where the object stands; `NotFound` when there is none."""
        with self._opened(key):
            return self._files.path(key)

    def sweep_temporary(self) -> int:
        """Removes what uploads of dead processes have left; how many. The first write of a process does it as well."""
        with translated(self.url):
            return self._files.sweep()

    def _publish(self, key: str, path: Path, target: Path, condition: Condition) -> None:
        if isinstance(condition, Create):
            try:
                self._files.link(path, target)
            except FileExistsError:
                if target.is_dir():
                    raise InvalidInput(f"{key}: this key is the folder of others") from None
                raise CommitConflict(f"{key}: exists already") from None
            return
        with self._files.locked(key):
            if isinstance(condition, Swap):
                self._check_unchanged(key, condition.token)
            self._files.rename(path, target)

    def _check_unchanged(self, key: str, token: Token) -> None:
        try:
            found = self.get(key).token
        except NotFound:
            raise CommitConflict(f"{key}: it is gone since it was read") from None
        if found != token:
            raise CommitConflict(f"{key}: changed since it was read")

    @contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        path = self._files.path(checked_key(key))
        with translated(key):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise NotFound(f"{key}: no such object in {self.url}")
                yield descriptor
            finally:
                os.close(descriptor)

    def _below(self, folder: str, prefix: str) -> Iterator[Entry]:
        """In key order: a folder sorts as its name and a '/', which is what its keys go on with."""
        try:
            with os.scandir(self._files.folder(folder)) as entries:
                named = [(entry.name + "/" * entry.is_dir(follow_symlinks=False), entry) for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return
        for name, entry in sorted(named, key=lambda pair: pair[0]):
            key = folder + name
            if name.startswith(".") and not folder:
                continue
            if name.endswith("/"):
                if key.startswith(prefix) or prefix.startswith(key):
                    yield from self._below(key, prefix)
            elif key.startswith(prefix) and entry.is_file(follow_symlinks=False):
                try:
                    yield Entry(key, entry.stat(follow_symlinks=False).st_size)
                except FileNotFoundError:
                    continue


class _LocalUpload:
    """Large blocks go straight to the file, small ones are gathered first."""

    def __init__(self, key: str, descriptor: int) -> None:
        self._key = key
        self._descriptor = descriptor
        self._gathered = bytearray(GATHER_BYTES)
        self._filled = 0
        self._end = 0
        self._writeback = Writeback(descriptor)

    def write(self, block: bytes | bytearray | memoryview) -> None:
        view = memoryview(block).cast("B")
        with translated(self._key):
            if self._filled + len(view) > GATHER_BYTES:
                self._flush()
            if len(view) >= GATHER_BYTES:
                self._append(view)
                return
            self._gathered[self._filled : self._filled + len(view)] = view
            self._filled += len(view)

    def fileno(self) -> int:
        """The file, for a writer of large aligned blocks that goes past the page cache on its own."""
        return self._descriptor

    def finish(self) -> None:
        self._flush()
        os.fsync(self._descriptor)

    def _flush(self) -> None:
        self._append(memoryview(self._gathered)[: self._filled])
        self._filled = 0

    def _append(self, view: memoryview) -> None:
        _write_all(self._descriptor, view)
        self._end += len(view)
        self._writeback.written(self._end)


def _write_all(descriptor: int, rest: memoryview) -> None:
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read(descriptor: int, key: str, start: int, length: int) -> bytes:
    data = os.pread(descriptor, length, start)
    if len(data) == length:
        return data
    # Linux gives at most 2 GiB a call.
    blocks, found = [data], len(data)
    while found < length:
        block = os.pread(descriptor, length - found, start + found)
        if not block:
            raise Corrupt(f"{key}: it ended after {start + found} bytes while it was read")
        blocks.append(block)
        found += len(block)
    return b"".join(blocks)


def _token(data: bytes) -> Token:
    return Token(hashlib.blake2b(data, digest_size=16).hexdigest())
