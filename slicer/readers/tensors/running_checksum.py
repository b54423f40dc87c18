"""The CRC-32C of bytes that are read piece by piece: verified when they were read in order, from the first to the last."""

from __future__ import annotations

from crc32c import crc32c

from penstock.pipeline.core.errors import Corrupt


class RunningChecksum:
    """Of `length` bytes after others whose checksum is `seed`. A piece out of order is passed over; one that begins at 0 begins
    anew."""

    __slots__ = ("_covered", "_crc", "_expected", "_length", "_seed", "_what")

    def __init__(self, expected: int, length: int, what: str, *, seed: int = 0) -> None:
        self._expected, self._length, self._what, self._seed = expected, length, what, seed
        self._covered, self._crc = 0, seed

    def follows(self, at: int) -> bool:
        """Whether a piece at `at` would count."""
        return at in {0, self._covered}

    def add(self, at: int, piece: bytes | memoryview) -> None:
        """`Corrupt` when this was the last piece, and the whole is not what was written."""
        if not self.follows(at):
            return
        if at == 0:
            self._covered, self._crc = 0, self._seed
        self._crc = crc32c(piece, self._crc)
        self._covered += memoryview(piece).nbytes
        if self._covered == self._length and self._crc != self._expected:
            raise Corrupt(f"{self._what} differs from its checksum")
