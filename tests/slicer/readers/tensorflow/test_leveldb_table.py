"""Sorted tables: what a writer writes is read back, and every lie has its own error."""

import struct

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_files import MAGIC, block, mask, sealed, table, table_of, varint

from penstock.pipeline.core.errors import Corrupt, Unsupported
from penstock.slicer.readers.files.mapped_file import MappedFile
from penstock.slicer.readers.tensorflow import leveldb_table
from penstock.slicer.readers.tensorflow.leveldb_table import entries, is_table, masked, unmasked

ENTRIES = [(f"key/{i:03d}".encode(), b"v" * (i % 7)) for i in range(100)]


def read(path, data):
    path.write_bytes(data)
    file = MappedFile(path)
    try:
        return list(entries(file))
    finally:
        file.close()


@settings(max_examples=60, deadline=None)
@given(
    content=st.dictionaries(st.binary(max_size=40), st.binary(max_size=60), max_size=60),
    per_block=st.integers(1, 70),
    interval=st.integers(1, 20),
    snappy=st.booleans(),
)
def test_whatever_is_written(tmp_path_factory, content, per_block, interval, snappy):
    ordered = sorted(content.items())
    data = table(ordered, per_block=per_block, interval=interval, snappy=snappy)
    assert read(tmp_path_factory.mktemp("any") / "table", data) == ordered


def test_masks():
    assert masked(0) == 0xA282EAD8
    for crc in (0, 1, 0xFFFFFFFF, 0x12345678):
        assert masked(crc) == mask(crc)
        assert unmasked(masked(crc)) == crc


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def raw_block(data, *restarts):
    return sealed(data + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts)))


def single(data, *restarts):
    return table_of([(b"z", raw_block(data, *restarts))])


def handle(offset, length):
    return varint(offset) + varint(length)


def footer(handles):
    return handles.ljust(40, b"\0") + MAGIC


GOOD = sealed(block(ENTRIES[:10]))
A = b"\0\1\1aA"
"""An entry: key "a", value "A"."""


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (table(ENTRIES)[:-1], Corrupt, "no table footer"),
        (b"", Corrupt, "no table footer"),
        (footer(b"\xff" * 40), Corrupt, "no number"),
        (footer(handle(0, 0) + handle(0, 2**40)), Corrupt, "an index block at 0"),
        (footer(handle(0, 0) + handle(2**64 - 1, 1)), Corrupt, "an index block at"),
        (flipped(table(ENTRIES), 3), Corrupt, "block at 0 differs from its checksum"),
        (flipped(table(ENTRIES), len(table(ENTRIES)) - 60), Corrupt, "differs from its checksum"),
        (table([(b"b", b""), (b"a", b"")]), Corrupt, "does not come after"),
        (table([(b"a", b""), (b"a", b"")]), Corrupt, "does not come after"),
        (table([(b"b", b""), (b"a", b"")], per_block=1), Corrupt, "does not come after"),
        (table_of([(b"key/000", GOOD)]), Corrupt, "comes before"),
        (table_of([(b"z", sealed(block(ENTRIES[:10]), kind=4))]), Unsupported, "compressed by method 4"),
        (table_of([(b"z", sealed(b"\xff\xff\xff\xff\x0f" + bytes(9), kind=1))]), Corrupt, "more than snappy can do"),
        (table_of([(b"z", sealed(b"\xe8\x07" + bytes(99), kind=1))]), Corrupt, "is no snappy data"),
        (table_of([(b"z", sealed(b"\xff" * 20, kind=1))]), Corrupt, "no number"),
        (table_of([(b"z", sealed(b"\0\0"))]), Corrupt, "0 restarts in 2 bytes"),
        (table_of([(b"z", sealed(bytes(8)))]), Corrupt, "0 restarts in 8 bytes"),
        (table_of([(b"z", sealed(struct.pack("<II", 0, 2**32 - 1)))]), Corrupt, "4294967295 restarts"),
        (single(A, 1), Corrupt, "a restart is not at an entry"),
        (single(A, 0, 3), Corrupt, "a restart is not at an entry"),
        (single(A, 0, 0), Corrupt, "a restart is not at an entry"),
        (single(b"", 5), Corrupt, "a restart is not at an entry"),
        (single(A + b"\1\1\0b", 0, 5), Corrupt, "the entry at restart 5 shares 1"),
        (single(b"\1\1\1aA", 0), Corrupt, "shares 1 of 0 bytes"),
        (single(A + b"\2\1\0b", 0), Corrupt, "shares 2 of 1 bytes"),
        (single(b"\0\x7f\1aA", 0), Corrupt, "leaves the block"),
        (single(b"\0\1" + varint(2**63) + b"aA", 0), Corrupt, "leaves the block"),
        (single(b"\0\1", 0), Corrupt, "leaves the block"),
        (single(b"\xff" * 12, 0), Corrupt, "no number"),
        (table([(b"k" * 70_000, b"")]), Corrupt, "a key of 70000 bytes"),
    ],
)
def test_lies_are_told_by_name(tmp_path, data, error, match):
    with pytest.raises(error, match=match):
        read(tmp_path / "table", data)


def with_handles(*handles):
    index = sealed(block([(bytes([120 + i]), each) for i, each in enumerate(handles)], interval=1))
    return table_of([(b"x", GOOD), (b"y", GOOD)], index=index)


@pytest.mark.parametrize(
    "handles",
    [
        [handle(0, len(GOOD) - 5), handle(0, len(GOOD) - 5)],
        [handle(len(GOOD), len(GOOD) - 5), handle(0, len(GOOD) - 5)],
        [handle(0, len(GOOD) - 5), handle(len(GOOD) - 4, 10)],
        [handle(2**64 - 1, 10)],
        [handle(0, 2**62)],
        [handle(0, len(GOOD) - 5) + b"\0"],
        [handle(2 * len(GOOD) + 8, 20)],
    ],
)
def test_blocks_that_overlap_repeat_or_leave_the_file(tmp_path, handles):
    with pytest.raises(Corrupt, match="is left for blocks"):
        read(tmp_path / "table", with_handles(*handles))


def test_what_is_read_is_bounded(tmp_path, monkeypatch):
    packed = pa.compress(block([(b"a", bytes(200_000))]), codec="snappy", asbytes=True)
    monkeypatch.setattr(leveldb_table, "MAX_BLOCK_BYTES", 100_000)
    with pytest.raises(Corrupt, match="more than snappy can do, or more than are read"):
        read(tmp_path / "table", table_of([(b"z", sealed(packed, kind=1))]))
    with pytest.raises(Corrupt, match="at most 100000 are read"):
        read(tmp_path / "table", table([(b"a", bytes(200_000))]))
    monkeypatch.setattr(leveldb_table, "MAX_ENTRIES", 99)
    with pytest.raises(Corrupt, match="more than 99 entries"):
        read(tmp_path / "table", table(ENTRIES))
    monkeypatch.undo()
    shared = [(b"p" * 60_000 + b"%07d" % i, b"") for i in range(20)]
    monkeypatch.setattr(leveldb_table, "MAX_TABLE_BYTES", 1_000_000)
    with pytest.raises(Corrupt, match="or 1000000 bytes of them"):
        read(tmp_path / "table", table(shared, per_block=20, interval=20))


def test_what_is_no_table(tmp_path):
    (tmp_path / "short").write_bytes(bytes(47))
    (tmp_path / "other").write_bytes(bytes(100))
    for name in ("short", "other"):
        file = MappedFile(tmp_path / name)
        assert not is_table(file)
        file.close()
