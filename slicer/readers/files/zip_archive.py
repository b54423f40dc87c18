"""The members of a zip file: where each lies, checked before anything is read. Extracts nothing and writes nothing.

Strict where the format is lax (PKWARE APPNOTE 6.3.10): one disk, the directory right before its end records, members that do
not overlap, local headers that agree with the directory, names that stay inside, stored or deflated, not encrypted.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from penstock.pipeline.core.errors import Corrupt, Refused, Unsupported

from .mapped_file import MAX_HEADER_BYTES, MappedFile

MAGIC = b"PK\x03\x04"
MAX_MEMBERS = 1_000_000
STORED, DEFLATED = 0, 8
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_BOMB_BYTES, _BOMB_RATIO = 1 << 30, 100
"""A member is refused that inflates to more than this many bytes and this many times its size."""
_DEFLATE_RATIO = 1032
"""What deflate can reach at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """`header` is where its local header lies in the file, `offset` where its (compressed) data begins."""

    name: str
    method: int
    header: int
    offset: int
    packed_bytes: int
    nbytes: int
    crc: int


def read_directory(file: MappedFile) -> Mapping[str, Member]:
    """The members by name, in the order of the directory."""
    at, size, count = _find_directory(file)
    if size > MAX_HEADER_BYTES or count > MAX_MEMBERS:
        raise Corrupt(f"{file}: zip directory of {count} members in {size} bytes; at most {MAX_MEMBERS} are read")
    directory = file.bytes_at(at, size, "zip directory")
    members: dict[str, Member] = {}
    where = 0
    for _ in range(count):
        entry, raw_name, where = _entry(file, directory, where)
        member = _locate(file, entry, raw_name, at)
        if member.name in members:
            raise Corrupt(f"{file}: zip member {member.name!r} is there twice")
        members[member.name] = member
    if where != len(directory):
        raise Corrupt(f"{file}: zip directory has {len(directory) - where} bytes after its {count} members")
    _check_overlap(file, members)
    return members


def read_member(file: MappedFile, member: Member) -> bytes:
    """All of a member that is a header, such as a pickle; its checksum is verified."""
    if member.nbytes > MAX_HEADER_BYTES:
        raise Corrupt(f"{file}: zip member {member.name!r} has {member.nbytes} bytes, at most {MAX_HEADER_BYTES} are read")
    data = file.bytes_at(member.offset, member.packed_bytes, f"zip member {member.name!r}")
    if member.method == DEFLATED:
        try:
            inflator = zlib.decompressobj(-zlib.MAX_WBITS)
            data = inflator.decompress(data, member.nbytes + 1)
        except zlib.error as error:
            raise Corrupt(f"{file}: zip member {member.name!r}: {error}") from None
    if len(data) != member.nbytes or zlib.crc32(data) != member.crc:
        raise Corrupt(f"{file}: zip member {member.name!r} differs from its size or checksum")
    return data


def _find_directory(file: MappedFile) -> tuple[int, int, int]:
    """Offset, size and member count of the directory."""
    tail_at = max(0, file.size - _END.size - 0xFFFF)
    tail = file.bytes_at(tail_at, file.size - tail_at, "end of zip")
    found = tail.rfind(b"PK\x05\x06")
    while found >= 0 and not (
        found + _END.size <= len(tail) and found + _END.size + _END.unpack_from(tail, found)[7] == len(tail)
    ):
        found = tail.rfind(b"PK\x05\x06", 0, found)
    if found < 0:
        raise Corrupt(f"{file}: a zip without its end record: cut short?")
    _, disk, first_disk, here, count, size, offset, _ = _END.unpack_from(tail, found)
    end_at = tail_at + found
    locator_at = end_at - _LOCATOR64.size
    locator = file.bytes_at(locator_at, _LOCATOR64.size, "zip64 locator") if locator_at >= 0 else b""
    if locator.startswith(b"PK\x06\x07"):
        _, disk, end64_at, disks = _LOCATOR64.unpack(locator)
        end64 = _END64.unpack(file.bytes_at(end64_at, _END64.size, "zip64 end record"))
        if end64[0] != b"PK\x06\x06" or end64_at + 12 + end64[1] != locator_at or disks != 1:
            raise Corrupt(f"{file}: zip64 end record at {end64_at} is broken")
        disk, first_disk, here, count, size, offset = end64[4:10]
        end_at = end64_at
    if disk or first_disk or here != count:
        raise Unsupported(f"{file}: a zip of several disks")
    if offset + size != end_at:
        raise Corrupt(f"{file}: zip directory at {offset}, {size} bytes, does not end at its end record at {end_at}")
    return offset, size, count


def _entry(file: MappedFile, directory: bytes, where: int) -> tuple[Member, bytes, int]:
    """The member of one entry (where its data begins is not known yet), its name as it stands, and where the next entry is."""
    if where + _ENTRY.size > len(directory) or not directory.startswith(b"PK\x01\x02", where):
        raise Corrupt(f"{file}: zip directory is broken at byte {where}")
    fields = _ENTRY.unpack_from(directory, where)
    flags, method, crc, packed, nbytes, name_length, extra_length, comment_length, disk = *fields[3:5], *fields[7:14]
    header_at = fields[16]
    extra_at = where + _ENTRY.size + name_length
    after = extra_at + extra_length + comment_length
    if after > len(directory):
        raise Corrupt(f"{file}: zip directory is broken at byte {where}")
    raw = directory[where + _ENTRY.size : extra_at]
    name = raw.decode("utf-8" if flags & 0x800 else "cp437", "replace")
    _check_name(file, name)
    if flags & 1:
        raise Unsupported(f"{file}: zip member {name!r} is encrypted")
    if method not in {STORED, DEFLATED}:
        raise Unsupported(f"{file}: zip member {name!r} is compressed by method {method}; stored and deflated can be read")
    wide = [value for value in (nbytes, packed, header_at) if value == 0xFFFFFFFF]
    if wide:
        values = iter(_zip64_values(file, name, directory[extra_at : extra_at + extra_length], len(wide)))
        nbytes, packed, header_at = (next(values) if v == 0xFFFFFFFF else v for v in (nbytes, packed, header_at))
    if disk not in {0, 0xFFFF}:
        raise Unsupported(f"{file}: a zip of several disks")
    member = Member(name=name, method=method, header=header_at, offset=0, packed_bytes=packed, nbytes=nbytes, crc=crc)
    return member, raw, after


def _zip64_values(file: MappedFile, name: str, extra: bytes, count: int) -> tuple[int, ...]:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1 and length >= 8 * count and at + 4 + length <= len(extra):
            values: tuple[int, ...] = struct.unpack_from(f"<{count}Q", extra, at + 4)
            return values
        at += 4 + length
    raise Corrupt(f"{file}: zip member {name!r} lacks its 64-bit sizes")


def _check_name(file: MappedFile, name: str) -> None:
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/") or name[1:2] == ":":
        raise Refused(f"{file}: zip member {name!r}: a name that leaves its folder")


def _locate(file: MappedFile, entry: Member, raw_name: bytes, directory_at: int) -> Member:
    """The entry with its offset, its local header and sizes checked."""
    what = f"zip member {entry.name!r}"
    header = file.bytes_at(entry.header, _LOCAL.size + len(raw_name), what)
    local = _LOCAL.unpack_from(header)
    offset = entry.header + _LOCAL.size + local[9] + local[10]
    same = local[0] == MAGIC and local[3] == entry.method and local[9] == len(raw_name) and header.endswith(raw_name)
    if not same or offset + entry.packed_bytes > directory_at:
        raise Corrupt(f"{file}: {what} at {entry.header}: its local header differs from the directory, or it leaves the file")
    if entry.method == STORED and entry.packed_bytes != entry.nbytes:
        raise Corrupt(f"{file}: {what} is stored, with two sizes: {entry.packed_bytes} and {entry.nbytes}")
    if entry.method == DEFLATED and entry.nbytes > _DEFLATE_RATIO * entry.packed_bytes:
        raise Corrupt(f"{file}: {what} claims {entry.nbytes} bytes in {entry.packed_bytes}: more than deflate can do")
    if entry.nbytes > max(_BOMB_BYTES, _BOMB_RATIO * entry.packed_bytes):
        hint = "write it uncompressed (numpy.savez), if it is what it should be"
        raise Refused(f"{file}: {what} inflates {entry.packed_bytes} to {entry.nbytes} bytes: a zip bomb?", hint=hint)
    return replace(entry, offset=offset)


def _check_overlap(file: MappedFile, members: Mapping[str, Member]) -> None:
    end, before = 0, ""
    for member in sorted(members.values(), key=lambda each: each.header):
        if member.header < end:
            raise Corrupt(f"{file}: zip members {before!r} and {member.name!r} overlap")
        end, before = member.offset + member.packed_bytes, member.name
