"""Changes that keep what a checksum or a length guards: without them a fuzzer never comes past the guard.

Knows the outermost layer of a few formats, and judges nothing. `Change` is the fuzzer's own mutation of plain bytes.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from random import Random

import pyarrow as pa
from crc32c import crc32c

Change = Callable[[bytes, int], bytes]
Mutate = Callable[[bytes, int, Random, Change], bytes]
"""Bytes, the most that may come out, chance, and `Change`."""
Mend = Callable[[bytes], bytes]
_AS_IT_IS = 0.1
"""How often what was changed is not mended."""


def plain(data: bytes, most: int, random: Random, change: Change) -> bytes:
    return change(data, most)


def mended(mend: Mend) -> Mutate:
    def mutate(data: bytes, most: int, random: Random, change: Change) -> bytes:
        changed = change(data, most)
        return changed if random.random() < _AS_IT_IS else mend(changed)

    return mutate


def one_of(*ways: Mutate) -> Mutate:
    def mutate(data: bytes, most: int, random: Random, change: Change) -> bytes:
        return random.choice(ways)(data, most, random, change)

    return mutate


def opcodes(pool: tuple[bytes, ...]) -> Mutate:
    """A pickle, one opcode at a time: left out, twice, in another place, changed, or one of `pool` before it."""

    def mutate(data: bytes, most: int, random: Random, change: Change) -> bytes:
        parts = _split(data)
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(parts) + 1)
            here = parts[at : at + random.choice((1, 1, 1, 2, 5, 12))]
            match random.randrange(6):
                case 0:
                    del parts[at : at + len(here)]
                case 1:
                    parts[at:at] = here
                case 2:
                    del parts[at : at + len(here)]
                    to = random.randrange(len(parts) + 1)
                    parts[to:to] = here
                case 3 | 4:
                    parts.insert(at, random.choice(pool))
                case _:
                    if here:
                        parts[at] = change(here[0], 300)
        return b"".join(parts)[:most]

    return mutate


def _split(data: bytes) -> list[bytes]:
    """One piece an opcode, of one pickle after the other; what is no pickle any more is the last piece."""
    starts, stream = [0], io.BytesIO(data)
    with suppress(Exception):
        while stream.tell() < len(data):
            starts.extend(position for _, _, position in pickletools.genops(stream) if position)
    return [data[low:high] for low, high in zip(starts, [*starts[1:], len(data)], strict=True)]


def members(inner: Mutate) -> Mutate:
    """One member of a zip archive, or its name, with everything around it right; what is no archive is changed as it is."""

    def mutate(data: bytes, most: int, random: Random, change: Change) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                found = [(each, archive.read(each)) for each in archive.infolist()[:50]]
        except Exception:  # noqa: BLE001  # whatever zipfile makes of it
            return change(data, most)
        target = io.BytesIO()
        chosen = random.randrange(len(found)) if found else 0
        with zipfile.ZipFile(target, "w") as archive:
            for at, (info, payload) in enumerate(found):
                name, method, content = info.filename, info.compress_type, payload
                if at == chosen:
                    what = random.randrange(12)
                    if what == 0:
                        name = change(name.encode(), 40).decode("latin-1").replace("\0", "")
                    elif what == 1:
                        method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
                    elif what == 2:
                        continue
                    else:
                        content = inner(payload, max(64, most - len(data) + len(payload)), random, change)
                archive.writestr(zipfile.ZipInfo(name), content, method)
        return target.getvalue()[:most]

    return mutate


_LOCAL, _ENTRY, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


def zip_checksums(data: bytes) -> bytes:
    """The checksums of all members whose directory entry can be followed, and where the directory is."""
    whole = bytearray(data)
    end = data.rfind(_END)
    if end < 0 or end + 22 > len(data):
        return data
    at = data.find(_ENTRY)
    if 0 <= at < end:
        struct.pack_into("<II", whole, end + 12, end - at, at)
    for _ in range(100):
        if at < 0 or at + 46 > end or data[at : at + 4] != _ENTRY:
            break
        method, packed, names, extra, comment, header = (
            *struct.unpack_from("<H8xI4x3H", data, at + 10),
            *struct.unpack_from("<I", data, at + 42),
        )
        if header + 30 <= len(data) and data[header : header + 4] == _LOCAL:
            begin = header + 30 + sum(struct.unpack_from("<2H", data, header + 26))
            content = _inflated(data[begin : begin + packed], method)
            if content is not None:
                struct.pack_into("<I", whole, at + 16, zlib.crc32(content))
                struct.pack_into("<I", whole, header + 14, zlib.crc32(content))
        at += 46 + names + extra + comment
    return bytes(whole)


def _inflated(packed: bytes, method: int) -> bytes | None:
    if method != zipfile.ZIP_DEFLATED:
        return packed
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, 1 << 20)
    except zlib.error:
        return None


def header_length(form: str, at: int) -> Mend:
    """A header in braces after its own length, which is packed as `form` and stands at `at`; it ends with the last brace."""
    size = struct.calcsize(form)

    def mend(data: bytes) -> bytes:
        begin, end = at + size, data.rfind(b"}") + 1
        while data[end : end + 1] in {b" ", b"\n"}:
            end += 1
        fits = begin < end < begin + (1 << (8 * min(size, 4)))
        return data[:at] + struct.pack(form, end - begin) + data[begin:] if fits and at <= len(data) else data

    return mend


def record_checksum(data: bytes) -> bytes:
    """A record of the update log: its length and its crc."""
    if len(data) < 16:
        return data
    whole = bytearray(data)
    struct.pack_into("<I", whole, 12, len(whole))
    struct.pack_into("<I", whole, 8, zlib.crc32(memoryview(whole)[12:]))
    return bytes(whole)


def run_checksum(data: bytes) -> bytes:
    """A run: the crc of its metadata, as long as Arrow can read that."""
    names = ("format", "table", "codec", "dim", "buckets", "keys", "offsets")
    try:
        metadata = pa.ipc.read_schema(pa.py_buffer(data[8:])).metadata or {}
        text = b"\n".join(metadata[f"penstock.{name}".encode()] for name in names)
        stated = metadata[b"penstock.crc"]
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return data
    return data.replace(stated, b"%08x" % zlib.crc32(text), 1) if len(stated) == 8 else data


def table_checksums(data: bytes) -> bytes:
    """A LevelDB table: the checksum of every block that its index leads to, then that of the index."""
    whole = bytearray(data)
    _, _, index_at, index_bytes, _ = _varints(data[-48:], 4)
    handles, at, end = [], index_at, min(index_at + index_bytes, len(data))
    if end - index_at >= 4:
        end -= 4 + 4 * struct.unpack_from("<I", data, end - 4)[0]  # the restarts
    while at < end:
        _, unshared, length, head = _varints(data[at : at + 30], 3)
        value_at = at + head + unshared
        handles.append(_varints(data[value_at : value_at + length], 2)[:2])
        at = value_at + length
    for begin, size in [*handles[:50], (index_at, index_bytes)]:
        if begin + size + 5 <= len(whole):
            crc = crc32c(bytes(whole[begin : begin + size + 1]))
            struct.pack_into("<I", whole, begin + size + 1, ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
    return bytes(whole)


def _varints(data: bytes, count: int) -> tuple[int, ...]:
    """`count` numbers, zeros where there are no more, and the bytes that they take."""
    found, value, shift, at = [], 0, 0, 0
    while at < len(data) and len(found) < count:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            found.append(value)
            value = shift = 0
    return (*found, *[0] * (count - len(found)), max(at, 1))


def segment_checksums(data: bytes) -> bytes:
    """A segment of the file log: the crc of every record whose length leads to another."""
    whole, at = bytearray(data), 0
    while at + 24 <= len(whole):
        end = at + 24 + struct.unpack_from("<I", whole, at + 4)[0]
        if end <= len(whole):
            struct.pack_into("<I", whole, at, zlib.crc32(memoryview(whole)[at + 4 : end]))
        at = end
    return bytes(whole)
