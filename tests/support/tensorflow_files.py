"""Writes TensorFlow V2 bundles without TensorFlow, after its sources: for bundles that it would and would never write."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from crc32c import crc32c

MAGIC = bytes.fromhex("57fb808b247547db")
DTYPES = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "complex64": 8, "int64": 9, "bool": 10,
    "uint16": 17, "complex128": 18, "float16": 19, "uint32": 22, "uint64": 23,
}  # fmt: skip
Texts = list[bytes]
Slice = tuple[tuple[int, int | None], ...]
"""(start, length) a dimension, None for all of it."""


@dataclass(frozen=True)
class Stored:
    """A tensor as an entry states it; what is None is worked out from the values."""

    values: np.ndarray | Texts
    dtype: int | None = None
    shape: tuple[int, ...] | None = None
    offset: int | None = None
    size: int | None = None
    checksum: int | None = None
    shard: int | None = None
    bare: bool = False
    """Without a checksum."""


@dataclass(frozen=True)
class Partitioned:
    values: np.ndarray
    slices: Sequence[Slice]


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value) if value else b""


def message(field: int, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return varint(field << 3 | 2) + varint(len(data)) + data


def mask(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def block(entries: Iterable[tuple[bytes, bytes]], *, interval: int = 16) -> bytes:
    data, restarts, before = bytearray(), [0], b""
    for index, (key, value) in enumerate(entries):
        shared = 0
        if index % interval:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        elif index:
            restarts.append(len(data))
        data += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return bytes(data) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def sealed(data: bytes, *, kind: int = 0) -> bytes:
    """A block with its type and checksum."""
    return data + bytes([kind]) + struct.pack("<I", mask(crc32c(data + bytes([kind]))))


def table_of(blocks: Sequence[tuple[bytes, bytes]], *, index: bytes | None = None) -> bytes:
    """A file of sealed blocks, each with the key that the index has for it."""
    data, handles = bytearray(), []
    for key, each in blocks:
        handles.append((key, varint(len(data)) + varint(len(each) - 5)))
        data += each
    meta_at = len(data)
    meta = sealed(block([]))
    data += meta
    index_at = len(data)
    index = sealed(block(handles, interval=1)) if index is None else index
    data += index
    footer = varint(meta_at) + varint(len(meta) - 5) + varint(index_at) + varint(len(index) - 5)
    return bytes(data) + footer.ljust(40, b"\0") + MAGIC


def table(entries: Sequence[tuple[bytes, bytes]], *, per_block: int = 10, interval: int = 16, snappy: bool = False) -> bytes:
    """`entries` are written in the order in which they come."""
    blocks = []
    for at in range(0, len(entries), per_block):
        some = entries[at : at + per_block]
        plain = block(some, interval=interval)
        packed = sealed(pa.compress(plain, codec="snappy", asbytes=True), kind=1) if snappy else sealed(plain)
        blocks.append((some[-1][0], packed))
    return table_of(blocks)


def ordered(value: int) -> bytes:
    """OrderedCode::WriteSignedNumIncreasing."""
    bits = (~value if value < 0 else value).bit_length()
    length = bits // 7 + 1
    found = bytearray(value.to_bytes(10, "big", signed=True)[10 - length :])
    header = [(0x80, 0), (0xC0, 0), (0xE0, 0), (0xF0, 0), (0xF8, 0), (0xFC, 0), (0xFE, 0), (0xFF, 0), (0xFF, 0x80), (0xFF, 0xC0)]
    found[0] ^= header[length - 1][0]
    if length > 1:
        found[1] ^= header[length - 1][1]
    return bytes(found)


def slice_key(name: str, part: Slice) -> bytes:
    """EncodeTensorNameSlice."""
    extents = [ordered(value) for start, length in part for value in (start, -1 if length is None else length)]
    return b"\0" + name.encode() + b"\0\1" + bytes([1, len(part)]) + b"".join(extents)


def text_bytes(texts: Texts, order: str) -> tuple[bytes, int]:
    """A string tensor, and its checksum."""
    lengths = b"".join(struct.pack(f"{order}I", len(text)) for text in texts)
    stored = struct.pack(f"{order}I", mask(crc32c(lengths)))
    return b"".join(varint(len(text)) for text in texts) + stored + b"".join(texts), crc32c(
        b"".join(texts), crc32c(lengths + stored)
    )


def header(shards: int, *, endianness: int = 0, consumer: int = 0) -> bytes:
    return number(1, shards) + number(2, endianness) + message(3, number(1, 1), number(2, consumer))


def shape_proto(shape: Iterable[int]) -> bytes:
    return message(2, *(message(2, number(1, size)) for size in shape))


def slice_proto(part: Slice) -> bytes:
    extents = [number(1, start) + (b"" if length is None else varint(2 << 3) + varint(length)) for start, length in part]
    return message(7, *(message(1, extent) for extent in extents))


def write_bundle(
    prefix: Path,
    tensors: Mapping[str, np.ndarray | Texts | Stored | Partitioned],
    *,
    shards: int = 1,
    order: str = "<",
    snappy: bool = False,
    per_block: int = 10,
    align: int = 1,
) -> Path:
    """The path of the index. Tensors go to the shards in turn."""
    data = [bytearray() for _ in range(shards)]
    entries: dict[bytes, bytes] = {b"": header(shards, endianness=int(order == ">"))}
    todo: list[tuple[bytes, Stored]] = []
    for name, value in tensors.items():
        if isinstance(value, Partitioned):
            whole = number(1, DTYPES[value.values.dtype.name]) + shape_proto(value.values.shape)
            entries[name.encode()] = whole + b"".join(map(slice_proto, value.slices))
            for part in value.slices:
                where = tuple(slice(at, None if length is None else at + length) for at, length in part)
                todo.append((slice_key(name, part), Stored(value.values[where])))
        else:
            todo.append((name.encode(), value if isinstance(value, Stored) else Stored(value)))
    for turn, (key, stored) in enumerate(todo):
        shard = turn % shards
        entries[key], raw = entry(stored, shard, len(data[shard]), order)
        data[shard] += raw + bytes(-len(raw) % align)
    for shard, raw in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").write_bytes(raw)
    index = prefix.with_name(f"{prefix.name}.index")
    index.write_bytes(table(sorted(entries.items()), snappy=snappy, per_block=per_block))
    return index


def entry(stored: Stored, shard: int, offset: int, order: str) -> tuple[bytes, bytes]:
    """The entry of a tensor, and its bytes."""
    values = stored.values
    if isinstance(values, list):
        raw, crc = text_bytes(values, order)
        dtype, shape = 7, (len(values),)
    else:
        raw = values.astype(values.dtype.newbyteorder(order)).tobytes()
        crc, dtype, shape = crc32c(raw), DTYPES.get(values.dtype.name, 0), values.shape
    parts = [
        number(1, stored.dtype or dtype),
        shape_proto(stored.shape if stored.shape is not None else shape),
        number(3, stored.shard if stored.shard is not None else shard),
        number(4, stored.offset if stored.offset is not None else offset),
        number(5, stored.size if stored.size is not None else len(raw)),
    ]
    if not stored.bare:
        parts.append(varint(6 << 3 | 5) + struct.pack("<I", mask(crc if stored.checksum is None else stored.checksum)))
    return b"".join(parts), raw
