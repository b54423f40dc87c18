"""What HugeCTR dumps: a folder of raw files for each table, or an embedding collection.

    <model><n>_sparse_<i>.model/key          int64, one a row
    <model><n>_sparse_<i>.model/emb_vector   float32, row after row
    <model><n>_sparse_<i>.model/slot_id      uint64, one a row; where slots are kept apart
    <model>_dense_<i>.model       float32: the dense weights, one layer after the other, without names
    <model>_opt_dense_<i>.model, <model>_opt_sparse_<i>.model   the optimizer's state as it lay in memory

    embedding_collection_<i>/meta_data   int32[5] {tables n, key type, value type, -, -}, int32 id[n],
                                         uint64 rows[n], int32 dim[n]
    embedding_collection_<i>/key<id>     128 bytes {int32 1, int32 id, zeros}, then uint32 (key type 0) or int64 (1)
    embedding_collection_<i>/weight<id>  128 bytes {int32 2, int32 id, zeros}, then float32 (value type 0) or float16 (1)

(HugeCTR's `sparse_embedding_functors` and `embedding_storage/weight_io`.) All of it is little-endian.
"""

from __future__ import annotations

import re
import struct
from os.path import isfile
from pathlib import Path

from penstock.pipeline.core.errors import Corrupt, Refused, Unsupported

from ..checkpoint import TensorInfo, TensorSource
from ..files.listing import files_in, folders_in
from ..files.mapped_file import MappedFile
from ..stored_checkpoint import StoredCheckpoint
from ..tensors.elements import element_bytes
from ..tensors.strided import StridedTensor
from .raw_tables import KEYS, ROWS, RawColumn, check_file_count, raw_table

MAX_TABLES = 100_000
_SLOTS = RawColumn(name="slots", dtype="uint64", role="other", dimensions=1)
_HEAD = struct.Struct("<5i")
_FILE_HEAD = struct.Struct("<2i120s")
_KEY_TYPES = {0: "uint32", 1: "int64"}
_VALUE_TYPES = {0: "float32", 1: "float16"}
_MODEL = re.compile(r"(?P<name>.+_(?P<kind>opt_dense|opt_sparse|dense))_\d+\.model")
_TABLE = re.compile(r"(?P<name>.+_sparse)_\d+\.model")


def is_hugectr(path: Path, head: bytes) -> bool:
    return any(_is_table(each) or _is_collection(each) for each in _with_folders_in(path))


def open_hugectr(path: Path) -> StoredCheckpoint:
    """A folder of one table, an embedding collection, or a folder of such folders. Tables below the folder are called by their
    own folder's name, without the iteration; those of a collection are `table<id>`, and a folder that is the table gives it no
    name: what differs from one checkpoint to the next is no name for a config.

    `Refused`: two iterations in one folder."""
    files: list[MappedFile] = []
    try:
        _check_iterations(path)
        sources: list[TensorSource] = []
        for folder in _with_folders_in(path):
            if _is_table(folder):
                sources += _table(folder, "" if folder == path else _without_iteration(folder.name), files)
            elif _is_collection(folder):
                sources += _collection(folder, "" if folder == path else f"{folder.name}/", files)
        sources += _model_files(path, files)
        return StoredCheckpoint("hugectr", sources, files)
    except BaseException:
        for file in files:
            file.close()
        raise


def _with_folders_in(path: Path) -> list[Path]:
    return [path, *(path / name for name in folders_in(path))]


def _without_iteration(name: str) -> str:
    match = _TABLE.fullmatch(name) or _MODEL.fullmatch(name)
    return match["name"] if match else name


def _check_iterations(path: Path) -> None:
    seen: dict[str, str] = {}
    for name in [each for each in folders_in(path) if _is_table(path / each)] + files_in(path):
        other = seen.setdefault(_without_iteration(name), name)
        if other != name:
            hint = "give each iteration a folder of its own, or name the folder of one table"
            raise Refused(f"{path}: {other} and {name} are two iterations of one", hint=hint)


def _is_table(folder: Path) -> bool:
    return isfile(folder / "key") and isfile(folder / "emb_vector")


def _is_collection(folder: Path) -> bool:
    return isfile(folder / "meta_data") and any(re.fullmatch(r"weight\d+", name) for name in files_in(folder))


def _table(folder: Path, name: str, files: list[MappedFile]) -> list[TensorSource]:
    columns, names = [KEYS, ROWS], ["key", "emb_vector"]
    if isfile(folder / "slot_id"):
        columns, names = [*columns, _SLOTS], [*names, "slot_id"]
    part = [_opened(folder / each, files) for each in names]
    return raw_table(name, columns, [part])


def _collection(folder: Path, prefix: str, files: list[MappedFile]) -> list[TensorSource]:
    meta = MappedFile(folder / "meta_data")
    try:
        data = meta.bytes_at(0, meta.size, "metadata")
    finally:
        meta.close()
    if len(data) < _HEAD.size:
        raise Corrupt(f"{meta}: metadata of {len(data)} bytes, its head has {_HEAD.size}")
    tables, key_type, value_type, _, _ = _HEAD.unpack_from(data)
    if key_type not in _KEY_TYPES or value_type not in _VALUE_TYPES:
        raise Unsupported(f"{meta}: key type {key_type}, value type {value_type}; 0 and 1 are known of each")
    layout = struct.Struct(f"<{tables}i{tables}Q{tables}i") if 0 < tables <= MAX_TABLES else None
    if layout is None or _HEAD.size + layout.size != len(data):
        raise Corrupt(f"{meta}: {len(data)} bytes are no metadata of {tables} tables")
    check_file_count(2 * tables, meta)
    fields = layout.unpack_from(data, _HEAD.size)
    found: list[TensorSource] = []
    for table, rows, width in zip(fields[:tables], fields[tables : 2 * tables], fields[2 * tables :], strict=True):
        if width < 1:
            raise Corrupt(f"{meta}: table {table} has rows of {width} elements")
        key = RawColumn(name="keys", dtype=_KEY_TYPES[key_type], role="other", dimensions=1)
        row = RawColumn(name="rows", dtype=_VALUE_TYPES[value_type], role="embedding", width=width)
        part = [_headed(folder / f"key{table}", 1, table, files), _headed(folder / f"weight{table}", 2, table, files)]
        if part[0].size - _FILE_HEAD.size != rows * element_bytes(key.dtype):
            raise Corrupt(f"{part[0]}: {part[0].size} bytes, not {rows} keys of {key.dtype} as its metadata says")
        found += raw_table(f"{prefix}table{table}", [key, row], [part], head_bytes=_FILE_HEAD.size)
    return found


def _headed(path: Path, kind: int, table: int, files: list[MappedFile]) -> MappedFile:
    file = _opened(path, files)
    head = _FILE_HEAD.unpack(file.bytes_at(0, _FILE_HEAD.size, "head"))
    if head[:2] != (kind, table):
        raise Corrupt(f"{file}: its head says kind {head[0]} of table {head[1]}, not {kind} of {table}")
    return file


def _model_files(folder: Path, files: list[MappedFile]) -> list[TensorSource]:
    found: list[TensorSource] = []
    for name in files_in(folder):
        match = _MODEL.fullmatch(name)
        if match:
            file, of = _opened(folder / name, files), match["name"]
            if match["kind"] == "dense" and file.size % 4 == 0:
                info = TensorInfo(name=of, shape=(file.size // 4,), dtype="float32", role="dense", nbytes=file.size)
            else:
                # An optimizer's state has as many types as there are optimizers: it is kept as bytes.
                info = TensorInfo(name=of, shape=(file.size,), dtype="uint8", role="optimizer", nbytes=file.size)
            found.append(StridedTensor(info, file, 0))
    return found


def _opened(path: Path, files: list[MappedFile]) -> MappedFile:
    check_file_count(len(files) + 1, path.parent)
    files.append(MappedFile(path))
    return files[-1]
