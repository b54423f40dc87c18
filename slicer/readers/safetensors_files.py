"""safetensors: 8 bytes with the length of a JSON header, the header, and the tensors one after the other.

    {"__metadata__": {text: text}, name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [first, last + 1]}, …}

Its rules, all checked: no key twice, no holes, no overlap, sizes that fit, nothing after the last tensor. A set of such files
comes with `*.safetensors.index.json`, whose `weight_map` says which file holds which tensor.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from penstock.pipeline.core.errors import Corrupt, Refused, Unsupported

from .checkpoint import TensorInfo
from .files.mapped_file import MAX_HEADER_BYTES, MappedFile
from .roles import role_of
from .stored_checkpoint import MAX_TENSORS, StoredCheckpoint
from .tensors.elements import LARGEST, tensor_bytes
from .tensors.strided import StridedTensor

INDEX_ENDING = ".safetensors.index.json"
MAX_FILES = 65_536
_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu", "U16": "uint16", "I16": "int16", "F16": "float16", "BF16": "bfloat16", "U32": "uint32",
    "I32": "int32", "F32": "float32", "U64": "uint64", "I64": "int64", "F64": "float64", "C64": "complex64",
}  # fmt: skip


def open_safetensors(path: Path) -> StoredCheckpoint:
    file = MappedFile(path)
    try:
        return StoredCheckpoint("safetensors", _read_header(file), [file])
    except BaseException:
        file.close()
        raise


def open_safetensors_set(index: Path) -> StoredCheckpoint:
    """All tensors of the set, in the order of its files."""
    files: list[MappedFile] = []
    try:
        weight_map = _read_index(index)
        names = sorted(set(weight_map.values()))
        if len(names) > MAX_FILES:
            raise Refused(f"{index}: a set of {len(names)} files, at most {MAX_FILES} are opened")
        sources: list[StridedTensor] = []
        for name in names:
            files.append(MappedFile(index.parent / name))
            sources += _read_header(files[-1])
        found = StoredCheckpoint("safetensors", sources, files)
        stored = {source.info.name: source.file.path.name for source in sources}
        if stored != weight_map:
            name = min(stored.items() ^ weight_map.items())[0]
            where = stored.get(name, "none of its files")
            raise Corrupt(f"{index}: tensor {name!r} is in {where}, the index says {weight_map.get(name, 'nothing')}")
        return found
    except BaseException:
        for file in files:
            file.close()
        raise


def _read_index(path: Path) -> dict[str, str]:
    file = MappedFile(path)
    try:
        index = _parse(file.bytes_at(0, file.size, "index"), str(path))
    finally:
        file.close()
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise Corrupt(f"{path}: no weight_map")
    for name, target in weight_map.items():
        if not isinstance(target, str) or target in {"", ".", ".."} or "/" in target or "\\" in target or "\0" in target:
            raise Refused(f"{path}: tensor {name!r} is said to be in {target!r}, which is no file beside the index")
    return weight_map


def _read_header(file: MappedFile) -> list[StridedTensor]:
    length = int.from_bytes(file.bytes_at(0, 8, "header length"), "little")
    if length > min(file.size - 8, MAX_HEADER_BYTES):
        raise Corrupt(f"{file}: a header of {length} bytes in a file of {file.size}; at most {MAX_HEADER_BYTES}")
    header = _parse(file.bytes_at(8, length, "header"), str(file))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Corrupt(f"{file}: __metadata__ is no map of text to text")
    if len(header) > MAX_TENSORS:
        raise Corrupt(f"{file}: {len(header)} tensors, at most {MAX_TENSORS} are read")
    found = [(*_tensor(file, name, entry), name) for name, entry in header.items()]
    end, start = 0, 8 + length
    for info, begin, name in sorted(found, key=lambda each: (each[1], each[1] + each[0].nbytes)):
        if begin != end:
            raise Corrupt(f"{file}: tensor {name} begins at {begin}, the one before ends at {end}: a hole or an overlap")
        end += info.nbytes
    if start + end != file.size:
        raise Corrupt(f"{file}: the tensors end at {start + end}, the file at {file.size}")
    return [StridedTensor(info, file, start + begin) for info, begin, _ in found]


def _tensor(file: MappedFile, name: str, entry: Any) -> tuple[TensorInfo, int]:
    """The tensor, and where it begins behind the header."""
    what = f"{file}: tensor {name}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise Corrupt(f"{what}: its entry is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise Corrupt(f"{what}: its entry has other types than it should")
    if dtype not in _DTYPES:
        raise Unsupported(f"{what}: dtype {dtype}; can be read: {', '.join(_DTYPES)}")
    if not all(type(each) is int and 0 <= each <= LARGEST for each in offsets):
        raise Corrupt(f"{what}: data_offsets that are no offsets")
    nbytes = tensor_bytes(shape, _DTYPES[dtype], what)
    if offsets[1] - offsets[0] != nbytes:
        raise Corrupt(f"{what}: shape {shape} of {dtype} has {nbytes} bytes, data_offsets {offsets[1] - offsets[0]}")
    role = role_of(name, tuple(shape), _DTYPES[dtype])
    return TensorInfo(name=name, shape=tuple(shape), dtype=_DTYPES[dtype], role=role, nbytes=nbytes), offsets[0]


def _parse(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object in which no key comes twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key comes twice")
        return found

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{name}: its header is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise Corrupt(f"{name}: its header is no JSON object")
    return value
