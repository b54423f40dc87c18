"""Every lie that the index of a TensorFlow bundle can tell, and data files that are not what it says."""

import struct

import numpy as np
import pytest
from open_files import nothing_left_open
from tensorflow_files import header, message, number, shape_proto, slice_key, slice_proto, table, varint, write_bundle

from penstock.pipeline.core.errors import Corrupt, NotFound, Unsupported
from penstock.slicer.readers import open_checkpoint

ROWS = np.arange(48, dtype=np.float32).reshape(12, 4)


def read_all(checkpoint):
    return {info.name: b"".join(block.tobytes() for block in checkpoint.blocks(info.name)) for info in checkpoint.tensors}


def bundle(tmp_path, entries, data=bytes(1000)):
    (tmp_path / "p.data-00000-of-00001").write_bytes(data)
    (tmp_path / "p.index").write_bytes(table(sorted(entries.items())))
    return tmp_path / "p.index"


def entry(*, dtype=1, shape=(2, 3), shard=0, offset=0, size=24, more=b""):
    return number(1, dtype) + shape_proto(shape) + number(3, shard) + number(4, offset) + number(5, size) + more


HALVES = [((0, 1), (0, None)), ((1, 1), (0, None))]
PARTS = {b"v": entry(size=0, more=b"".join(map(slice_proto, HALVES)))}
PIECES = {
    slice_key("v", HALVES[0]): entry(shape=(1, 3), size=12),
    slice_key("v", HALVES[1]): entry(shape=(1, 3), offset=12, size=12),
}
TEXT = {"dtype": 7, "shape": (3,)}


def test_the_entries_of_the_cases_below_are_right(tmp_path):
    with open_checkpoint(bundle(tmp_path, {b"": header(1), b"a": entry(offset=24), **PARTS, **PIECES})) as checkpoint:
        assert read_all(checkpoint) == {"a": bytes(24), "v": bytes(24)}


@pytest.mark.parametrize(
    ("entries", "error", "match"),
    [
        ({}, Unsupported, "lacks the entry of the header"),
        ({b"a": entry()}, Unsupported, "lacks the entry of the header"),
        ({b"": message(1, b"meta")}, Unsupported, "a TensorFlow checkpoint of version 1"),
        ({b"": header(1, consumer=2)}, Unsupported, "for readers of version 2"),
        ({b"": header(1, endianness=2)}, Corrupt, "1 shards of endianness 2"),
        ({b"": header(-1)}, Corrupt, "-1 shards"),
        ({b"": header(2**40)}, Corrupt, "1099511627776 shards"),
        ({b"": header(513)}, Corrupt, "513 shards"),
        ({b"": b"\xff"}, Corrupt, "header: no number"),
        ({b"": header(1), b"a": b"\x0a"}, Corrupt, "tensor a: no number"),
        ({b"": header(1), b"a": message(1, b"x")}, Corrupt, "tensor a: field 1 at 2 is of kind 2"),
        ({b"": header(1), b"a": number(2, 1)}, Corrupt, "is of kind 0, not 2"),
        ({b"": header(1), b"a": entry(more=number(6, 1))}, Corrupt, "is of kind 0, not 5"),
        ({b"": header(1), b"\xff": entry()}, Corrupt, "is not UTF-8"),
        ({b"": header(1), b"a": entry(shard=1)}, Corrupt, "not within 1 shards"),
        ({b"": header(1), b"a": entry(shard=-1)}, Corrupt, "not within 1 shards"),
        ({b"": header(1), b"a": entry(offset=-8)}, Corrupt, "24 bytes at -8"),
        ({b"": header(1), b"a": entry(size=-24)}, Corrupt, "-24 bytes at 0"),
        ({b"": header(1), b"a": entry(offset=990)}, Corrupt, "leaves the file of 1000 bytes"),
        ({b"": header(1), b"a": entry(offset=2**63 - 1)}, Corrupt, "leaves the file of 1000 bytes"),
        ({b"": header(1), b"a": entry(size=23)}, Corrupt, "has 24 bytes, its entry says 23"),
        ({b"": header(1), b"a": entry(shape=(2**62, 2**62))}, Corrupt, "overflows 64 bits"),
        ({b"": header(1), b"a": entry(shape=(-1, 3))}, Corrupt, "is no shape"),
        ({b"": header(1), b"a": entry(shape=(1,) * 33)}, Corrupt, "is no shape"),
        ({b"": header(1), b"a": entry(more=message(2, number(3, 1)))}, Corrupt, "a shape of unknown rank"),
        ({b"": header(1), b"a": entry(), b"b": entry(offset=20)}, Corrupt, "at 20 of shard 0 overlaps the one that ends at 24"),
        ({b"": header(1), b"a": entry(), b"b": entry()}, Corrupt, "overlaps"),
        ({b"": header(1), b"t": entry(**TEXT, size=6)}, Corrupt, "tensor t: 3 texts in 6 bytes"),
        ({b"": header(1), b"t": entry(dtype=7, shape=(2**62, 2**62))}, Corrupt, "tensor t: .* texts in 24 bytes"),
        ({b"": header(1), **PARTS}, Corrupt, r"slice \[\(0, 1\), \(0, -1\)\] has no entry"),
        ({b"": header(1), **PIECES}, Corrupt, "2 slices that no tensor has"),
        ({b"": header(1), **PIECES, b"v": entry(size=0, more=slice_proto(HALVES[0]))}, Corrupt, "hold 3 of its 6 elements"),
        ({b"": header(1), **PIECES, b"v": entry(size=0, more=slice_proto(HALVES[0]) * 2)}, Corrupt, "has no entry"),
        ({b"": header(1), **PARTS, **PIECES, b"v": PARTS[b"v"].replace(b"\x08\x02", b"\x08\x03", 1)}, Corrupt, "hold 6 of its 9"),
        (
            {b"": header(1), **PARTS, **PIECES, slice_key("v", HALVES[1]): entry(shape=(2, 3), offset=12)},
            Corrupt,
            r"is \[2, 3\], type 1",
        ),
        (
            {b"": header(1), **PARTS, **PIECES, slice_key("v", HALVES[1]): entry(dtype=3, shape=(1, 3), offset=12, size=12)},
            Corrupt,
            r"is \[1, 3\], type 3",
        ),
        ({b"": header(1), b"v": entry(size=0, more=slice_proto(((0, 1),)))}, Corrupt, "has no entry"),
        (
            {
                b"": header(1),
                b"v": entry(size=0, more=slice_proto(((0, 2),))),
                slice_key("v", ((0, 2),)): entry(shape=(2,), size=8),
            },
            Corrupt,
            r"of \[2, 3\]",
        ),
        (
            {
                b"": header(1),
                b"v": entry(shape=(2,), size=0, more=slice_proto(((-1, 2),))),
                slice_key("v", ((-1, 2),)): entry(shape=(2,), size=8),
            },
            Corrupt,
            "leaves the tensor",
        ),
        (
            {
                b"": header(1),
                b"v": entry(shape=(3,), size=0, more=slice_proto(((0, 2),)) + slice_proto(((1, 1),))),
                slice_key("v", ((0, 2),)): entry(shape=(2,), size=8),
                slice_key("v", ((1, 1),)): entry(shape=(1,), size=4, offset=8),
            },
            Corrupt,
            "overlap",
        ),
    ],
)
def test_lies_are_told_by_name(tmp_path, entries, error, match):
    path = bundle(tmp_path, entries)
    with nothing_left_open(), pytest.raises(error, match=match):
        open_checkpoint(path)


def test_partitioned_texts_are_listed(tmp_path):
    part = ((0, 1),)
    entries = {
        b"t": entry(dtype=7, shape=(2,), size=0, more=slice_proto(part)),
        slice_key("t", part): entry(dtype=7, shape=(1,), size=6),
    }
    with (
        open_checkpoint(bundle(tmp_path, {b"": header(1), **entries})) as checkpoint,
        pytest.raises(Unsupported, match="is string in slices"),
    ):
        checkpoint.blocks("t")


def test_a_data_file_that_is_missing_or_short(tmp_path):
    index = write_bundle(tmp_path / "p", {"a": ROWS, "b": ROWS}, shards=2)
    second = tmp_path / "p.data-00001-of-00002"
    second.write_bytes(second.read_bytes()[:-1])
    with nothing_left_open(), pytest.raises(Corrupt, match="p.data-00001-of-00002: a tensor at 0, 192 bytes, leaves the file"):
        open_checkpoint(index)
    second.unlink()
    with nothing_left_open(), pytest.raises(NotFound, match="no file at .*p.data-00001-of-00002"):
        open_checkpoint(index)


def test_an_index_by_another_name(tmp_path):
    index = write_bundle(tmp_path / "p", {"a": ROWS})
    with pytest.raises(Unsupported, match="is called <prefix>.index"):
        open_checkpoint(index.rename(tmp_path / "renamed"))


def test_unknown_fields_of_newer_writers_are_passed_over(tmp_path):
    more = number(90, 5) + message(91, b"x") + varint(92 << 3 | 5) + struct.pack("<I", 7)
    with open_checkpoint(bundle(tmp_path, {b"": header(1) + more, b"a": entry(more=more)})) as checkpoint:
        assert checkpoint.read("a").tobytes() == bytes(24)
