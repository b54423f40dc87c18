"""What Penstock itself stores and sends, as bytes of somebody who means harm or of a broken disk, and how a fuzzer feeds it.

A checksum, or a length, in front of a parser is made right by the target or by its mutation.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
from fuzz import reader_seeds, stored_seeds
from fuzz.mutation import header_length, mended, record_checksum, run_checksum, segment_checksums
from fuzz.target import Target, json_words
from fuzz.walking import check_message

from penstock.pipeline.core.checkpoint import decode_sidecar
from penstock.pipeline.core.dense import announcement_of
from penstock.pipeline.core.documents import decode, encode
from penstock.pipeline.core.errors import Corrupt, PenstockError
from penstock.pipeline.core.ids import Offset, Partition
from penstock.pipeline.core.manifest import DenseInfo, Manifest, NamesInfo, RunInfo
from penstock.pipeline.core.records import RecordKind, decode_record
from penstock.pipeline.core.text_keys import hash_texts
from penstock.pipeline.core.times import format_time
from penstock.pipeline.ports.file_birth import create_file_log
from penstock.pipeline.ports.file_format import (
    BIRTH,
    SLOT_BYTES,
    TAIL_BYTES,
    TAIL_FILE,
    Tail,
    index_name,
    packed_tail,
    segment_name,
)
from penstock.pipeline.ports.file_log import FileLog
from penstock.pipeline.ports.local_store import LocalStore
from penstock.pipeline.ports.log_checks import LogSettings
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.pipeline.ports.store import ObjectStore, Overwrite
from penstock.slicer.arrow_frame import schema_length
from penstock.slicer.dense import read_dense
from penstock.slicer.names import NamesFile
from penstock.slicer.run_layout import parsed
from penstock.slicer.runs import Run as OpenRun


def _sidecar(data: bytes, folder: Path) -> None:
    sidecar = decode_sidecar(data, "sidecar")
    through = sidecar.through()
    if through is not None:
        format_time(through)
    sidecar.encode()


def _record(data: bytes, folder: Path) -> None:
    record = decode_record(data, model_id=stored_seeds.MODEL, partition=Partition(0), name="record")
    assert len(record.put_keys) + len(record.tombstones) == len(record.keys)
    if record.kind is RecordKind.MARKER:
        assert record.state.marker >= 0
    if record.kind is RecordKind.DENSE:
        announcement_of(record, "record")


def _document(data: bytes, folder: Path) -> None:
    """The first byte says which."""
    from fuzz import documents  # what publishes and rolls back is not loaded for those who only read

    kind = type(documents.EXAMPLES[data[0] % len(documents.EXAMPLES)]) if data else Manifest
    found = decode(kind, data[1:], "document")
    assert decode(kind, encode(found), "again") == found
    if isinstance(found, Manifest):
        assert found.rows + found.tombstones + found.bytes is not None
        found.data_paths()
        found.digest(documents.BUCKETS)


def _document_seeds() -> list[bytes]:
    from fuzz import documents

    return [bytes([at]) + encode(each) for at, each in enumerate(documents.EXAMPLES)]


def _log_segment(data: bytes, folder: Path) -> None:
    """See `stored_seeds.segments`; the tail is at the end of the segment."""
    if len(data) < 2:
        return
    place = folder / "log"
    if not place.exists():
        create_file_log(place, partitions=1, settings=LogSettings(max_record_bytes=1 << 16))
    index, segment = data[2 : 2 + data[1]], data[2 + data[1] :]
    part = place / "0"
    (part / index_name(BIRTH.base)).write_bytes(index)
    (part / segment_name(BIRTH.base)).write_bytes(segment)
    slot = packed_tail(Tail(BIRTH.base, len(segment), Offset(data[0])))
    (part / TAIL_FILE).write_bytes(slot.ljust(SLOT_BYTES, b"\0").ljust(TAIL_BYTES, b"\0"))
    log = FileLog(place)
    try:
        for start in {0, data[0] // 2}:
            try:
                found = log.poll({Partition(0): Offset(start)}, timeout_s=0).get(Partition(0), [])
            except Corrupt:
                continue
            assert [entry.offset for entry in found] == list(range(start, start + len(found)))
    finally:
        log.close()


def _run(data: bytes, folder: Path) -> None:
    """The info is what the head of the file says, so that what comes after it is reached."""
    length = schema_length(data[:16], "run")
    if 8 + length > len(data):
        raise Corrupt("a schema beyond the end")
    layout = parsed(data[8 : 8 + length], "run")
    info = RunInfo(path="m/data/run.arrow", kind=layout.kind, rows=layout.rows, bytes=len(data), digest="0" * 16)
    stores: tuple[ObjectStore, ...] = (MemoryStore(), LocalStore(folder / "store"))
    for store in stores:
        store.put(info.path, data, Overwrite())
        with OpenRun.open(store, info, buckets=layout.table.buckets) as run:
            keys, rows = run.keys(), run.rows()
            assert len(keys) == layout.rows
            assert layout.kind == "tombstones" or len(rows) == layout.rows
            asked = np.unique(np.concatenate([keys[:20], np.array([0, 7], np.int64)]))
            positions, found = run.find(asked)
            if layout.kind == "rows":
                run.take(np.sort(positions[found]))
            try:
                run.verify()
            except PenstockError as error:
                check_message(error)


def _names(data: bytes, folder: Path) -> None:
    """The names of three rows. `Run` is what the file has to fit, and is told only by what it asks of it."""
    store, keys = MemoryStore(), hash_texts(stored_seeds.NAMES)
    store.put("m/names", data, Overwrite())
    names = NamesInfo(path="m/names", bytes=len(data))
    info = RunInfo(path="m/run", kind="rows", rows=len(keys), bytes=1, digest="0" * 16, names=names)
    file = NamesFile(SimpleNamespace(store=store, info=info))
    positions = np.arange(len(keys))
    found = file.take(positions)
    found.validate(full=True)
    assert len(found) == len(keys)
    assert file.checked(positions, keys).to_pylist() == stored_seeds.NAMES


def _lookup(data: bytes, folder: Path) -> None:
    """What a client of a replica sends: the length of its command in 2 bytes, the command, and a stream of Arrow. What Arrow's
    own reader refuses never comes to us."""
    from penstock.serving.server import _decoded
    from penstock.serving.wire import keys_of

    end = 2 + int.from_bytes(data[:2], "little")
    request = _decoded(data[2:end])
    try:
        batch = pa.ipc.open_stream(pa.py_buffer(data[end:])).read_next_batch()
    except (pa.ArrowException, OSError, StopIteration):
        return
    for keys in keys_of(batch, len(request.tables)):
        assert keys.dtype == np.int64
        keys.sum()


def _dense(data: bytes, folder: Path) -> None:
    store = MemoryStore()
    store.put("m/dense", data, Overwrite())
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    for name, values in read_dense(store, DenseInfo(path="m/dense", bytes=len(data), digest=digest)).items():
        assert isinstance(name, str)
        assert values.nbytes <= len(data)


STORED = (
    Target(
        name="sidecar", run=_sidecar, seeds=stored_seeds.sidecars,
        words=json_words('"trained_through"', '"state"', '"1-2"', '"positions"', "+00:00", "9999-12-31T23:59:59Z", "1e300"),
    ),
    Target(name="record", run=_record, seeds=stored_seeds.records, mutate=mended(record_checksum), words=(b"PNST",)),
    Target(
        name="document", run=_document, words=json_words(), seeds=_document_seeds,
    ),
    Target(
        name="log-segment", run=_log_segment, seeds=stored_seeds.segments,
        mutate=mended(lambda data: data[:2] + data[2 : 2 + sum(data[1:2])] + segment_checksums(data[2 + sum(data[1:2]) :])),
    ),
    Target(name="run", run=_run, seeds=stored_seeds.runs, mutate=mended(run_checksum)),
    Target(name="names", run=_names, seeds=stored_seeds.names, words=(b"PAR1",)),
    Target(name="lookup", run=_lookup, seeds=stored_seeds.lookups, words=json_words('"tables"', '"version"', '"hashed"')),
    Target(
        name="dense", run=_dense, seeds=lambda: reader_seeds.safetensors_files()[:1],
        mutate=mended(header_length("<Q", 0)), words=json_words('"dtype"', '"shape"', '"data_offsets"', "F32", "BF16"),
    ),
)  # fmt: skip
