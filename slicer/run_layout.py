"""What a run is: the one description that whoever writes and whoever reads a run work from. No I/O.

A run is an Arrow IPC file of one record batch, sorted by bucket, then by key, every key once:

    kind        columns                                       holds
    rows        key int64, row fixed_size_binary(width)       encoded rows
    tombstones  key int64                                     keys alone: deletions, or a list of touched keys

    metadata                 value
    penstock.format          "1"
    penstock.table           name of the table
    penstock.codec           name of the row codec
    penstock.dim             values a row
    penstock.buckets         B
    penstock.keys            the smallest and the largest key, with a space between
    penstock.offsets         base64 of B + 1 little-endian words: bucket b is at positions [offsets[b], offsets[b + 1]);
                             uint32, or uint64 from 2^32 keys on
    penstock.crc             CRC-32 of the values above, in this order, joined by line feeds, as 8 hex digits
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.pipeline.core.documents import FORMAT
from penstock.pipeline.core.errors import Corrupt, Unsupported
from penstock.pipeline.core.schema import ModelSchema

from .arrow_frame import Frame, decoded_schema, encoded_schema, frame

Kind = Literal["rows", "tombstones"]
_NAMES = ("format", "table", "codec", "dim", "buckets", "keys", "offsets", "crc")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableLayout:
    """What all runs of one table have in common; `width` in bytes of an encoded row."""

    table: str
    codec: str
    dim: int
    width: int
    buckets: int

    @classmethod
    def of(cls, schema: ModelSchema, table: str) -> TableLayout:
        found = schema.table(table)
        return cls(table=table, codec=found.codec, dim=found.dim, width=found.width, buckets=schema.buckets)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLayout:
    """One run: where each bucket is (int64[B + 1]), the smallest and the largest key, and the file round the columns."""

    table: TableLayout
    kind: Kind
    offsets: NDArray[np.int64]
    first: int
    last: int
    frame: Frame

    @property
    def rows(self) -> int:
        return int(self.offsets[-1])


def run_key(prefix: str, table: str, kind: Kind, number: int) -> str:
    """Where a run stands; `number` tells the runs of one kind and table under one prefix apart."""
    return f"{prefix}/{table}-{number:012d}.{kind}.arrow"


def planned(table: TableLayout, kind: Kind, offsets: NDArray[np.int64], first: int, last: int) -> RunLayout:
    """The layout of a run that is to be written."""
    rows = int(offsets[-1])
    packed = offsets.astype("<u4" if rows < 2**32 else "<u8").tobytes()
    where = base64.b64encode(packed).decode()
    values = [FORMAT, table.table, table.codec, table.dim, table.buckets, f"{first} {last}", where]
    texts = dict(zip(_NAMES, map(str, values), strict=False))
    metadata = {f"penstock.{field}": text for field, text in (texts | {"crc": _checksum(texts)}).items()}
    width = table.width if kind == "rows" else 0
    built = frame(encoded_schema(_columns(width).with_metadata(metadata)), rows=rows, width=width)
    return RunLayout(table=table, kind=kind, offsets=offsets, first=first, last=last, frame=built)


def parsed(message: bytes, name: str) -> RunLayout:
    """The layout that the schema message of a run tells. `Corrupt` names the rule that is broken, `Unsupported` a format."""
    schema = decoded_schema(message, name)
    texts = _metadata(schema, name)
    if texts["format"] != str(FORMAT):
        raise Unsupported(f"{name}: run format {texts['format']}, this build reads {FORMAT}")
    kind: Kind = "rows" if len(schema) == 2 else "tombstones"
    stored = schema.field(1).type if kind == "rows" else None
    width = int(stored.byte_width) if isinstance(stored, pa.FixedSizeBinaryType) else 0
    if not schema.equals(_columns(width)):
        raise Corrupt(f"{name}: columns {', '.join(map(str, schema))} are not those of a run")
    dim, buckets = (_number(texts[field], field, name) for field in ("dim", "buckets"))
    table = TableLayout(table=texts["table"], codec=texts["codec"], dim=dim, width=width, buckets=buckets)
    offsets = _offsets(texts["offsets"], buckets, name)
    first, last = _key_range(texts["keys"], name)
    built = frame(message, rows=int(offsets[-1]), width=width)
    return RunLayout(table=table, kind=kind, offsets=offsets, first=first, last=last, frame=built)


def _columns(width: int) -> pa.Schema:
    row = [pa.field("row", pa.binary(width), nullable=False)] if width else []
    return pa.schema([pa.field("key", pa.int64(), nullable=False), *row])


def _metadata(schema: pa.Schema, name: str) -> dict[str, str]:
    found = schema.metadata or {}
    expected = {f"penstock.{field}".encode() for field in _NAMES}
    if set(found) != expected:
        different = sorted(key.decode(errors="replace") for key in set(found) ^ expected)
        raise Corrupt(f"{name}: metadata fields missing or unknown: {', '.join(different)}")
    try:
        texts = {field: found[f"penstock.{field}".encode()].decode() for field in _NAMES}
    except UnicodeDecodeError:
        raise Corrupt(f"{name}: metadata is not UTF-8") from None
    if texts["crc"] != _checksum(texts):
        raise Corrupt(f"{name}: metadata does not match its checksum {texts['crc'][:20]!r}")
    return texts


def _checksum(texts: dict[str, str]) -> str:
    return f"{zlib.crc32(chr(10).join(texts[field] for field in _NAMES[:-1]).encode()):08x}"


def _number(text: str, field: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) > 0):
        raise Corrupt(f"{name}: {field} {text[:40]!r} is not a positive number")
    return int(text)


def _key_range(text: str, name: str) -> tuple[int, int]:
    try:
        first, last = map(int, text.split(" "))
    except ValueError:
        raise Corrupt(f"{name}: keys {text[:60]!r} are not two numbers") from None
    if not -(2**63) <= first <= last < 2**63:
        raise Corrupt(f"{name}: keys from {first} to {last} are no range of int64")
    return first, last


def _offsets(text: str, buckets: int, name: str) -> NDArray[np.int64]:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Corrupt(f"{name}: offsets are not base64") from None
    if len(raw) not in {4 * (buckets + 1), 8 * (buckets + 1)}:
        raise Corrupt(f"{name}: {len(raw)} bytes of offsets for {buckets} buckets")
    words = np.frombuffer(raw, "<u4" if len(raw) == 4 * (buckets + 1) else "<u8")
    if words[-1] >= 2**40 or words[0] != 0 or (words[1:] < words[:-1]).any() or words[-1] == 0:
        raise Corrupt(f"{name}: offsets do not grow from 0 to a number of keys")
    return words.astype(np.int64)
