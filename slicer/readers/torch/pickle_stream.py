"""Pickles at the beginning of a file that does not say how long they are: held in a window that grows as opcodes reach on."""

from __future__ import annotations

from penstock.pipeline.core.errors import Corrupt

from ..files.mapped_file import MAX_HEADER_BYTES, MappedFile

_FIRST_BYTES = 1 << 16


class PickleStream:
    """What `pickletools` asks of a stream. Never more than `MAX_HEADER_BYTES` of the file are held."""

    __slots__ = ("_at", "_file", "_held", "size")

    def __init__(self, file: MappedFile) -> None:
        self._file, self.size = file, file.size
        self._held = bytearray()
        self._at = 0

    def tell(self) -> int:
        return self._at

    def read(self, count: int) -> bytes:
        """`count` bytes, or all that are left."""
        end = self._at + min(count, self.size - self._at)
        while end > len(self._held):
            self._grow()
        found = bytes(memoryview(self._held)[self._at : end])
        self._at = end
        return found

    def readline(self) -> bytes:
        searched = self._at
        while (found := self._held.find(b"\n", searched)) < 0 and len(self._held) < self.size:
            searched = len(self._held)
            self._grow()
        return self.read((found if found >= 0 else len(self._held)) + 1 - self._at)

    def _grow(self) -> None:
        held = len(self._held)
        if held >= MAX_HEADER_BYTES:
            raise Corrupt(f"{self._file}: its pickles have more than {MAX_HEADER_BYTES} bytes")
        taken = min(max(_FIRST_BYTES, held), self.size - held, MAX_HEADER_BYTES - held)
        self._held += self._file.bytes_at(held, taken, "pickle")
