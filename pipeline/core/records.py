"""The records of the update log, as bytes. Little-endian; docs/format.md specifies them.

    offset  size  field
         0     4  magic "PNST"
         4     1  format, 1
         5     1  kind: 1 rows, 2 marker, 3 beat, 4 open, 5 fence, 6 dense
         6     2  zero
         8     4  crc32 of everything from byte 12 on
        12     4  length of the record in bytes
        16    16  id of the model
        32     4  timeline
        36     4  partition
        40     8  term of the publisher
        48     8  sequence number in this term and partition; 0 is the opening record
        56     8  trained_through, event time in microseconds; of a beat: what it reserves
        64     8  written_at, wall time in microseconds
        72     4  number of rows put
        76     4  number of tombstones
        80     4  bytes of an encoded row
        84     2  bytes of the publisher's id
        86     2  bytes of the text: rows: the table; marker: the state; dense: a JSON document
        88     -  publisher, text, zeros up to a multiple of 8
         -     -  int64 keys: those put, then those deleted; encoded rows in the order of their keys

A key stands in a record once at the most. Decoding copies nothing: keys and rows are views of the payload.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from .digests import MAX_ROW_BYTES
from .errors import Corrupt, InvalidInput, Unsupported
from .ids import Partition, PublisherId, Seq, State, Term, Timeline
from .times import EventTime, WallTime

MAGIC, FORMAT = b"PNST", 1
_HEADER = struct.Struct("<4sBBHII16sIIQQqqIIIHH")
HEADER_BYTES = _HEADER.size
_CRC_AT, _CRC_FROM = 8, 12
NO_KEYS: NDArray[np.int64] = np.empty(0, np.int64)
NO_ROWS: NDArray[np.uint8] = np.empty((0, 0), np.uint8)


class RecordKind(IntEnum):
    """`SKIPPED` is never written: it stands for a record that was decided to be passed over."""

    SKIPPED = 0
    ROWS = 1
    MARKER = 2
    BEAT = 3
    OPEN = 4
    FENCE = 5
    DENSE = 6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Record:
    """One record. `keys` int64[puts + tombstones], those put first; `rows` uint8[puts, width]. `text` names the table of rows,
    the state of a marker, or holds the announcement of a dense slice."""

    kind: RecordKind
    timeline: Timeline
    partition: Partition
    publisher: PublisherId = PublisherId("")
    term: Term = Term(0)
    seq: Seq = Seq(0)
    trained_through: EventTime = EventTime(0)
    written_at: WallTime = WallTime(0)
    text: str = ""
    keys: NDArray[np.int64] = field(default_factory=lambda: NO_KEYS)
    rows: NDArray[np.uint8] = field(default_factory=lambda: NO_ROWS)

    @property
    def table(self) -> str:
        return self.text

    @property
    def state(self) -> State:
        return State.parse(self.text)

    @property
    def put_keys(self) -> NDArray[np.int64]:
        return self.keys[: len(self.rows)]

    @property
    def tombstones(self) -> NDArray[np.int64]:
        return self.keys[len(self.rows) :]


def skipped_record(partition: Partition, appended_at: WallTime) -> Record:
    """What readers get in the place of a record that is passed over: it belongs to no timeline and to no publisher."""
    return Record(kind=RecordKind.SKIPPED, timeline=Timeline(0), partition=partition, written_at=appended_at)


def row_record_bytes(*, rows: int, tombstones: int, width: int, publisher: str, table: str) -> int:
    """The size of a record of rows."""
    names = len(publisher.encode()) + len(table.encode())
    return HEADER_BYTES + _padded(names) + 8 * (rows + tombstones) + rows * width


def encode_record(record: Record, model_id: bytes) -> bytes:
    publisher, text = record.publisher.encode(), record.text.encode()
    if len(publisher) > 0xFFFF or len(text) > 0xFFFF:
        raise InvalidInput(f"record of {record.publisher}: its publisher or text is longer than 65535 bytes")
    puts, width = (len(record.rows), record.rows.shape[1]) if len(record.rows) else (0, 0)
    names = publisher + text
    names += bytes(_padded(len(names)) - len(names))
    keys, rows = np.ascontiguousarray(record.keys, "<i8"), np.ascontiguousarray(record.rows)
    length = HEADER_BYTES + len(names) + keys.nbytes + puts * width
    header = bytearray(
        _HEADER.pack(
            MAGIC, FORMAT, record.kind, 0, 0, length, model_id, record.timeline, record.partition, record.term, record.seq,
            record.trained_through, record.written_at, puts, len(keys) - puts, width, len(publisher), len(text),
        )
    )  # fmt: skip
    parts = [names, keys.data.cast("B") if keys.size else b"", rows.data.cast("B") if puts else b""]
    crc = zlib.crc32(memoryview(header)[_CRC_FROM:])
    for part in parts:
        crc = zlib.crc32(part, crc)
    struct.pack_into("<I", header, _CRC_AT, crc)
    return b"".join((header, *parts))


def decode_record(payload: bytes | memoryview, *, model_id: bytes, partition: Partition, name: str) -> Record:
    """The record in `payload`; `name` says where it was found. `Corrupt` names the rule, `Unsupported` a future format."""
    if len(payload) < HEADER_BYTES:
        raise Corrupt(f"{name}: {len(payload)} bytes, a record has at least {HEADER_BYTES}")
    (magic, version, kind, zero, crc, length, model, timeline, written_to, term, seq, through, written_at, puts, deletes, width,
     publisher_bytes, text_bytes) = _HEADER.unpack_from(payload)  # fmt: skip
    if magic != MAGIC:
        raise Corrupt(f"{name}: magic {magic!r} is not that of a record")
    if version != FORMAT:
        raise Unsupported(f"{name}: record format {version}, this build reads {FORMAT}")
    names_at = HEADER_BYTES
    keys_at = names_at + _padded(publisher_bytes + text_bytes)
    rows_at = keys_at + 8 * (puts + deletes)
    if length != len(payload) or rows_at + puts * width != length or (puts and not 1 <= width <= MAX_ROW_BYTES):
        raise Corrupt(f"{name}: {len(payload)} bytes, but its header says {length} with {puts} rows of {width} bytes")
    if zlib.crc32(memoryview(payload)[_CRC_FROM:]) != crc:
        raise Corrupt(f"{name}: crc32 differs")
    if model != model_id:
        raise Corrupt(f"{name}: belongs to model {model.hex()}, not {model_id.hex()}")
    if written_to != partition or zero:
        raise Corrupt(f"{name}: was written for partition {written_to}, not {partition}")
    if kind not in RecordKind._value2member_map_ or kind == RecordKind.SKIPPED:
        raise Unsupported(f"{name}: record kind {kind}")
    if kind != RecordKind.ROWS and (puts or deletes):
        raise Corrupt(f"{name}: a {RecordKind(kind).name} record holds rows")
    try:
        names = bytes(payload[names_at : names_at + publisher_bytes + text_bytes])
        publisher, text = names[:publisher_bytes].decode(), names[publisher_bytes:].decode()
    except UnicodeDecodeError:
        raise Corrupt(f"{name}: publisher or text is not UTF-8") from None
    return Record(
        kind=RecordKind(kind), timeline=Timeline(timeline), partition=partition, publisher=PublisherId(publisher),
        term=Term(term), seq=Seq(seq), trained_through=EventTime(through), written_at=WallTime(written_at), text=text,
        keys=np.frombuffer(payload, "<i8", puts + deletes, keys_at),
        rows=np.frombuffer(payload, np.uint8, puts * width, rows_at).reshape(puts, width) if puts else NO_ROWS,
    )  # fmt: skip


def _padded(size: int) -> int:
    return -(-size // 8) * 8
