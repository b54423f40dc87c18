"""word2vec's binary format: a line of text, then for each word its bytes, a space and its vector.

    <rows> <values a row>\\n, then as often as there are rows:  [\\n]<word> <float32, little-endian, × values>

The original ends each with a newline, gensim does not. Words are bytes, kept as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt, PenstockError, Unsupported

from ..files.mapped_file import MappedFile
from ..stored_checkpoint import StoredCheckpoint
from ..tensors.elements import bytes_of
from .word_records import BLOCK_BYTES, Bytes, Spans, WordRecords, word_sources
from .word_spans import COMPLETE, MAX_WORD_BYTES, copy_spans, split_binary

_HEADER = re.compile(rb"(\d{1,18}) (\d{1,9})\n")
_SPANS = 4096
_WIDEST = (BLOCK_BYTES - MAX_WORD_BYTES - 2) // 4


@dataclass(frozen=True, slots=True)
class BinaryLayout:
    width: int

    def place(self, record: int) -> str:
        return f"record {record}"

    def skip(self, block: Bytes, last: bool, count: int) -> tuple[int, int]:
        passed = taken = 0
        spans = np.empty((min(count, _SPANS), 4), np.int64)
        while passed < count:
            found, more, _ = self.split(block[taken:], last, spans[: count - passed])
            if not found:
                break
            passed, taken = passed + found, taken + more
        return passed, taken

    def split(self, block: Bytes, last: bool, spans: Spans) -> tuple[int, int, int]:
        count, taken, fault = split_binary(block, self.width, spans)
        return int(count), int(taken), int(fault)

    def vectors(self, block: Bytes, spans: Spans, out: NDArray[np.float32]) -> int:
        copy_spans(block, spans[:, 2], spans[:, 3], np.frombuffer(bytes_of(out), np.uint8), np.empty(len(spans) + 1, np.int64))
        return len(spans)


def is_word2vec_binary(path: Path, head: bytes) -> bool:
    if not re.match(rb"\d{1,18}( |\d)", head):
        return False
    try:
        file = MappedFile(path)
    except PenstockError:
        return False
    try:
        return _header_of(file) is not None
    except PenstockError:
        return False
    finally:
        file.close()


def open_word2vec_binary(path: Path) -> StoredCheckpoint:
    """`keys` (texts) and `rows`. `Corrupt` names the record that is broken."""
    file = MappedFile(path)
    try:
        header = _header_of(file)
        if header is None:
            raise Unsupported(f"{file}: no word2vec file")
        rows, width, first = header
        room = file.size - first
        if rows * (4 * width + 2) > room:
            raise Corrupt(f"{file}: {rows} rows of {width} values in {room} bytes")
        records = WordRecords(file, BinaryLayout(width), first=first, count=rows)
        return StoredCheckpoint("word2vec", word_sources(records), [file])
    except BaseException:
        file.close()
        raise


def _header_of(file: MappedFile) -> tuple[int, int, int] | None:
    """Rows, values of each, and where the first begins. None where what follows is no word in UTF-8 with finite values that are
    not text themselves."""
    head = file.bytes_at(0, min(BLOCK_BYTES, file.size), "head")
    header = _HEADER.match(head)
    if header is None or not int(header[1]) or not 1 <= int(header[2]) <= _WIDEST:
        return None
    rows, width, first = int(header[1]), int(header[2]), header.end()
    spans = np.empty((1, 4), np.int64)
    count, _, fault = split_binary(np.frombuffer(head, np.uint8)[first:], width, spans)
    if not count or fault != COMPLETE:
        return None
    word, values = (head[first + begin : first + end] for begin, end in (spans[0, :2], spans[0, 2:]))
    try:
        readable = word.decode("utf-8").isprintable()
    except UnicodeDecodeError:
        return None
    is_text = all(9 <= byte < 127 for byte in values)
    return (rows, width, first) if readable and not is_text and np.isfinite(np.frombuffer(values, "<f4")).all() else None
