"""The bytes of the file log. It opens nothing: encoding, parsing and names only.

    <log>/log.json                             format, identity, partitions, max_record_bytes, segment_bytes
    <log>/<partition>/lock                     held (flock) by whoever changes the partition
    <log>/<partition>/tail                     two tail slots of 64 bytes; the newer whole one counts
    <log>/<partition>/<first offset>.log       a segment: records, one after the other
    <log>/<partition>/<first offset>.index     pairs of int64: offset, position of a record in the segment; a hint only

    record, little-endian      bytes        tail slot, little-endian        bytes
    crc32 of all that follows  4            first offset of the segment     8
    length of the payload      4            position in it                  8
    offset                     8            offset of the next record       8
    appended_at, microseconds  8            crc32 of the above              4
    payload                    length

Records before the tail's position are acknowledged: anything wrong there is corruption. What lies behind it belongs to a
write that was never acknowledged (or, after a power cut, to a tail that the disk had not seen yet): the next one who takes
the lock keeps the whole records of it and cuts off the rest. Readers stop at the tail.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from ..core.errors import Corrupt
from ..core.ids import Offset
from ..core.times import WallTime
from .log import LogEntry

FORMAT = 1
LOG_FILE, LOCK_FILE, TAIL_FILE = "log.json", "lock", "tail"
HEADER = struct.Struct("<IIqq")
SLOT_BYTES = 64
TAIL_BYTES = 2 * SLOT_BYTES
INDEX_STEP = 1 << 16
"""A record that reaches over a multiple of this position gets an index entry."""
INDEX_ENTRY = struct.Struct("<qq")
_CRC, _BODY, _SLOT = struct.Struct("<I"), struct.Struct("<Iqq"), struct.Struct("<qqq")
_SEGMENT = re.compile(r"(\d{20})\.log\Z")


class Tail(NamedTuple):
    """The end of what is acknowledged: the newest segment's first offset, the position in it, the next record's offset."""

    base: Offset
    position: int
    offset: Offset


BIRTH = Tail(Offset(0), 0, Offset(0))


class Block(NamedTuple):
    """Whole records that were read from one segment, and the bytes that they take there, headers included."""

    entries: list[LogEntry]
    size: int


def encoded(payloads: Sequence[bytes], first: Offset, appended_at: WallTime) -> bytes:
    """Records of consecutive offsets from `first` on."""
    parts: list[bytes] = []
    for offset, payload in enumerate(payloads, first):
        body = _BODY.pack(len(payload), offset, appended_at)
        parts += (_CRC.pack(zlib.crc32(payload, zlib.crc32(body))), body, payload)
    return b"".join(parts)


def index_entries(payloads: Sequence[bytes], first: Offset, position: int) -> bytes:
    """The index entries that records written at `position` call for; whoever writes them, and in how many steps."""
    found: list[bytes] = []
    for offset, payload in enumerate(payloads, first):
        end = position + HEADER.size + len(payload)
        if -(-position // INDEX_STEP) * INDEX_STEP < end:
            found.append(INDEX_ENTRY.pack(offset, position))
        position = end
    return b"".join(found)


def whole_records(block: memoryview, first: Offset, *, max_record_bytes: int, most_bytes: int, at_least: int) -> Block:
    """The records at the front of `block`, whose offsets count from `first`; an incomplete one at its end is left out.

    Stops before `most_bytes` (headers count) are exceeded, but not before `at_least` records; also before a record whose
    length, offset or crc is wrong: `Corrupt` names its offset when it is the first. Payloads are views into `block`.
    """
    entries: list[LogEntry] = []
    at, size, offset, head = 0, len(block), int(first), HEADER.size
    while at + head <= size:
        crc, length, stated, appended_at = HEADER.unpack_from(block, at)
        end = at + head + length
        if length > max_record_bytes or stated != offset:
            fault = f"offset {offset}: the record states offset {stated} and {length} bytes"
        elif end > size or (end > most_bytes and len(entries) >= at_least):
            break
        elif zlib.crc32(block[at + 4 : end]) != crc:
            fault = f"offset {offset}: the record does not match its crc32"
        else:
            fault = ""
        if fault and entries:
            break
        if fault:
            raise Corrupt(fault)
        entries.append(LogEntry(Offset(offset), WallTime(appended_at), block[at + head : end]))
        at, offset = end, offset + 1
    return Block(entries, at)


def record_bytes(block: memoryview) -> int:
    """Bytes of the record at the front of `block`, of which only the header needs to be there."""
    length: int = HEADER.unpack_from(block)[1]
    return HEADER.size + length


def packed_tail(tail: Tail) -> bytes:
    body = _SLOT.pack(*tail)
    return body + _CRC.pack(zlib.crc32(body))


def newest_slot(slots: bytes) -> tuple[int, Tail] | None:
    """The number and content of the newer whole slot; None when neither is whole."""
    found: tuple[int, Tail] | None = None
    for number in range(TAIL_BYTES // SLOT_BYTES):
        slot = slots[number * SLOT_BYTES : (number + 1) * SLOT_BYTES]
        body, (crc,) = slot[: _SLOT.size], _CRC.unpack_from(slot, _SLOT.size)
        if zlib.crc32(body) == crc:
            tail = Tail(*_SLOT.unpack(body))
            if found is None or (tail.offset, tail.base) > (found[1].offset, found[1].base):
                found = number, tail
    return found


def segment_name(base: Offset) -> str:
    return f"{base:020d}.log"


def index_name(base: Offset) -> str:
    return f"{base:020d}.index"


def segment_base(name: str) -> Offset | None:
    """The first offset of the segment that a file of this name is; None when it is none."""
    found = _SEGMENT.match(name)
    return Offset(int(found[1])) if found else None
