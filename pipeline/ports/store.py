"""The object store port: what every adapter promises, and nothing about any of them.

Keys are '/'-separated names without '.' or '..' parts. An object is written whole or not at all; a reader never sees a
part of one. The only commit protocol is the conditional put: `Create` and `Swap` have exactly one winner.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NewType, Protocol

Token = NewType("Token", str)
"""Names one content of one key, as an ETag does; a `Swap` compares it."""


@dataclass(frozen=True, slots=True)
class Overwrite:
    """Put whatever is there."""


@dataclass(frozen=True, slots=True)
class Create:
    """Put only if the key does not exist; else `CommitConflict`."""


@dataclass(frozen=True, slots=True)
class Swap:
    """Put only if the key still holds the content that `token` names; else `CommitConflict`."""

    token: Token


Condition = Overwrite | Create | Swap


@dataclass(frozen=True, slots=True)
class Found:
    """An object as it was read."""

    data: bytes
    token: Token


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a listing; `size` in bytes."""

    key: str
    size: int


class Upload(Protocol):
    """An object being written front to back. It exists only once the context ends without an exception."""

    def write(self, block: bytes | bytearray | memoryview) -> None:
        """Appends a block; the caller may reuse its buffer when this returns."""


class ObjectStore(Protocol):
    """Errors: `CommitConflict` (a condition failed), `OutcomeUnknown` (the reply of a put was lost: it may have landed),
    `Unreachable`, `StorageFull`, `NotFound` (get and size), `InvalidInput` (a malformed key)."""

    @property
    def url(self) -> str: ...

    def get(self, key: str) -> Found:
        """The whole object; for small ones."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start`; `Corrupt` when the object is shorter."""

    def size(self, key: str) -> int: ...

    def put(self, key: str, data: bytes, condition: Condition) -> Token: ...

    def upload(self, key: str, *, size_hint: int = 0) -> AbstractContextManager[Upload]:
        """Streams an object of any size in bounded memory (multipart where the server has it); overwrites.
        Only for keys under a name that nobody else writes."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """Objects whose key starts with `prefix`, in key order; never a source of truth for readers."""

    def delete(self, key: str) -> None:
        """Idempotent."""

    def local_path(self, key: str) -> Path | None:
        """A path that can be mapped, where the store is a local folder; None elsewhere."""
