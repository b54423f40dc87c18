"""Tables as text, one row a line: word2vec's and fastText's (with a header), GloVe's (without), and lines of `key:value …`.

    [<rows> <values a row>\\n]<word> <value> <value> … <value>[ ][\\r]\\n
    <key>:<value> <value> … <value>[\\r]\\n

Words are bytes, kept as they are; those of GloVe may hold spaces. Values are decimal, and read as the nearest float32. Nothing
marks such a file: it is known by its first lines, which all have to be rows of one width with fractions in them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt, PenstockError, Unsupported

from ..files.mapped_file import MappedFile
from ..stored_checkpoint import StoredCheckpoint
from .word_records import BLOCK_BYTES, Bytes, Spans, WordRecords, word_sources
from .word_spans import COMPLETE, copy_values, skip_lines, split_lines

_HEADER = re.compile(rb"(\d{1,18}) (\d{1,9}) ?\r?\n")
_HEAD_BYTES = 1 << 16
_HEAD_LINES = 64
_SPACE, _COLON = 32, 58
_FRACTION = re.compile(rb"[.eE]|nan|inf", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TextLayout:
    """`lines_before`: those of the header."""

    width: int
    mark: int
    lines_before: int

    def place(self, record: int) -> str:
        return f"line {record + 1 + self.lines_before}"

    def skip(self, block: Bytes, last: bool, count: int) -> tuple[int, int]:
        passed, taken = skip_lines(block, last, count)
        return int(passed), int(taken)

    def split(self, block: Bytes, last: bool, spans: Spans) -> tuple[int, int, int]:
        count, taken, fault = split_lines(block, last, self.width, self.mark, spans)
        return int(count), int(taken), int(fault)

    def vectors(self, block: Bytes, spans: Spans, out: NDArray[np.float32]) -> int:
        """The library's parser rounds every decimal to the nearest float32."""
        offsets = np.empty(len(spans) * self.width + 1, np.int32)
        data = np.empty(int((spans[:, 3] - spans[:, 2]).sum()), np.uint8)
        copy_values(block, spans, data, offsets)
        values = pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
        try:
            out[:] = values.cast(pa.float32()).to_numpy().reshape(out.shape)
        except pa.ArrowInvalid:
            return next(row for row in range(len(spans)) if not _numbers(values.slice(row * self.width, self.width)))
        return len(spans)


@dataclass(frozen=True, slots=True)
class _Shape:
    layout: TextLayout
    first: int
    rows: int | None


def is_text_table(path: Path, head: bytes) -> bool:
    if not head or min(head) < 9 or path.is_dir():
        return False
    try:
        file = MappedFile(path)
    except PenstockError:
        return False
    try:
        return _shape_of(file) is not None
    except PenstockError:
        return False
    finally:
        file.close()


def open_text_table(path: Path) -> StoredCheckpoint:
    """`keys` (texts) and `rows`. Without a header the rows are counted in one pass. `Corrupt` names the line."""
    file = MappedFile(path)
    try:
        shape = _shape_of(file)
        if shape is None:
            raise Unsupported(f"{file}: no table of words and vectors")
        width, room = shape.layout.width, file.size - shape.first
        if shape.rows is not None and shape.rows * (2 * width + 2) > room + 1:
            raise Corrupt(f"{file}: {shape.rows} rows of {width} values in {room} bytes")
        records = WordRecords(file, shape.layout, first=shape.first, count=shape.rows)
        return StoredCheckpoint("text table", word_sources(records), [file])
    except BaseException:
        file.close()
        raise


def _shape_of(file: MappedFile) -> _Shape | None:
    """What the first lines say; None when they are no table."""
    for limit in (_HEAD_BYTES, BLOCK_BYTES):
        head = file.bytes_at(0, min(limit, file.size), "head")
        header = _HEADER.match(head)
        first = header.end() if header else 0
        lines = head[first:].split(b"\n", _HEAD_LINES)
        complete = lines if len(head) == file.size else lines[:-1]
        complete = [line for line in complete[:_HEAD_LINES] if line]
        if complete:
            break
    if not complete:
        return None
    if header and int(header[1]) and int(header[2]):
        layout = TextLayout(int(header[2]), _SPACE, 1)
        if _reads(layout, complete[:1]):
            return _Shape(layout, first, int(header[1]))
    if first:
        complete = [head[: first - 1], *complete]
    return _without_header(complete)


def _without_header(lines: list[bytes]) -> _Shape | None:
    """At least two rows, of at least two values each, with fractions: anything less may be any text with numbers in it."""
    behind = [_values(line.rpartition(b":")[2]) for line in lines]
    colons = all(b":" in line[1:] and _is_number(values[0]) for line, values in zip(lines, behind, strict=True))
    if colons and any(_FRACTION.search(values[0]) for values in behind):
        layout = TextLayout(len(behind[0]), _COLON, 0)
    else:
        layout = TextLayout(len(_values(lines[0])) - 1, _SPACE, 0)
    if len(lines) < 2 or layout.width < 2 or not all(_FRACTION.search(line) for line in lines) or not _reads(layout, lines):
        return None
    return _Shape(layout, 0, None)


def _values(line: bytes) -> list[bytes]:
    return line.removesuffix(b"\r").removesuffix(b" ").split(b" ")


def _reads(layout: TextLayout, lines: list[bytes]) -> bool:
    """Whether all of them are rows of that layout."""
    block = np.frombuffer(b"\n".join(lines), np.uint8)
    spans = np.empty((len(lines), 4), np.int64)
    count, _, fault = layout.split(block, True, spans)
    if fault != COMPLETE or count != len(lines) or layout.width * len(lines) > len(block):
        return False
    if (block < 9).any():
        return False
    return layout.vectors(block, spans, np.empty((count, layout.width), np.float32)) == count


def _is_number(value: bytes) -> bool:
    return _numbers(pa.array([value], pa.binary()).view(pa.string()))


def _numbers(values: pa.StringArray) -> bool:
    try:
        values.cast(pa.float32())
    except pa.ArrowInvalid:
        return False
    return True
