"""Tables dumped as raw files without a header: keys, rows, and maybe more beside them, in one part or in one for each rank.

    keys     int64 (or another integer), one for each row
    rows     float32 (or float16), row after row: how long one is, the sizes of the two files say
    beside   one element or one row for each key: scores, slots, the optimizer's state

Nothing marks such a file: only sizes that agree tell a whole dump from a torn one. Knows no framework's file names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from penstock.pipeline.core.errors import Corrupt, Refused

from ..checkpoint import Role, TensorInfo, TensorSource
from ..files.mapped_file import MappedFile
from ..tensors.elements import element_bytes, tensor_bytes
from ..tensors.joined import concatenated
from ..tensors.strided import StridedTensor

MAX_FILES = 65_536
"""Of one dump."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawColumn:
    """A file of every part: one element a key (`dimensions` 1), or one row a key, of `width` elements where that is known."""

    name: str
    dtype: str
    role: Role
    dimensions: Literal[1, 2] = 2
    width: int | None = None


KEYS = RawColumn(name="keys", dtype="int64", role="other", dimensions=1)
ROWS = RawColumn(name="rows", dtype="float32", role="embedding")


def raw_table(
    table: str, columns: Sequence[RawColumn], parts: Sequence[Sequence[MappedFile]], *, head_bytes: int = 0
) -> list[TensorSource]:
    """One tensor `<table>/<column>` a column, just `<column>` where `table` is "", the parts one after the other. A part's files
    are in the order of the columns, keys first, and each begins with `head_bytes` that are not the table's. `Corrupt` names the
    file whose size does not fit."""
    counts = [_count(part[0], columns[0], head_bytes) for part in parts]
    found: list[TensorSource] = []
    for at, column in enumerate(columns):
        files = [part[at] for part in parts]
        width = 1 if column.dimensions == 1 else _width(files, counts, column, head_bytes)
        name = f"{table}/{column.name}" if table else column.name
        pieces: list[TensorSource] = []
        for file, count in zip(files, counts, strict=True):
            expected = count * width * element_bytes(column.dtype)
            if file.size - head_bytes != expected:
                raise Corrupt(f"{file}: {file.size - head_bytes} bytes of {column.name}, not {expected} for {count} keys")
            pieces.append(StridedTensor(_info(name, column, count, width), file, head_bytes))
        found.append(concatenated(name, pieces, str(files[0].path.parent), role=column.role))
    return found


def numbered(found: Mapping[int, T], first: int, count: int, what: str) -> list[T]:
    """The parts `first` to `first + count - 1` in order. `Corrupt` names the one that is missing, or is one too many."""
    for at, part in enumerate(sorted(found)):
        if part != first + at or at >= count:
            missing = part >= first + at and at < count
            raise Corrupt(f"{what}: part {first + at} of {count} is missing" if missing else f"{what}: part {part} of {count}")
    if len(found) != count:
        raise Corrupt(f"{what}: part {first + len(found)} of {count} is missing")
    return [found[part] for part in sorted(found)]


def check_file_count(count: int, what: object) -> None:
    if count > MAX_FILES:
        raise Refused(f"{what}: a dump of {count} files, at most {MAX_FILES} are read")


def _count(keys: MappedFile, column: RawColumn, head_bytes: int) -> int:
    count, rest = divmod(keys.size - head_bytes, element_bytes(column.dtype))
    if rest or count < 0:
        raise Corrupt(f"{keys}: {keys.size} bytes are no list of {column.dtype}" + f" behind {head_bytes}" * bool(head_bytes))
    return count


def _width(files: Sequence[MappedFile], counts: Sequence[int], column: RawColumn, head_bytes: int) -> int:
    """Elements a row, from the first part that has rows; 0 where no part has."""
    if column.width is not None:
        return column.width
    for file, count in zip(files, counts, strict=True):
        if count:
            width, rest = divmod(file.size - head_bytes, count * element_bytes(column.dtype))
            if rest or width < 1:
                raise Corrupt(f"{file}: {file.size - head_bytes} bytes are no {count} rows of {column.dtype}, one for each key")
            return width
    return 0


def _info(name: str, column: RawColumn, rows: int, width: int) -> TensorInfo:
    shape = (rows,) if column.dimensions == 1 else (rows, width)
    return TensorInfo(
        name=name, shape=shape, dtype=column.dtype, role=column.role, nbytes=tensor_bytes(shape, column.dtype, name)
    )
