"""One tensor of an ONNX model: a `TensorProto`, whose elements lie in it or in another file of the model's folder.

    dims 1 · data_type 2 · segment 3 · float_data 4 · int32_data 5 · string_data 6 · int64_data 7 · name 8 · raw_data 9
    double_data 10 · uint64_data 11 · external_data 13 {key 1, value 2} · data_location 14

raw_data and external data are little-endian in C order, and mapped; so are packed floats. Packed integers are decoded as they
are read. A checksum of external data, which would take a pass over the whole file, is not verified.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from penstock.pipeline.core.errors import Corrupt, NotFound, Refused

from ..checkpoint import Role, TensorInfo, TensorSource, TextSource
from ..files.mapped_file import MappedFile
from ..files.wire import BYTES, Field, Message
from ..tensors.elements import LARGEST, MAX_DIMENSIONS, TEXT, tensor_bytes
from ..tensors.listed_texts import ListedTexts, texts_bytes
from ..tensors.strided import StridedTensor
from ..tensors.unreadable import UnreadableTensor
from ..tensors.varint_tensor import VarintTensor

MAX_FILES = 512
MAX_NAME_BYTES = 1 << 16
_MAX_DIMS_BYTES = 10 * MAX_DIMENSIONS
_MAX_ENTRIES = 16
_MAX_ENTRY_BYTES = 4096
_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: TEXT, 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8_e4m3fn",
    18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz", 24: "float8_e8m0fnu",
}  # fmt: skip
_BELOW_A_BYTE = {21: "uint4", 22: "int4", 23: "float4_e2m1", 25: "uint2", 26: "int2"}
_FLOATS, _INT32, _INT64, _DOUBLES, _UINT64 = 4, 5, 7, 10, 11
_TYPED_FIELDS = {
    "float32": _FLOATS, "complex64": _FLOATS, "float64": _DOUBLES, "complex128": _DOUBLES, "int64": _INT64,
    "uint32": _UINT64, "uint64": _UINT64,
}  # fmt: skip
"""Which field elements are in that are not raw; int32_data for any other dtype."""

RoleOf = Callable[[str, tuple[int, ...], str], Role]


@dataclass(slots=True)
class ExternalFiles:
    """The files that a model's tensors lie in: the model's own and those beside it, each opened once."""

    model: MappedFile
    opened: dict[str, MappedFile] = field(default_factory=dict)

    def at(self, location: str, what: str) -> MappedFile:
        """`Refused` unless it stays in the folder, links followed; `NotFound` when it is not there."""
        if location not in self.opened:
            if len(self.opened) >= MAX_FILES:
                raise Refused(f"{self.model}: more than {MAX_FILES} files of external data")
            self.opened[location] = MappedFile(self._inside(location, what))
        return self.opened[location]

    @property
    def all(self) -> list[MappedFile]:
        return [self.model, *self.opened.values()]

    def _inside(self, location: str, what: str) -> Path:
        parts = location.split("/")
        if not location or location.startswith("/") or ".." in parts or "\\" in location or "\0" in location or ":" in parts[0]:
            raise Refused(f"{what} is said to be in {location[:200]!r}, which is no path inside the model's folder")
        folder = Path(os.path.realpath(self.model.path.parent))
        place = Path(os.path.realpath(folder / location))
        if not place.is_relative_to(folder):
            hint = "put a copy of it there"
            raise Refused(f"{what} is said to be in {location!r}, a link that leads out of the model's folder", hint=hint)
        if not place.is_file():
            raise NotFound(f"{what}: no file {location!r} in the model's folder")
        return place


@dataclass(slots=True)
class _Proto:
    """What the fields of one `TensorProto` said. `typed` maps the number of a field to where its packed elements lie."""

    name: str = ""
    data_type: int = 0
    external: bool = False
    segmented: bool = False
    raw: Field | None = None
    shape: list[int] = field(default_factory=list)
    typed: dict[int, list[Field]] = field(default_factory=dict)
    entries: dict[str, str] = field(default_factory=dict)
    text_offsets: array[int] = field(default_factory=lambda: array("q"))
    text_lengths: array[int] = field(default_factory=lambda: array("q"))


def read_tensor(message: Message, files: ExternalFiles, role_of: RoleOf) -> TensorSource | TextSource:
    """The tensor that `message` is. `Corrupt` when it breaks the format, or its elements are not as many as its shape says or
    not in the file; one of less than a byte an element, or in parts, is an `UnreadableTensor`."""
    proto = _parse(message)
    name, shape = proto.name, tuple(proto.shape)
    if not name:
        raise Corrupt(f"{files.model}: a tensor without a name at {message.start}")
    what = f"{files.model}: tensor {name!r}"
    count = tensor_bytes(shape, "uint8", what)
    dtype = _DTYPES.get(proto.data_type)
    if dtype is None or proto.segmented:
        word = dtype or _BELOW_A_BYTE.get(proto.data_type, f"type {proto.data_type}")
        reason = "is stored in segments" if proto.segmented else f"has elements of {word}, which cannot be read"
        return UnreadableTensor(TensorInfo(name=name, shape=shape, dtype=word, role="other", nbytes=0), reason)
    if dtype == TEXT:
        return _texts(proto, shape, count, files.model, what)
    nbytes = tensor_bytes(shape, dtype, what)
    info = TensorInfo(name=name, shape=shape, dtype=dtype, role=role_of(name, shape, dtype), nbytes=nbytes)
    if proto.external:
        return _external(proto, info, files, what)
    if proto.raw is not None and not proto.typed:
        return _mapped(info, files.model, proto.raw, what)
    return _typed(proto, info, files.model, what)


def _parse(message: Message) -> _Proto:
    found = _Proto()
    for each in message.fields():
        match each.number:
            case 1:
                if (
                    len(found.shape) == MAX_DIMENSIONS
                    or each.value > LARGEST
                    or (each.kind == BYTES and each.value > _MAX_DIMS_BYTES)
                ):
                    raise Corrupt(f"{message.source}: a tensor of too many dimensions, or of a negative one, at {message.start}")
                found.shape += message.numbers(each)
            case 2:
                found.data_type = message.integer(each)
            case 3:
                found.segmented = True
            case 4 | 5 | 7 | 10 | 11:
                found.typed.setdefault(each.number, []).append(each)
            case 6:
                found.text_offsets.append(_bytes(message, each, message.stop).offset)
                found.text_lengths.append(each.value)
            case 8:
                found.name = message.text(_bytes(message, each, MAX_NAME_BYTES))
            case 9:
                found.raw = _bytes(message, each, message.stop)
            case 13:
                key, value = _entry(message.child(_bytes(message, each, _MAX_ENTRY_BYTES)))
                if key in found.entries or len(found.entries) >= _MAX_ENTRIES:
                    raise Corrupt(f"{message.source}: external data with {key!r} twice, or too many entries, at {each.offset}")
                found.entries[key] = value
            case 14:
                found.external = message.integer(each) == 1
    return found


def _bytes(message: Message, each: Field, limit: int) -> Field:
    if each.kind != BYTES or each.value > limit:
        raise Corrupt(f"{message.source}: field {each.number} of a tensor, at {each.offset}, is no bytes, or has too many")
    return each


def _entry(message: Message) -> tuple[str, str]:
    texts = {each.number: message.text(each) for each in message.fields() if each.number in {1, 2}}
    return texts.get(1, ""), texts.get(2, "")


def _mapped(info: TensorInfo, file: MappedFile, place: Field, what: str) -> StridedTensor:
    if place.value != info.nbytes:
        raise Corrupt(f"{what}: {info.dtype}{list(info.shape)} has {info.nbytes} bytes, {place.value} are stored")
    return StridedTensor(info, file, place.offset)


def _external(proto: _Proto, info: TensorInfo, files: ExternalFiles, what: str) -> StridedTensor:
    file = files.at(proto.entries.get("location", ""), what)
    offset = _number(proto.entries.get("offset", "0"), "offset", what)
    length = _number(proto.entries.get("length", str(file.size - offset)), "length", what)
    if length != info.nbytes:
        raise Corrupt(
            f"{what}: {info.dtype}{list(info.shape)} has {info.nbytes} bytes, {length} are said to be in {file.path.name}"
        )
    file.check(offset, length, f"tensor {info.name!r}")
    return StridedTensor(info, file, offset)


def _number(text: str, key: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= LARGEST):
        raise Corrupt(f"{what}: {text[:40]!r} is no {key} of external data")
    return int(text)


def _typed(proto: _Proto, info: TensorInfo, file: MappedFile, what: str) -> TensorSource:
    wanted = _TYPED_FIELDS.get(info.dtype, _INT32)
    parts = proto.typed.get(wanted, [])
    if proto.typed.keys() - {wanted} or (proto.raw is not None and proto.raw.value):
        raise Corrupt(f"{what}: {info.dtype} elements in two fields, or in a field of another type")
    if len(parts) > 1 or any(each.kind != BYTES for each in parts):
        return UnreadableTensor(info, "is not packed; `onnx.save` of the loaded model packs it")
    place = parts[0] if parts else Field(wanted, BYTES, 0, 0)
    if wanted in {_FLOATS, _DOUBLES}:
        return _mapped(info, file, place, what)
    return VarintTensor(info, file, place.offset, place.value)


def _texts(proto: _Proto, shape: tuple[int, ...], count: int, file: MappedFile, what: str) -> ListedTexts:
    offsets, lengths = (np.frombuffer(each, np.int64) for each in (proto.text_offsets, proto.text_lengths))
    if len(offsets) != count or proto.external or proto.raw is not None:
        raise Corrupt(f"{what}: {len(offsets)} texts, its shape {list(shape)} has {count}")

    def fetch(start: int, stop: int) -> list[bytes]:
        return [file.bytes_at(int(offsets[i]), int(lengths[i]), what) for i in range(start, stop)]

    info = TensorInfo(name=proto.name, shape=shape, dtype=TEXT, role="other", nbytes=texts_bytes(lengths))
    return ListedTexts(info, lengths, fetch)
