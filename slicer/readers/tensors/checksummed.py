"""A stored tensor with a CRC-32C: verified whenever all of it is read. Knows no format."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..checkpoint import Array, TensorInfo
from .elements import bytes_of, storage_dtype
from .running_checksum import RunningChecksum
from .strided import StridedTensor

_CHUNK = 1 << 26


class ChecksummedTensor:
    """`tensor` is in C order; the checksum is that of its bytes as they are stored. `read` and `blocks` verify it, and so does
    `read_into` with the range that completes ascending ones from the first row to the last. `rows` gives views of the file,
    which it does not read: nothing is verified there."""

    __slots__ = ("_running", "_stated", "_tensor", "info")

    def __init__(self, tensor: StridedTensor, checksum: int) -> None:
        self.info: TensorInfo = tensor.info
        self._tensor, self._stated = tensor, checksum
        self._running = self._checksum()

    def rows(self, start: int, stop: int) -> Array:
        return self._tensor.rows(start, stop)

    def read(self) -> Array:
        running = self._checksum()
        for at in range(0, self.info.nbytes, _CHUNK):
            running.add(at, self._stored(at, min(_CHUNK, self.info.nbytes - at)))
        return self._tensor.read()

    def read_into(self, start: int, out: Array) -> None:
        self._tensor.read_into(start, out)
        if not out.size:
            return
        row_bytes = self.info.nbytes // self.info.shape[0]
        at = start * row_bytes
        if self._running.follows(at):
            as_stored = not self._tensor.big_endian and out.dtype == storage_dtype(self.info.dtype)
            self._running.add(at, bytes_of(out) if as_stored else self._stored(at, len(out) * row_bytes))

    def blocks(self, limit_bytes: int) -> Iterator[Array]:
        running, at = self._checksum(), 0
        for block in self._tensor.blocks(limit_bytes):
            running.add(at, bytes_of(block.byteswap() if self._tensor.big_endian else block))
            at += block.nbytes
            yield block

    def _checksum(self) -> RunningChecksum:
        return RunningChecksum(self._stated, self.info.nbytes, f"{self._tensor.file}: tensor {self.info.name}")

    def _stored(self, at: int, nbytes: int) -> memoryview:
        return self._tensor.file.view(self._tensor.offset + at, np.dtype(np.uint8), (nbytes,)).data
