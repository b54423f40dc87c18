"""The object store in memory: for tests and simulation. Deterministic; tokens are hashes of content, as weak as any server's.

It knows no faults: a wrapper injects those.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..core.errors import CommitConflict, Corrupt, InvalidInput, NotFound
from .object_keys import checked_key, checked_prefix
from .store import Condition, Create, Entry, Found, Swap, Token, Upload


class MemoryStore:
    """Implements `ObjectStore`; safe to share among threads."""

    def __init__(self, name: str = "") -> None:
        self.url = f"memory://{name}"
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> Found:
        data = self._data(key)
        return Found(data, _token(data))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise InvalidInput(f"{key}: a range of {length} bytes from {start}")
        data = self._data(key)
        if start + length > len(data):
            raise Corrupt(f"{key}: {length} bytes from {start} were asked for, the object has {len(data)}")
        return data[start : start + length]

    def size(self, key: str) -> int:
        return len(self._data(key))

    def put(self, key: str, data: bytes, condition: Condition) -> Token:
        checked_key(key)
        kept = bytes(data)
        with self._lock:
            there = self._objects.get(key)
            if isinstance(condition, Create) and there is not None:
                raise CommitConflict(f"{key}: exists already")
            if isinstance(condition, Swap) and (there is None or _token(there) != condition.token):
                raise CommitConflict(f"{key}: changed since it was read")
            self._objects[key] = kept
        return _token(kept)

    @contextmanager
    def upload(self, key: str, *, size_hint: int = 0) -> Iterator[Upload]:
        checked_key(key)
        upload = _MemoryUpload()
        yield upload
        with self._lock:
            self._objects[key] = bytes(upload.data)

    def list(self, prefix: str) -> Iterator[Entry]:
        checked_prefix(prefix)
        with self._lock:
            found = [Entry(key, len(data)) for key, data in self._objects.items() if key.startswith(prefix)]
        yield from sorted(found, key=lambda entry: entry.key)

    def delete(self, key: str) -> None:
        checked_key(key)
        with self._lock:
            self._objects.pop(key, None)

    def local_path(self, key: str) -> Path | None:
        checked_key(key)
        return None

    def _data(self, key: str) -> bytes:
        checked_key(key)
        with self._lock:
            try:
                return self._objects[key]
            except KeyError:
                raise NotFound(f"{key}: no such object in {self.url}") from None


class _MemoryUpload:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, block: bytes | bytearray | memoryview) -> None:
        self.data += block


def _token(data: bytes) -> Token:
    return Token(hashlib.blake2b(data, digest_size=16).hexdigest())
