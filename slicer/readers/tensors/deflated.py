"""A tensor in a deflated zip member: inflated in file order, in bounded memory. Knows no more of numpy's format than an offset.

There is no way to its middle but from its beginning: ascending ranges go on where the last one ended, others start again.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from penstock.pipeline.core.errors import Corrupt

from ..checkpoint import Array, TensorInfo
from ..files.mapped_file import MappedFile
from ..files.zip_archive import Member
from .elements import bytes_of, check_buffer, check_range, convert_into, storage_dtype

_CHUNK = 1 << 18


class Inflation:
    """A member's bytes from its beginning on. What comes out is counted and, at the end, checked against size and checksum."""

    __slots__ = ("_crc", "_file", "_inflator", "_member", "_taken", "position")

    def __init__(self, file: MappedFile, member: Member) -> None:
        self._file, self._member = file, member
        self._inflator = zlib.decompressobj(-zlib.MAX_WBITS)
        self._taken = self._crc = self.position = 0

    def take(self, limit: int) -> bytes:
        """The next bytes, 1 to `limit` of them; `Corrupt` when there are no more, or when they are not what was stored."""
        what = f"zip member {self._member.name!r}"
        while True:
            packed = self._inflator.unconsumed_tail
            if not packed and self._taken < self._member.packed_bytes:
                chunk = bytearray(min(_CHUNK, self._member.packed_bytes - self._taken))
                self._file.read_into(self._member.offset + self._taken, chunk, what)
                self._taken += len(chunk)
                packed = bytes(chunk)
            try:
                data = self._inflator.decompress(packed, limit)
            except zlib.error as error:
                raise Corrupt(f"{self._file}: {what}: {error}") from None
            self.position += len(data)
            self._crc = zlib.crc32(data, self._crc)
            if self.position > self._member.nbytes or (not data and (self._inflator.eof or not packed)):
                raise Corrupt(f"{self._file}: {what} does not inflate to its {self._member.nbytes} bytes")
            if self.position == self._member.nbytes and self._crc != self._member.crc:
                raise Corrupt(f"{self._file}: {what} differs from its checksum")
            if data:
                return data


class DeflatedTensor:
    """Elements in C order, from byte `header_bytes` of the inflated member to its end."""

    __slots__ = ("_big_endian", "_file", "_header_bytes", "_inflation", "_member", "info")

    def __init__(self, info: TensorInfo, file: MappedFile, member: Member, *, header_bytes: int, big_endian: bool) -> None:
        self.info = info
        self._file, self._member, self._header_bytes, self._big_endian = file, member, header_bytes, big_endian
        self._inflation = Inflation(file, member)

    def rows(self, start: int, stop: int) -> Array:
        check_range(self.info.shape, start, stop, self.info.name)
        found = np.empty((stop - start, *self.info.shape[1:]), storage_dtype(self.info.dtype))
        self._fill(start, found)
        return found

    def read(self) -> Array:
        if self.info.shape:
            return self.rows(0, self.info.shape[0])
        return next(self.blocks(self.info.nbytes)).reshape(())

    def read_into(self, start: int, out: Array) -> None:
        check_buffer(self.info.shape, start, out, self.info.name)
        if out.dtype == storage_dtype(self.info.dtype):
            self._fill(start, out)
            return
        row_bytes = self._row_bytes
        each = max(1, _CHUNK // max(1, row_bytes))
        for at in range(0, len(out), each):
            part = out[at : at + each]
            convert_into(self.rows(start + at, start + at + len(part)), self.info.dtype, part)

    def blocks(self, limit_bytes: int) -> Iterator[Array]:
        dtype = storage_dtype(self.info.dtype)
        each = max(1, limit_bytes // dtype.itemsize)
        for at in range(0, self.info.nbytes, each * dtype.itemsize):
            block = np.empty(min(each, (self.info.nbytes - at) // dtype.itemsize), dtype)
            self._fill_bytes(at, block)
            yield block

    @property
    def _row_bytes(self) -> int:
        return self.info.nbytes // self.info.shape[0] if self.info.nbytes else 0

    def _fill(self, start: int, out: Array) -> None:
        if out.size:
            self._fill_bytes(start * self._row_bytes, out)

    def _fill_bytes(self, at: int, out: Array) -> None:
        """Bytes from `at` of the tensor on."""
        goal = self._header_bytes + at
        if goal < self._inflation.position:
            self._inflation = Inflation(self._file, self._member)
        while self._inflation.position < goal:
            self._inflation.take(min(_CHUNK, goal - self._inflation.position))
        rest = bytes_of(out)
        while rest:
            data = self._inflation.take(min(_CHUNK, len(rest)))
            rest[: len(data)] = data
            rest = rest[len(data) :]
        if self._big_endian:
            out.byteswap(inplace=True)
