"""Protocol buffers without a schema: the fields of a message, one after the other, and where each lies. Knows no message.

    tag (varint: field number << 3 | kind) · payload: a varint (0) · 8 bytes (1) · length (varint) and bytes (2) · 4 bytes (5)

Payloads are located, never copied, so that a tensor of gigabytes inside a message can be mapped where it lies. Of a file only a
small window is in memory. Groups (kinds 3 and 4, gone since proto3) are refused. Repeated numbers may be packed: see `numbers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt

from .mapped_file import MappedFile

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_FIELDS = 20_000_000
"""Of all messages of one source together."""
MAX_DEPTH = 100
_MAX_NUMBER = 2**29 - 1
_VARINT_BYTES = 10
_WINDOW_BYTES = 1 << 16


class Field(NamedTuple):
    """`value` is the number itself (unsigned, 64 or 32 bits), of `BYTES` their count. `offset` is where the payload begins,
    counted from the beginning of the source."""

    number: int
    kind: int
    value: int
    offset: int


class Source:
    """Where messages lie: a file, or bytes in memory. `str()` of it names it in errors. Not for two threads at once."""

    __slots__ = ("_at", "_fields", "_file", "_name", "_window", "size")

    def __init__(self, data: MappedFile | bytes, name: str = "") -> None:
        self._name, self._at, self._fields = name or str(data), 0, 0
        self._file = data if isinstance(data, MappedFile) else None
        self._window = b"" if isinstance(data, MappedFile) else data
        self.size = data.size if isinstance(data, MappedFile) else len(data)

    def __str__(self) -> str:
        return self._name

    def message(self, start: int = 0, stop: int | None = None) -> Message:
        """What lies in [start, stop). `Corrupt` when that leaves the source."""
        stop = self.size if stop is None else stop
        if not 0 <= start <= stop <= self.size:
            raise Corrupt(f"{self}: a message at {start}, {stop - start} bytes, leaves its {self.size} bytes")
        return Message(self, start, stop)

    def small(self, offset: int, length: int) -> bytes:
        """At most a window of bytes, known to lie in the source."""
        begin = offset - self._at
        if begin < 0 or begin + length > len(self._window):
            if self._file is None:
                raise Corrupt(f"{self}: {length} bytes at {offset} leave its {self.size} bytes")
            take = min(_WINDOW_BYTES, self.size - offset)
            self._window, self._at, begin = self._file.bytes_at(offset, take, "message"), offset, 0
        return self._window[begin : begin + length]

    def data(self, offset: int, length: int) -> bytes:
        if self._file is None or length <= _WINDOW_BYTES:
            return self.small(offset, length)
        return self._file.bytes_at(offset, length, "field")

    def varint(self, at: int, stop: int) -> tuple[int, int]:
        """The number at `at`, which ends before `stop`, and where the next byte lies."""
        begin = at - self._at
        if at < stop and 0 <= begin < len(self._window) and self._window[begin] < 0x80:
            return self._window[begin], at + 1
        value = 0
        for index, byte in enumerate(self.small(at, min(_VARINT_BYTES, stop - at))):
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if value >= 1 << 64:
                    break
                return value, at + index + 1
        raise Corrupt(f"{self}: no number at {at}: it does not end, or is beyond 64 bits")

    def count_field(self) -> None:
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise Corrupt(f"{self}: more than {MAX_FIELDS} fields")


@dataclass(frozen=True, slots=True)
class Message:
    """A message that lies in [start, stop) of a source."""

    source: Source
    start: int
    stop: int
    depth: int = 0

    def fields(self) -> Iterator[Field]:
        """In the order of the message. `Corrupt` for one that leaves it, and for what is no field."""
        at = self.start
        while at < self.stop:
            self.source.count_field()
            tag, offset = self.source.varint(at, self.stop)
            number, kind = tag >> 3, tag & 7
            if not 1 <= number <= _MAX_NUMBER:
                raise Corrupt(f"{self.source}: field number {number} at {at}")
            if kind == VARINT:
                value, after = self.source.varint(offset, self.stop)
            elif kind == BYTES:
                value, offset = self.source.varint(offset, self.stop)
                after = offset + value
            elif kind in {FIXED32, FIXED64}:
                after = offset + (8 if kind == FIXED64 else 4)
                value = int.from_bytes(self.source.small(offset, after - offset), "little") if after <= self.stop else 0
            else:
                raise Corrupt(f"{self.source}: field {number} at {at} is of kind {kind}")
            if after > self.stop:
                raise Corrupt(f"{self.source}: field {number} at {at} ends at {after}, its message at {self.stop}")
            yield Field(number, kind, value, offset)
            at = after

    def child(self, field: Field) -> Message:
        """The message that `field`, of this one, holds. `Corrupt`: it holds none, or messages lie too deep in each other."""
        if self.depth >= MAX_DEPTH:
            raise Corrupt(f"{self.source}: messages {MAX_DEPTH} deep at {field.offset}")
        self._expect(field, BYTES)
        return Message(self.source, field.offset, field.offset + field.value, self.depth + 1)

    def data(self, field: Field) -> bytes:
        """The bytes of `field`; `Corrupt` for more than `mapped_file.MAX_HEADER_BYTES` in a file."""
        self._expect(field, BYTES)
        return self.source.data(field.offset, field.value)

    def text(self, field: Field) -> str:
        try:
            return self.data(field).decode("utf-8")
        except UnicodeDecodeError:
            raise Corrupt(f"{self.source}: field {field.number} at {field.offset} is no text") from None

    def integer(self, field: Field) -> int:
        """An int32, int64, bool or enum."""
        self._expect(field, VARINT)
        return signed(field.value)

    def fixed32(self, field: Field) -> int:
        self._expect(field, FIXED32)
        return field.value

    def numbers(self, field: Field) -> list[int]:
        """A repeated int32, int64, bool or enum, packed or one of its single values."""
        if field.kind == VARINT:
            return [signed(field.value)]
        values: list[int] = decode_varints(self.data(field), f"{self.source}: field {field.number}").view(np.int64).tolist()
        return values

    def _expect(self, field: Field, kind: int) -> None:
        if field.kind != kind:
            raise Corrupt(f"{self.source}: field {field.number} at {field.offset} is of kind {field.kind}, not {kind}")


def signed(value: int) -> int:
    """A varint as the two's complement number that it is in fields of signed types."""
    return value - (1 << 64) if value >= 1 << 63 else value


def decode_varints(data: bytes | memoryview | NDArray[np.uint8], what: str) -> NDArray[np.uint64]:
    """Numbers that lie one after the other, as packed fields have them. Needs about 40 times the memory of `data`."""
    raw = np.frombuffer(data, np.uint8)
    last = np.flatnonzero(raw < 0x80)
    if len(raw) and (not len(last) or last[-1] != len(raw) - 1):
        raise Corrupt(f"{what}: its last number does not end")
    first = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
    lengths = last - first + 1
    if len(last) and (lengths.max() > _VARINT_BYTES or (raw[last[lengths == _VARINT_BYTES]] > 1).any()):
        raise Corrupt(f"{what}: a number is beyond 64 bits")
    found = np.zeros(len(last), np.uint64)
    for index in range(int(lengths.max(initial=0))):
        has = np.flatnonzero(lengths > index)
        found[has] |= (raw[first[has] + index] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * index)
    return found
