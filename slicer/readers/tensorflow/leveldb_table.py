"""LevelDB's sorted table, an immutable file of keys and values in the order of the keys. Knows no meaning of either.

    data block … · meta blocks · index block · footer (48 bytes: two block handles, padding, magic)
    block    = entry … · restart offset (u32) … · number of restarts (u32), then a type (0 plain, 1 snappy) and a masked CRC-32C
    entry    = shared, unshared, value length (varint32 each) · unshared bytes of the key · value
    index    : a key at or behind the last of its block -> the block's handle (offset and length, varint64 each)

Strict where readers that seek are lax: blocks ascend and do not overlap, keys ascend throughout, restarts are where they are said
to be, and every checksum is verified. (LevelDB `doc/table_format.md`; TensorFlow `core/lib/io/table*` writes the same.)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pyarrow as pa
from crc32c import crc32c

from penstock.pipeline.core.errors import Corrupt, Unsupported

from ..files.mapped_file import MAX_HEADER_BYTES, MappedFile

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
MAX_BLOCK_BYTES = 1 << 25
MAX_ENTRIES = 2_000_000
MAX_KEY_BYTES = 1 << 16
MAX_TABLE_BYTES = 4 * MAX_HEADER_BYTES
"""Of all keys and values together; compressed prefixes make more of them than the file has bytes."""
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5
_SNAPPY_RATIO = 22
"""What snappy can reach at most: three bytes copy 64."""
_U32 = struct.Struct("<I")


def is_table(file: MappedFile) -> bool:
    """By its last bytes."""
    return file.size >= _FOOTER_BYTES and file.bytes_at(file.size - len(MAGIC), len(MAGIC), "footer") == MAGIC


def entries(file: MappedFile) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values in ascending order, block by block. `Corrupt` for whatever breaks the format, `Unsupported` for a
    compression other than snappy."""
    if not is_table(file):
        raise Corrupt(f"{file} has no table footer: cut short?")
    footer_at = file.size - _FOOTER_BYTES
    footer = file.bytes_at(footer_at, _FOOTER_BYTES, "footer")
    what = f"{file}: footer"
    _, _, at = _handle(footer, 0, what)
    index_at, index_bytes, _ = _handle(footer, at, what)
    if index_at + index_bytes + _TRAILER_BYTES > footer_at:
        raise Corrupt(f"{what}: an index block at {index_at}, {index_bytes} bytes, leaves the file")
    before: bytes | None = None
    end = count = total = 0
    for separator, handle in _entries(_block(file, index_at, index_bytes), f"{file}: index block"):
        offset, length, used = _handle(handle, 0, f"{file}: index block")
        if offset < end or offset + length + _TRAILER_BYTES > index_at or used != len(handle):
            raise Corrupt(f"{file}: block at {offset}, {length} bytes, where [{end}, {index_at}) is left for blocks")
        end = offset + length + _TRAILER_BYTES
        for key, value in _entries(_block(file, offset, length), f"{file}: block at {offset}"):
            if before is not None and key <= before:
                raise Corrupt(f"{file}: block at {offset}: key {key[:80]!r} does not come after {before[:80]!r}")
            before, count, total = key, count + 1, total + len(key) + len(value)
            if count > MAX_ENTRIES or total > MAX_TABLE_BYTES:
                raise Corrupt(f"{file}: more than {MAX_ENTRIES} entries or {MAX_TABLE_BYTES} bytes of them")
            yield key, value
        if before is not None and separator < before:
            raise Corrupt(f"{file}: index block: key {separator[:80]!r} comes before {before[:80]!r} of its block")


def masked(crc: int) -> int:
    """A CRC-32C as LevelDB and TensorFlow store it."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def unmasked(stored: int) -> int:
    """The reverse of `masked`."""
    crc = (stored - 0xA282EAD8) & 0xFFFFFFFF
    return (crc >> 17 | crc << 15) & 0xFFFFFFFF


def _block(file: MappedFile, offset: int, length: int) -> bytes:
    """The contents of a block, verified, then decompressed."""
    what = f"{file}: block at {offset}"
    if length > MAX_BLOCK_BYTES:
        raise Corrupt(f"{what} has {length} bytes, at most {MAX_BLOCK_BYTES} are read")
    stored = file.bytes_at(offset, length + _TRAILER_BYTES, "block")
    kind, stated = stored[length], _U32.unpack_from(stored, length + 1)[0]
    if masked(crc32c(stored[: length + 1])) != stated:
        raise Corrupt(f"{what} differs from its checksum")
    data = stored[:length]
    if kind == 0:
        return data
    if kind != 1:
        raise Unsupported(f"{what} is compressed by method {kind}; plain and snappy can be read")
    size, _ = _varint(data, 0, what)
    if size > min(MAX_BLOCK_BYTES, _SNAPPY_RATIO * length):
        raise Corrupt(f"{what} claims {size} bytes in {length}: more than snappy can do, or more than are read")
    try:
        found = pa.decompress(data, decompressed_size=size, codec="snappy", asbytes=True)
    except (OSError, pa.ArrowInvalid):
        raise Corrupt(f"{what} is no snappy data") from None
    return bytes(found)


def _entries(block: bytes, what: str) -> Iterator[tuple[bytes, bytes]]:
    count = _U32.unpack_from(block, len(block) - 4)[0] if len(block) >= 4 else 0
    limit = len(block) - 4 - 4 * count
    if not count or limit < 0:
        raise Corrupt(f"{what}: {count} restarts in {len(block)} bytes")
    restarts = iter(struct.unpack_from(f"<{count}I", block, limit))
    restart: int | None = next(restarts)
    at, key = 0, b""
    if not limit:
        restart = None if restart == 0 and count == 1 else -1
    while at < limit:
        begin = at
        shared, at = _varint(block, at, what)
        unshared, at = _varint(block, at, what)
        length, at = _varint(block, at, what)
        value_at = at + unshared
        after = value_at + length
        if after > limit or shared > len(key):
            raise Corrupt(f"{what}: entry at {begin} leaves the block, or shares {shared} of {len(key)} bytes")
        if shared + unshared > MAX_KEY_BYTES:
            raise Corrupt(f"{what}: a key of {shared + unshared} bytes at {begin}, at most {MAX_KEY_BYTES} are read")
        if begin == restart:
            if shared:
                raise Corrupt(f"{what}: the entry at restart {begin} shares {shared} bytes with the one before")
            restart = next(restarts, None)
        key = key[:shared] + block[at:value_at]
        at = after
        yield key, block[value_at:after]
    if restart is not None:
        raise Corrupt(f"{what}: a restart is not at an entry, or out of order")


def _handle(data: bytes, at: int, what: str) -> tuple[int, int, int]:
    """Offset and length of a block, and where the next byte lies."""
    offset, at = _varint(data, at, what)
    length, at = _varint(data, at, what)
    return offset, length, at


def _varint(data: bytes, at: int, what: str) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, at + index + 1
    raise Corrupt(f"{what}: no number at {at}")
