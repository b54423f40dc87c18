"""The bytes of an Arrow IPC file round the two buffers of its one record batch. Knows no table, no bucket, no store.

    "ARROW1" 0 0 | schema message | record batch message, padded | keys | rows | end of stream | footer | length | "ARROW1"

Arrow's own writer puts buffers at multiples of 8 bytes and wants the columns in memory. Here the columns are streamed, and
both start at a multiple of 64, so that whoever maps the file has aligned arrays. The schema is encoded by Arrow; the
record batch message and the footer are FlatBuffers tables of a fixed shape (format/Message.fbs, format/File.fbs of Arrow).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pyarrow as pa

from penstock.pipeline.core.errors import Corrupt

ALIGNMENT = 64
PREFIX = struct.Struct("<8sIi")
"""The magic, the continuation mark, and how long the schema is."""
_MAGIC, _CONTINUES = b"ARROW1", 0xFFFFFFFF
_VERSION_5, _RECORD_BATCH = 4, 3


@dataclass(frozen=True, slots=True)
class Frame:
    """A file of `rows` keys and, unless `width` is 0, rows of `width` bytes; offsets and sizes in bytes."""

    head: bytes
    keys_at: int
    rows_at: int
    rows: int
    width: int
    tail: bytes

    @property
    def tail_at(self) -> int:
        return _aligned(self.rows_at + self.rows * self.width)

    @property
    def size(self) -> int:
        return self.tail_at + len(self.tail)


def frame(schema: bytes, *, rows: int, width: int) -> Frame:
    """`schema` is the message that Arrow encodes a schema as; `width` 0: there is no second column."""
    lead = _MAGIC + b"\0\0" + schema
    columns = 2 if width else 1
    bare = 88 + 48 * columns
    keys_at = _aligned(len(lead) + 8 + bare)
    rows_at = _aligned(keys_at + 8 * rows)
    body = _aligned(rows_at + rows * width) - keys_at
    buffers = [(0, 0), (0, 8 * rows), (rows_at - keys_at, 0), (rows_at - keys_at, rows * width)][: 2 * columns]
    message = _batch_message(rows, buffers, body)
    length = keys_at - len(lead)
    head = lead + struct.pack("<Ii", _CONTINUES, length - 8) + message + bytes(length - 8 - len(message))
    footer = _footer(schema[8:], batch_at=len(lead), length=length, body=body)
    tail = struct.pack("<II", _CONTINUES, 0) + footer + struct.pack("<i6s", len(footer), _MAGIC)
    return Frame(head, keys_at, rows_at, rows, width, tail)


def encoded_schema(schema: pa.Schema) -> bytes:
    return bytes(schema.serialize())


def decoded_schema(message: bytes, name: str) -> pa.Schema:
    """The inverse; `Corrupt` for what Arrow does not accept."""
    try:
        return pa.ipc.read_schema(pa.py_buffer(message))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Corrupt(f"{name}: not an Arrow schema: {error}") from None


def schema_length(prefix: bytes, name: str) -> int:
    """How many bytes the schema message has, from the first `PREFIX.size` bytes of a file."""
    if len(prefix) < PREFIX.size:
        raise Corrupt(f"{name}: {len(prefix)} bytes, too short for an Arrow file")
    magic, continues, length = PREFIX.unpack(prefix[: PREFIX.size])
    if magic != _MAGIC + b"\0\0" or continues != _CONTINUES or length <= 0:
        raise Corrupt(f"{name}: does not start as an Arrow file")
    return int(length) + 8


def _aligned(at: int) -> int:
    return -(-at // ALIGNMENT) * ALIGNMENT


def _batch_message(rows: int, buffers: list[tuple[int, int]], body: int) -> bytes:
    """Message {version, header type, header, body length} and RecordBatch {length, nodes, buffers}, where each table is
    preceded by its vtable: its own size, that of the table, and where in the table each field stands."""
    columns = len(buffers) // 2
    message = struct.pack("<I HH HHHH xxxx i I HBx q", 20, 12, 20, 8, 10, 4, 12, 16, 28, _VERSION_5, _RECORD_BATCH, body)
    batch = struct.pack("<HH HHH xx i q II xxxx", 10, 20, 4, 12, 16, 12, rows, 12, 24 + 16 * columns - 8)
    nodes = struct.pack("<I", columns) + struct.pack("<qq", rows, 0) * columns
    spans = struct.pack("<xxxxI", len(buffers)) + b"".join(struct.pack("<qq", *buffer) for buffer in buffers)
    return message + batch + nodes + spans


def _footer(schema: bytes, *, batch_at: int, length: int, body: int) -> bytes:
    """Footer {version, schema, dictionaries, record batches}. FlatBuffers point relatively: the schema's table is used
    where it stands inside its message, which is put behind."""
    schema_at = 72 + _header_at(schema)
    table = struct.pack("<I HH HHHH i Hxx III", 16, 12, 20, 4, 8, 12, 16, 12, _VERSION_5, schema_at - 24, 8, 12)
    blocks = struct.pack("<I xxxx I q ixxxx q", 0, 1, batch_at, length, body)
    return table + blocks + schema


def _header_at(message: bytes) -> int:
    """Where the table that a Message calls its header stands."""
    (table,) = struct.unpack_from("<I", message, 0)
    (back,) = struct.unpack_from("<i", message, table)
    (field,) = struct.unpack_from("<H", message, table - back + 4 + 2 * 2)
    (offset,) = struct.unpack_from("<I", message, table + field)
    return int(table + field + offset)
