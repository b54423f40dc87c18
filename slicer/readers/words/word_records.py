"""A file of records of any length, each a word and a vector, as two tensors: texts and rows, by range.

Where a record begins is found by going through those before it; a mark is kept for every 4096th, so that is done once. Ascending
ranges need no marks. Knows records only by their layout.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt

from ..checkpoint import Array, TensorInfo, TensorSource, TextSource
from ..files.mapped_file import MappedFile
from ..tensors.elements import TEXT, bytes_of, check_buffer, check_range, convert_into, tensor_bytes
from ..tensors.text_framing import framed
from .word_spans import COMPLETE, FAULTS, copy_spans

BLOCK_BYTES = 1 << 20
"""No record is longer."""
_EVERY = 4096
_SPANS = 1 << 14

Bytes = NDArray[np.uint8]
Spans = NDArray[np.int64]


class Layout(Protocol):
    """How records follow each other in a block of bytes that begins with one. `last`: the file ends with the block."""

    @property
    def width(self) -> int:
        """Values of every record."""
        ...

    def place(self, record: int) -> str:
        """What people call the record with that number."""
        ...

    def skip(self, block: Bytes, last: bool, count: int) -> tuple[int, int]:
        """How many complete records were passed, at most `count`, and how many bytes they take."""
        ...

    def split(self, block: Bytes, last: bool, spans: Spans) -> tuple[int, int, int]:
        """See `word_spans.split_lines`."""
        ...

    def vectors(self, block: Bytes, spans: Spans, out: NDArray[np.float32]) -> int:
        """Fills `out` (C order, [spans, width]); the number of the first span that holds no vector, or of spans."""
        ...


class WordRecords:
    """Not for two threads at once."""

    __slots__ = ("_buffer", "_first", "_last", "_marks", "count", "file", "layout")

    def __init__(self, file: MappedFile, layout: Layout, *, first: int, count: int | None) -> None:
        """The first record begins at byte `first`. `count` is what a header says, and is checked where the last record is read;
        None counts them, in one pass over the file."""
        self.file, self.layout, self._first = file, layout, first
        self._buffer = np.empty(min(BLOCK_BYTES, file.size), np.uint8)
        self._marks = array("q", [first])
        self._last = (0, first)
        self.count = self._extend_marks(None) if count is None else count

    def spans(self, start: int, stop: int) -> Iterator[tuple[int, Bytes, Spans]]:
        """The records [start, stop), some at a time: the number of the first, a block, and their spans in it, valid until the
        next. `Corrupt` names the record that breaks the layout."""
        record, at = start, self._offset_of(start)
        table = np.empty((min(_SPANS, stop - start), 4), np.int64)
        while record < stop:
            block, last = self._block(at)
            found, taken, fault = self.layout.split(block, last, table[: stop - record])
            if found:
                yield record, block, table[:found]
            record, at = record + found, at + taken
            self._last = (record, at)
            if fault != COMPLETE:
                raise self.corrupt(record, FAULTS[fault])
            if not found:
                raise self._cut(record, block, last)
        if record == self.count and self.file.bytes_at(at, min(2, self.file.size - at), "end") not in {b"", b"\n"}:
            raise Corrupt(f"{self.file}: more than the {self.count} records that its header says")

    def corrupt(self, record: int, why: str) -> Corrupt:
        return Corrupt(f"{self.file}: {self.layout.place(record)}: {why}")

    def _offset_of(self, record: int) -> int:
        """Where it begins: from the nearest mark before it, or from where reading ended last."""
        near, at = self._last
        if not 0 <= record - near < _EVERY:
            if record // _EVERY >= len(self._marks):
                self._extend_marks(record)
            near = record // _EVERY * _EVERY
            at = self._marks[record // _EVERY]
        while near < record:
            block, last = self._block(at)
            passed, taken = self.layout.skip(block, last, record - near)
            if not passed:
                raise self._cut(near, block, last)
            near, at = near + passed, at + taken
        return at

    def _extend_marks(self, upto: int | None) -> int:
        """Sets marks up to that of record `upto`, or to the end of the file: how many records there are until then."""
        within, at = 0, self._marks[-1]
        while at < self.file.size and (upto is None or upto // _EVERY >= len(self._marks)):
            block, last = self._block(at)
            taken = 0
            while True:
                passed, more = self.layout.skip(block[taken:], last, _EVERY - within)
                within, taken = within + passed, taken + more
                if within < _EVERY:
                    break
                self._marks.append(at + taken)
                within = 0
            if not taken:
                raise self._cut((len(self._marks) - 1) * _EVERY + within, block, last)
            at += taken
        found = (len(self._marks) - 1) * _EVERY + within
        if upto is not None and upto // _EVERY >= len(self._marks):
            raise self._cut(found, self._buffer[:0], last=True)
        return found

    def _block(self, at: int) -> tuple[Bytes, bool]:
        length = min(BLOCK_BYTES, self.file.size - at)
        block = self._buffer[:length]
        self.file.read_into(at, bytes_of(block), "records")
        return block, at + length == self.file.size

    def _cut(self, record: int, block: Bytes, last: bool) -> Corrupt:
        if last and len(block) < 2:
            return Corrupt(f"{self.file}: {record} records, not the {self.count} that its header says")
        return self.corrupt(record, "the file ends in it" if last else f"longer than {BLOCK_BYTES} bytes")


class Words:
    """Implements `TextSource`."""

    __slots__ = ("_records", "info")

    def __init__(self, name: str, records: WordRecords) -> None:
        self._records = records
        # How long the words are is known when they are read: until then, no more than the file.
        self.info = TensorInfo(name=name, shape=(records.count,), dtype=TEXT, role="other", nbytes=records.file.size)

    def texts(self, start: int, stop: int) -> pa.LargeBinaryArray:
        check_range(self.info.shape, start, stop, self.info.name)
        parts = [_words(block, spans) for _, block, spans in self._records.spans(start, stop)]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.large_binary())

    def blocks(self, limit_bytes: int) -> Iterator[Array]:
        for _, block, spans in self._records.spans(0, self.info.shape[0]):
            flat = framed(_words(block, spans))
            for at in range(0, len(flat), max(1, limit_bytes)):
                yield flat[at : at + max(1, limit_bytes)]


class WordVectors:
    """Implements `TensorSource`: float32[n, width]."""

    __slots__ = ("_records", "info")

    def __init__(self, name: str, records: WordRecords) -> None:
        self._records = records
        shape = (records.count, records.layout.width)
        nbytes = tensor_bytes(shape, "float32", f"{records.file}: {name}")
        self.info = TensorInfo(name=name, shape=shape, dtype="float32", role="embedding", nbytes=nbytes)

    def rows(self, start: int, stop: int) -> Array:
        check_range(self.info.shape, start, stop, self.info.name)
        found = np.empty((stop - start, *self.info.shape[1:]), np.float32)
        self._fill(start, found)
        return found

    def read(self) -> Array:
        return self.rows(0, self.info.shape[0])

    def read_into(self, start: int, out: Array) -> None:
        check_buffer(self.info.shape, start, out, self.info.name)
        if out.dtype == np.float32:
            self._fill(start, out)
        else:
            convert_into(self.rows(start, start + len(out)), self.info.dtype, out)

    def blocks(self, limit_bytes: int) -> Iterator[Array]:
        each = max(1, limit_bytes // 4)
        for first, block, spans in self._records.spans(0, self.info.shape[0]):
            vectors = np.empty((len(spans), self.info.shape[1]), np.float32)
            self._parse(first, block, spans, vectors)
            flat = vectors.reshape(-1)
            for at in range(0, flat.size, each):
                yield flat[at : at + each]

    def _fill(self, start: int, out: Array) -> None:
        for first, block, spans in self._records.spans(start, start + len(out)):
            self._parse(first, block, spans, out[first - start : first - start + len(spans)])

    def _parse(self, first: int, block: Bytes, spans: Spans, out: Array) -> None:
        parsed = self._records.layout.vectors(block, spans, out)
        if parsed < len(spans):
            raise self._records.corrupt(first + parsed, "a value that is no number")


def word_sources(records: WordRecords) -> list[TensorSource | TextSource]:
    """`keys` and `rows`: not after the file, whose name is another for each checkpoint."""
    return [Words("keys", records), WordVectors("rows", records)]


def _words(block: Bytes, spans: Spans) -> pa.LargeBinaryArray:
    offsets = np.empty(len(spans) + 1, np.int64)
    data = np.empty(int((spans[:, 1] - spans[:, 0]).sum()), np.uint8)
    copy_spans(block, spans[:, 0], spans[:, 1], data, offsets)
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(spans), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
