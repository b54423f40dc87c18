"""What SparseOperationKit's `sok.dump` writes: a file of keys and one of rows for each variable, and one for each slot.

    <variable>-key                   head, then int64 (or another integer), one a row
    <variable>-weight                head, then float32 (or another float), row after row
    <variable>-<optimizer>-<slot>    head, then float32 (or another float), row after row, in the order of the keys

    the head, 296 bytes              256 the variable's name, which all versions leave empty; uint32 kind {0 keys, 1 rows,
                                     2 slot}; 32 the slot's name; uint32 type {0 int32, 1 int64, 2 uint32, 3 uint64,
                                     4 float16, 5 float32, 6 float64}

Names are filled up with spaces. The numbers of the head are big-endian, what follows is little-endian. In the name of a file
every punctuation mark of the variable's name has become "_": "user:0" is `user_0`. (`dump_load.py` of NVIDIA-Merlin/HugeCTR.)
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from penstock.pipeline.core.errors import Corrupt, PenstockError, Unsupported

from ..checkpoint import Role, TensorSource
from ..files.listing import files_in
from ..files.mapped_file import MappedFile
from ..stored_checkpoint import StoredCheckpoint
from .raw_tables import RawColumn, check_file_count, raw_table

_NAME = re.compile(r"(?P<table>[^-]+)-(?P<column>key|weight|(SGD|Adamax|Adadelta|Adagrad|Ftrl|Adam)-.+)")
_HEAD = struct.Struct(">256sI32sI")
_NO_NAME = b" " * 32
_KEYS, _ROWS, _SLOT = range(3)
_INTEGERS = {0: "int32", 1: "int64", 2: "uint32", 3: "uint64"}
_FLOATS = {4: "float16", 5: "float32", 6: "float64"}


def is_sok(path: Path, head: bytes) -> bool:
    return any(_begins_with_keys(path / name) for name in files_in(path) if name.endswith("-key") and _NAME.fullmatch(name))


def open_sok(path: Path) -> StoredCheckpoint:
    """`<variable>/keys`, `<variable>/rows` and `<variable>/<optimizer>-<slot>`. `Corrupt` names the file that is missing,
    or whose head or size does not fit."""
    tables: dict[str, list[str]] = {}
    for name in files_in(path):
        match = _NAME.fullmatch(name)
        if match:
            tables.setdefault(match["table"], []).append(match["column"])
    check_file_count(sum(map(len, tables.values())), path)
    files: list[MappedFile] = []
    try:
        sources: list[TensorSource] = []
        for table, found in tables.items():
            for column in ("key", "weight"):
                if column not in found:
                    raise Corrupt(f"{path}: beside {table}-{found[0]} there is no {table}-{column}")
            slots = [each for each in found if each not in {"key", "weight"}]
            part = [_opened(path / f"{table}-{column}", files) for column in ("key", "weight", *slots)]
            columns = [
                _column(part[0], "keys", _KEYS, "other"),
                _column(part[1], "rows", _ROWS, "embedding"),
                *(_column(file, slot, _SLOT, "optimizer") for file, slot in zip(part[2:], slots, strict=True)),
            ]
            sources += raw_table(table, columns, [part], head_bytes=_HEAD.size)
        return StoredCheckpoint("sok", sources, files)
    except BaseException:
        for file in files:
            file.close()
        raise


def _opened(path: Path, files: list[MappedFile]) -> MappedFile:
    files.append(MappedFile(path))
    return files[-1]


def _column(file: MappedFile, name: str, kind: int, role: Role) -> RawColumn:
    _, said, _, number = _HEAD.unpack(file.bytes_at(0, _HEAD.size, "head"))
    if said != kind:
        raise Corrupt(f"{file}: its head says kind {said}, not {kind}")
    types = _INTEGERS if kind == _KEYS else _FLOATS
    if number not in types:
        known = ", ".join(f"{each} {dtype}" for each, dtype in types.items())
        raise Unsupported(f"{file}: its head says type {number}; known of {name} are {known}")
    return RawColumn(name=name, dtype=types[number], role=role, dimensions=1 if kind == _KEYS else 2)


def _begins_with_keys(path: Path) -> bool:
    try:
        file = MappedFile(path)
    except PenstockError:
        return False
    try:
        _, kind, slot, number = _HEAD.unpack(file.bytes_at(0, _HEAD.size, "head"))
        return kind == _KEYS and slot == _NO_NAME and number in _INTEGERS
    except PenstockError:
        return False
    finally:
        file.close()
