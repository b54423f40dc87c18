"""Small records, runs and sidecars that are right, for a fuzzer to start from."""

from __future__ import annotations

import json
import struct

import numpy as np
import pyarrow as pa

from penstock.pipeline.core.ids import Partition, PublisherId, Seq, Term, Timeline
from penstock.pipeline.core.records import Record, RecordKind, encode_record
from penstock.pipeline.core.times import EventTime, WallTime
from penstock.pipeline.ports.file_format import encoded
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.slicer.names import write_names
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.slicing import slice_rows


def sidecars() -> list[bytes]:
    return [
        b'{"model":"m","state":"1-42","step":3,"trained_through":"2026-11-21T10:07:00Z","positions":{"0":12},"timeline":1}',
        b'{"trained_through":1296820440.5,"frequencies":{"customer":"a.npz"},"mine":[1]}',
        b'{"trained_through":"never"}',
    ]


MODEL = bytes(range(16))


def _record(kind: RecordKind, words: str, keys: int, rows: int) -> bytes:
    record = Record(
        kind=kind, timeline=Timeline(1), partition=Partition(0), publisher=PublisherId("trainer-0"), term=Term(3), seq=Seq(9),
        trained_through=EventTime(10**15), written_at=WallTime(10**15), text=words, keys=np.arange(keys, dtype=np.int64),
        rows=np.arange(8 * rows, dtype=np.uint8).reshape(rows, 8),
    )  # fmt: skip
    return encode_record(record, MODEL)


def records() -> list[bytes]:
    announced = json.dumps({"number": 1, "path": "m/data/1/dense.safetensors", "bytes": 100, "digest": "00" * 16})
    return [
        _record(RecordKind.ROWS, "customer", 5, 3), _record(RecordKind.MARKER, "1-42", 0, 0),
        _record(RecordKind.DENSE, announced, 0, 0),
        _record(RecordKind.FENCE, "2", 0, 0), _record(RecordKind.BEAT, "", 0, 0), _record(RecordKind.OPEN, "", 0, 0),
    ]  # fmt: skip


def segments() -> list[bytes]:
    """How many records the tail says (1 byte), how many bytes the index has (1 byte), the index, the segment."""
    payloads = [b"one", b"", b"three" * 9]
    whole = encoded(payloads, 0, WallTime(10**15))  # type: ignore[arg-type]
    index = struct.pack("<qqqq", 0, 0, 2, 51)
    return [bytes([3, len(index)]) + index + whole, bytes([2, 0]) + whole]


RUN_LAYOUT = TableLayout(table="t", codec="float32", dim=2, width=8, buckets=4)


def runs() -> list[bytes]:
    store = MemoryStore()
    keys = np.arange(-2, 4, dtype=np.int64)
    rows = np.arange(12, dtype=np.float32).reshape(6, 2).view(np.uint8)
    found = slice_rows(keys, rows, np.array([7, 9], np.int64), RUN_LAYOUT, store, "m/data/1").runs
    return [store.get(each.path).data for each in found]


NAMES = [b"one", b"", "zwölf".encode()]


def names() -> list[bytes]:
    store = MemoryStore()
    info = write_names(store, "m/data/1", 0, "t", pa.array(NAMES, pa.large_binary()))
    return [store.get(info.path).data]


def lookups() -> list[bytes]:
    from penstock.serving.wire import keys_batch

    batch, found = keys_batch([np.array([1, 2, -3]), np.array([], np.int64)]), pa.BufferOutputStream()
    with pa.ipc.new_stream(found, batch.schema) as stream:
        stream.write_batch(batch)
    commands = (b'{"tables":["user","item"]}', b'{"tables":["user","item"],"version":3,"hashed":["item"]}')
    return [len(each).to_bytes(2, "little") + each + found.getvalue().to_pybytes() for each in commands]
