"""A tensor of strings in a TensorFlow bundle. Knows nothing of the index.

    length of each (varint64) … · masked CRC-32C of the lengths (4 bytes) · the bytes of each …

The checksum of the whole covers the lengths (as uint32, beyond that uint64), the stored checksum of theirs, and the bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from crc32c import crc32c
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt, InvalidInput

from ..checkpoint import Array, TensorInfo
from ..files.mapped_file import MappedFile
from ..files.wire import decode_varints
from ..tensors.elements import check_range
from ..tensors.running_checksum import RunningChecksum
from ..tensors.text_framing import HEAD_BYTES, framed
from .leveldb_table import masked, unmasked

_CHUNK = 1 << 16
"""Bytes of lengths that are decoded at a time."""
_CRC_BYTES = 4


class TextTensor:
    """Implements `TextSource`: where the texts lie is found with the first read, by one pass over their lengths, of which a mark
    is kept for every `_CHUNK` bytes. The checksum of the lengths is verified then; that of the whole by ranges that ascend from
    the first text to the last, and so by `blocks`."""

    __slots__ = ("_big_endian", "_count", "_file", "_marks", "_offset", "_running", "_size", "_stated", "_text_at", "info")

    def __init__(
        self, info: TensorInfo, file: MappedFile, offset: int, size: int, *, stated: int | None, big_endian: bool
    ) -> None:
        """`size` bytes from `offset` lie in the file; `stated` is the masked checksum, where there is one."""
        self.info = info
        self._file, self._offset, self._size, self._stated, self._big_endian = file, offset, size, stated, big_endian
        self._count = 1
        for extent in info.shape:
            self._count *= extent
        if self._count + _CRC_BYTES > size and (self._count or size):
            raise Corrupt(f"{self._what}: {self._count} texts in {size} bytes")
        self._marks: list[tuple[int, int, int]] = []
        self._text_at = 0
        self._running: RunningChecksum | None = None

    def texts(self, start: int, stop: int) -> pa.LargeBinaryArray:
        if len(self.info.shape) != 1:
            raise InvalidInput(f"tensor {self.info.name} is {self.info.dtype}{list(self.info.shape)}, no list of texts")
        check_range(self.info.shape, start, stop, self.info.name)
        lengths, at = self._lengths(start, stop)
        return _texts(lengths, self._read(at, int(lengths.sum())))

    def blocks(self, limit_bytes: int) -> Iterator[Array]:
        limit = max(limit_bytes, HEAD_BYTES)
        self._locate()
        for index, (first, _, _) in enumerate(self._marks[:-1]):
            lengths, at = self._lengths(first, self._marks[index + 1][0])
            ends = np.cumsum(lengths + HEAD_BYTES)
            begin = 0
            while begin < len(lengths):
                done = int(ends[begin - 1]) if begin else 0
                end = int(np.searchsorted(ends, done + limit, "right"))
                some = lengths[begin : max(end, begin + 1)]
                total = int(some.sum())
                if end > begin:
                    yield framed(_texts(some, self._read(at, total)))
                else:
                    yield from self._long(at, total, limit)
                begin, at = begin + len(some), at + total

    def _long(self, at: int, length: int, limit: int) -> Iterator[Array]:
        """One text that exceeds a block."""
        yield np.frombuffer(length.to_bytes(HEAD_BYTES, "little"), np.uint8)
        for done in range(0, length, limit):
            yield self._read(at + done, min(limit, length - done))

    def _read(self, at: int, nbytes: int) -> NDArray[np.uint8]:
        """Bytes of the texts, from `at` behind the beginning of the first."""
        data = np.empty(nbytes, np.uint8)
        self._file.read_into(self._text_at + at, data.data, f"tensor {self.info.name}")
        if self._running is not None:
            self._running.add(at, data.data)
        return data

    def _lengths(self, start: int, stop: int) -> tuple[NDArray[np.int64], int]:
        """The lengths of texts [start, stop), and where the first begins behind the first of all."""
        self._locate()
        found: list[NDArray[np.int64]] = []
        at = 0
        index = max(0, bisect_right(self._marks, start, key=lambda mark: mark[0]) - 1)
        while index + 1 < len(self._marks) and self._marks[index][0] < stop:
            (first, where, text), (after, end, text_end) = self._marks[index], self._marks[index + 1]
            raw = self._file.bytes_at(where, end - where, "lengths")
            lengths = decode_varints(raw, self._what).view(np.int64)
            if len(lengths) != after - first or int(lengths.sum()) != text_end - text:
                raise Corrupt(f"{self._what}: its lengths have changed since they were read")
            if not found:
                at = text + int(lengths[: start - first].sum())
            found.append(lengths[max(0, start - first) : stop - first])
            index += 1
        return np.concatenate(found) if found else np.zeros(0, np.int64), at

    def _locate(self) -> None:
        """Reads all lengths once: marks of (number of the text, where its length lies, where it lies among the texts)."""
        if self._marks:
            return
        marks, crc = [(0, self._offset, 0)], 0
        end = self._offset + max(0, self._size - _CRC_BYTES)
        while marks[-1][0] < self._count:
            done, at, text = marks[-1]
            raw = np.frombuffer(self._file.bytes_at(at, min(_CHUNK, end - at), "lengths"), np.uint8)
            lasts = np.flatnonzero(raw < 0x80)[: self._count - done]
            if not len(lasts):
                raise Corrupt(f"{self._what}: {self._count} texts, the lengths of {done} are there")
            lengths = decode_varints(raw[: lasts[-1] + 1], self._what)
            if lengths.max() > self._size:
                raise Corrupt(f"{self._what}: a text of {lengths.max()} bytes in {self._size}")
            crc = crc32c(self._as_summed(lengths), crc)
            marks.append((done + len(lengths), at + int(lasts[-1]) + 1, text + int(lengths.sum())))
        _, at, total = marks[-1]
        if self._size and at + _CRC_BYTES + total != self._offset + self._size:
            raise Corrupt(f"{self._what}: texts of {total} bytes do not fill the {self._size} bytes of the tensor")
        stored = self._file.bytes_at(at, _CRC_BYTES if self._size else 0, "checksum")
        if self._size and int.from_bytes(stored, "big" if self._big_endian else "little") != masked(crc):
            raise Corrupt(f"{self._what}: its lengths differ from their checksum")
        if self._stated is not None:
            self._running = RunningChecksum(unmasked(self._stated), total, self._what, seed=crc32c(stored, crc))
            if not total:
                self._running.add(0, b"")
        self._text_at = at + len(stored)
        self._marks = marks

    def _as_summed(self, lengths: NDArray[np.uint64]) -> bytes:
        """The bytes of the lengths that the checksum covers: the high half only where it is used."""
        order = ">" if self._big_endian else "<"
        halves = np.stack([lengths & np.uint64(0xFFFFFFFF), lengths >> np.uint64(32)], axis=1)
        used = np.stack([np.ones(len(lengths), bool), halves[:, 1] > 0], axis=1)
        if self._big_endian:
            halves, used = halves[:, ::-1], used[:, ::-1]
        summed: bytes = halves[used].astype(f"{order}u4").tobytes()
        return summed

    @property
    def _what(self) -> str:
        return f"{self._file}: tensor {self.info.name}"


def _texts(lengths: NDArray[np.int64], data: NDArray[np.uint8]) -> pa.LargeBinaryArray:
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(lengths), [None, pa.py_buffer(ends), pa.py_buffer(data)])
