"""Runs: what was written is read; whatever is not what was written is refused, by the rule that it breaks."""

from __future__ import annotations

import base64
import struct
import zlib

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.pipeline.core.errors import Corrupt, NotFound, PenstockError, Unsupported
from penstock.pipeline.core.hashing import buckets_of
from penstock.pipeline.core.manifest import RunInfo
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.pipeline.ports.store import ObjectStore, Overwrite
from penstock.slicer.arrow_frame import encoded_schema, frame
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.runs import Run
from penstock.slicer.slicing import slice_rows

NONE = np.empty(0, np.int64)


def sliced(store: ObjectStore, layout: TableLayout, count: int, *, seed: int = 3) -> tuple[RunInfo, dict[int, bytes]]:
    random = np.random.default_rng(seed)
    keys = random.choice(np.arange(-5 * count, 5 * count), count, replace=False)
    rows = random.standard_normal((count, layout.dim)).astype(np.float32).view(np.uint8)
    (info,) = slice_rows(keys, rows, NONE, layout, store, f"m/data/{seed}").runs
    return info, {key: row.tobytes() for key, row in zip(keys.tolist(), rows, strict=True)}


def rewritten(store: ObjectStore, info: RunInfo, change) -> RunInfo:
    """The info as it would be if the bytes had been written so."""
    data = bytearray(store.get(info.path).data)
    changed = change(data)
    data = data if changed is None else changed
    store.put(info.path, bytes(data), Overwrite())
    return msgspec.structs.replace(info, bytes=len(data))


def test_a_run_gives_back_its_rows(store, layout):
    info, table = sliced(store, layout, 300)
    with Run.open(store, info, buckets=16, layout=layout) as run:
        keys, rows = run.keys(), run.rows()
        digests = run.verify()
        halves = [np.concatenate([run.keys(part) for part in (range(7), range(7, 16))])]
        tenth, tenth_rows = run.keys(range(10, 11)), run.rows(range(10, 11))
    assert dict(zip(keys.tolist(), (row.tobytes() for row in rows), strict=True)) == table
    assert (halves[0] == keys).all()
    assert set(buckets_of(tenth, 16)) == {10}
    assert [table[key] for key in tenth.tolist()] == [row.tobytes() for row in tenth_rows]
    assert f"{int(digests.sum(dtype=np.uint64)):016x}" == info.digest
    assert info.bytes == store.size(info.path)


def test_any_arrow_tool_opens_a_run(store, layout):
    info, table = sliced(store, layout, 50)
    found = pa.ipc.open_file(pa.py_buffer(store.get(info.path).data)).read_all()
    found.validate(full=True)
    assert dict(zip(found["key"].to_pylist(), found["row"].to_pylist(), strict=True)) == table
    metadata = {key.decode(): value.decode() for key, value in found.schema.metadata.items()}
    assert (metadata["penstock.format"], metadata["penstock.table"], metadata["penstock.codec"]) == ("1", "customer", "float32")
    offsets = np.frombuffer(base64.b64decode(metadata["penstock.offsets"]), "<u4")
    assert (np.diff(offsets) == np.bincount(buckets_of(np.array(list(table)), 16), minlength=16)).all()


def test_tombstones_are_a_run_of_keys(store, layout, tombstone_digests):
    deleted = [5, -3, 2**63 - 1, -(2**63)]
    (info,) = slice_rows(NONE, np.empty((0, 16), np.uint8), np.array(deleted), layout, store, "m/data/t").runs
    assert (info.kind, info.rows) == ("tombstones", 4)
    with Run.open(store, info, buckets=16) as run:
        assert sorted(run.keys().tolist()) == sorted(deleted)
        assert (run.verify() == tombstone_digests(deleted)).all()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(asked=st.lists(st.integers(-3000, 3000), unique=True, max_size=40), count=st.integers(1, 400))
def test_keys_are_found_and_taken(store, layout, asked, count):
    info, table = sliced(store, layout, count)
    wanted = np.array([*asked, *(set(list(table)[::7]) - set(asked))], np.int64)
    with Run.open(store, info, buckets=16) as run:
        positions, found = run.find(wanted)
        assert found.tolist() == [key in table for key in wanted.tolist()]
        rising = np.sort(positions[found])
        rows = run.take(rising)
        assert [row.tobytes() for row in rows] == [table[key] for key in run.keys()[rising].tolist()]


def test_a_few_keys_cost_a_few_bytes():
    class Counting(MemoryStore):
        read = 0

        def get_range(self, key: str, start: int, length: int) -> bytes:
            self.read += length
            return super().get_range(key, start, length)

    store, layout = Counting(), TableLayout(table="t", codec="float32", dim=32, width=128, buckets=4096)
    info, table = sliced(store, layout, 40_000)
    asked = np.array(list(table)[:3])
    with Run.open(store, info, buckets=4096) as run:
        opened = store.read
        positions, found = run.find(asked)
        run.take(np.sort(positions))
    assert found.all()
    assert opened < 64_000
    assert store.read - opened < info.bytes // 20


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("bytes", 7, "bytes, 7 were written"), ("rows", 49, "keys 50 in the file"), ("digest", "0" * 16, "digest"),
        ("kind", "tombstones", "kind rows in the file"), ("path", "m/data/none", "no such object"),
    ],
)  # fmt: skip
def test_a_run_that_differs_from_its_info_is_refused(store, layout, field, value, rule):
    info, _ = sliced(store, layout, 50)
    wrong = msgspec.structs.replace(info, **{field: value})
    with pytest.raises(NotFound if field == "path" else Corrupt, match=rule):
        Run.open(store, wrong, buckets=16, layout=layout).verify()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"table": "item"}, "table customer"),
        ({"codec": "int8"}, "codec float32"),
        ({"dim": 5}, "dim 4"),
        ({"width": 20}, "a row 16"),
    ],
)
def test_a_run_of_another_table_is_refused(store, layout, change, rule):
    info, _ = sliced(store, layout, 50)
    fields = {name: getattr(layout, name) for name in layout.__slots__} | change
    with pytest.raises(Corrupt, match=rule):
        Run.open(store, info, buckets=16, layout=TableLayout(**fields))


def test_another_number_of_buckets_is_refused(store, layout):
    info, _ = sliced(store, layout, 50)
    with pytest.raises(Corrupt, match="buckets 16 in the file, 32"):
        Run.open(store, info, buckets=32)


@pytest.mark.parametrize("keep", [0, 1, 7, 15, 16, 100, 500, 1000, -200, -1])
def test_a_truncated_run_is_refused(store, layout, keep):
    info, _ = sliced(store, layout, 50)
    info = rewritten(store, info, lambda data: data[: keep % len(data)])
    with pytest.raises(Corrupt, match="data/3/customer"):
        Run.open(store, info, buckets=16).verify()


def test_every_flipped_byte_is_found(layout):
    store = MemoryStore()
    info, _ = sliced(store, layout, 20)
    whole = store.get(info.path).data
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 0x40
        store.put(info.path, bytes(data), Overwrite())
        with pytest.raises((Corrupt, Unsupported), match="data/3/customer"):
            Run.open(store, info, buckets=16, layout=layout).verify()


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=200), at=st.integers(0, 1500), schema_length=st.none() | st.integers(-(2**31), 2**31 - 1))
def test_no_bytes_make_it_stumble(data, at, schema_length):
    store, layout = MemoryStore(), TableLayout(table="t", codec="float32", dim=4, width=16, buckets=16)
    info, _ = sliced(store, layout, 20)

    def change(whole: bytearray) -> None:
        whole[at : at + len(data)] = data
        if schema_length is not None:
            whole[12:16] = struct.pack("<i", schema_length)

    before = store.get(info.path).data
    info = rewritten(store, info, change)
    try:
        Run.open(store, info, buckets=16).verify()
    except PenstockError:
        return
    assert store.get(info.path).data == before


@pytest.mark.parametrize(
    ("metadata", "rule"),
    [
        ({"format": "2"}, "run format 2"), ({"dim": "-4"}, "dim '-4'"), ({"dim": "4" * 30}, "dim"),
        ({"buckets": "0"}, "buckets '0'"),
        ({"keys": "1"}, "are not two numbers"), ({"keys": "9 1"}, "no range of int64"), ({"keys": f"0 {2**63}"}, "no range"),
        ({"offsets": "!!"}, "not base64"), ({"offsets": ""}, "0 bytes of offsets"), ({"crc": "0"}, "does not match its checksum"),
        ({"offsets": base64.b64encode(struct.pack("<17Q", *range(16), 2**50)).decode()}, "do not grow"),
        ({"offsets": base64.b64encode(struct.pack("<17I", *range(15), 3, 20)).decode()}, "do not grow"),
        ({"extra": "1"}, "missing or unknown: penstock.extra"), ({"table": None}, "missing or unknown: penstock.table"),
    ],
)  # fmt: skip
def test_metadata_that_says_nonsense_is_refused(layout, metadata, rule):
    store = MemoryStore()
    info, _ = sliced(store, layout, 20)
    schema = pa.ipc.open_file(pa.py_buffer(store.get(info.path).data)).schema
    texts = {key.decode().removeprefix("penstock."): value.decode() for key, value in schema.metadata.items()} | metadata
    if "crc" not in metadata and "table" not in metadata:
        named = [texts[name] for name in ("format", "table", "codec", "dim", "buckets", "keys", "offsets")]
        texts["crc"] = f"{zlib.crc32(chr(10).join(named).encode()):08x}"
    kept = {f"penstock.{key}": value for key, value in texts.items() if value is not None}
    built = frame(encoded_schema(schema.with_metadata(kept)), rows=20, width=16)
    data = built.head + bytes(built.size - len(built.head))
    store.put(info.path, data, Overwrite())
    with pytest.raises((Corrupt, Unsupported), match=rule):
        Run.open(store, msgspec.structs.replace(info, bytes=len(data)), buckets=16)
