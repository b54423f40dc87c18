"""HDF5 that leads out of its file, claims what it does not hold, or is damaged: refused, and with no file left open."""

import struct
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_files import write_weights
from open_files import nothing_left_open

from penstock.pipeline.core.errors import Corrupt, Refused, Unsupported
from penstock.slicer.readers.files.mapped_file import MappedFile
from penstock.slicer.readers.formats import open_checkpoint
from penstock.slicer.readers.hdf5.hdf5_dataset import Region
from penstock.slicer.readers.hdf5.hdf5_filters import unfiltered

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)
CHUNKED = np.arange(800, dtype=np.float32).reshape(100, 8)


def refused(path, error, match):
    with nothing_left_open(), pytest.raises(error, match=match):
        open_checkpoint(path)


def external_link(file):
    file["out"] = h5py.ExternalLink("/etc/passwd", "/x")


def virtual(file):
    layout = h5py.VirtualLayout((3, 4), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "rows", (3, 4))
    file.create_virtual_dataset("v", layout)


def external_storage(file):
    file.create_dataset("e", (3, 4), "f4", external=[("/etc/passwd", 0, 48)])


def cycle(file):
    file["a/b/up"] = file["a"]


def root_cycle(file):
    file["a/root"] = file["/"]


def shared_group(file):
    file["a/x"] = 1
    file["b"] = file["a"]


def deep(file):
    file["/".join("g" * 70)] = 1


def unwritten(file):
    file.create_dataset("u", (3, 4), "f4")


def unwritten_chunks(file):
    file.create_dataset("u", (30, 4), "f4", chunks=(10, 4))[:10] = 1


def endless_chunks(file):
    file.create_dataset("u", (2**40, 4), "f4", chunks=(10, 4))[:10] = 1


def large_chunks(file):
    file.create_dataset("u", (2**30,), "f4", chunks=(2**24,), compression="gzip")[0] = 1


@pytest.mark.parametrize(
    ("fill", "match"),
    [
        (external_link, "link 'out' in group '' leads to another file"),
        (virtual, "dataset 'v' lies in other files"),
        (external_storage, "dataset 'e' lies in other files"),
        (cycle, "'a/b/up' is reached twice"),
        (root_cycle, "'a/root' is reached twice"),
        (shared_group, "'b' is reached twice"),
        (deep, "deeper than 64 groups"),
        (unwritten, "'u': its elements were never written"),
        (unwritten_chunks, "1 chunks of 3 were written"),
        (endless_chunks, "1 chunks of 109951162778 were written"),
        (large_chunks, "chunks of 67108864 bytes"),
    ],
)
def test_what_is_not_read(tmp_path, fill, match):
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["a/b/rows"] = ROWS
        fill(file)
    refused(tmp_path / "h.h5", Refused, match)


def test_a_link_that_only_keras_follows_does_not_lead_out(tmp_path):
    write_weights(tmp_path / "w.h5", {"dense": {"w": ROWS}})
    with h5py.File(tmp_path / "w.h5", "a") as file:
        del file["dense/w"]
        file["dense/w"] = h5py.SoftLink("/elsewhere")
    refused(tmp_path / "w.h5", Corrupt, "'dense/w' is in weight_names, and there is no such dataset")


def test_types_and_filters_that_are_listed_and_not_read(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["rows"] = ROWS
        file["records"] = np.zeros(3, [("key", "i8"), ("row", "f4")])
        file["reference"] = np.array([file["rows"].ref], h5py.ref_dtype)
        file["region"] = np.array([file["rows"].regionref[0:1]], h5py.regionref_dtype)
        file.create_dataset("lists", (2,), h5py.vlen_dtype("i4"))[0] = [1, 2]
        file["opaque"] = np.zeros(3, "V2")
        file.create_dataset("scaled", data=CHUNKED, chunks=(10, 8), scaleoffset=3)
        file.create_dataset("texts", data=[b"a", b"b"], dtype=h5py.string_dtype(), chunks=(1,))
    with open_checkpoint(tmp_path / "t.h5") as checkpoint:
        assert np.array_equal(checkpoint.read("rows"), ROWS)
        for name, match in (
            ("records", "elements of type"), ("reference", "references or lists"), ("region", "references or lists"),
            ("lists", "references or lists"), ("opaque", "elements of type"), ("scaled", r"stored with the filters \(6,\)"),
            ("texts", "texts in chunks"),
        ):  # fmt: skip
            with pytest.raises(Unsupported, match=match):
                checkpoint.read(name)


def patched(path, old, new):
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


def test_sizes_that_leave_the_file(tmp_path):
    path = tmp_path / "s.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        file["rows"] = ROWS
        offset = file["rows"].id.get_offset()
    whole = path.read_bytes()
    layout = struct.pack("<BBQQ", 3, 1, offset, 48)
    shape = struct.pack("<QQQQ", 3, 4, 3, 4)
    for old, new, match in (
        (layout, struct.pack("<BBQQ", 3, 1, len(whole) - 40, 48), "invalid dataset size|leaves the HDF5 file"),
        (layout, struct.pack("<BBQQ", 3, 1, 2**62, 48), "no HDF5 file that can be read|leaves the HDF5 file"),
        (layout, struct.pack("<BBQQ", 3, 1, offset, 40), "no HDF5 file that can be read|40 are stored"),
        (shape, struct.pack("<QQQQ", 2**40, 4, 2**40, 4), "no HDF5 file that can be read|48 are stored"),
        (shape, struct.pack("<QQQQ", 2**62, 2**62, 2**62, 2**62), "no HDF5 file that can be read|overflows 64 bits"),
    ):
        path.write_bytes(whole)
        patched(path, old, new)
        refused(path, Corrupt, match)


def test_names_that_are_paths(tmp_path):
    path = tmp_path / "n.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        file["a"] = ROWS
        file["axb"] = ROWS
    patched(path, b"axb\0", b"a/b\0")
    refused(path, Corrupt, "has a name that is none")


def test_cut_short(tmp_path):
    path = tmp_path / "w.h5"
    write_weights(path, {"dense": {"w": CHUNKED}})
    whole = path.read_bytes()
    for length in range(8, len(whole), 97):
        path.write_bytes(whole[:length])
        refused(path, Corrupt, "no HDF5 file that can be read|leaves the HDF5 file")


def test_a_member_does_not_reach_out_of_its_place_in_a_zip(tmp_path):
    (tmp_path / "f").write_bytes(bytes(100))
    file = MappedFile(tmp_path / "f")
    region = Region(file, 20, 50)
    assert region.place(10, 40, "a dataset") == 30
    for offset, nbytes in ((10, 41), (51, 0), (-1, 1), (0, -1), (2**63, 2**63)):
        with pytest.raises(Corrupt, match="leaves the HDF5 file of 50 bytes"):
            region.place(offset, nbytes, "a dataset")
    file.close()


def text_file(path):
    with h5py.File(path, "w", libver="earliest") as file:
        file.create_dataset("t", data=[b"alpha", b"beta"], dtype=h5py.string_dtype())
        return file["t"].id.get_offset()


@pytest.mark.parametrize(
    ("at", "value", "match"),
    [
        (0, struct.pack("<I", 6), "has 5 bytes, not 6"),
        (4, struct.pack("<Q", 8), "no heap at 8"),
        (4, struct.pack("<Q", 2**63), "leaves the HDF5 file"),
        (12, struct.pack("<I", 99), "object 99 of the heap"),
    ],
)
def test_texts_that_are_not_where_they_should_be(tmp_path, at, value, match):
    path = tmp_path / "t.h5"
    offset = text_file(path)
    data = bytearray(path.read_bytes())
    data[offset + at : offset + at + len(value)] = value
    path.write_bytes(data)
    with open_checkpoint(path) as checkpoint, pytest.raises(Corrupt, match=match):
        checkpoint.texts("t", 0, 2)


def test_heaps_that_lie(tmp_path):
    path = tmp_path / "t.h5"
    text_file(path)
    whole = path.read_bytes()
    heap = whole.index(b"GCOL")
    for at, value, match in (
        (8, struct.pack("<Q", 2**62), "leaves the HDF5 file"),
        (16 + 8, struct.pack("<Q", 2**62), "object 1 of the heap at .* leaves it"),
        (16 + 24, struct.pack("<H", 1), "object 1 of the heap at .* is there twice"),
    ):
        data = bytearray(whole)
        data[heap + at : heap + at + len(value)] = value
        path.write_bytes(data)
        with open_checkpoint(path) as checkpoint, pytest.raises(Corrupt, match=match):
            checkpoint.texts("t", 0, 2)


def test_texts_that_claim_more_than_the_file_has(tmp_path):
    path = tmp_path / "t.h5"
    offset = text_file(path)
    data = bytearray(path.read_bytes())
    data[offset : offset + 4] = b"\xff" * 4
    path.write_bytes(data)
    refused(path, Corrupt, "claims texts of 4294967299 bytes")


@pytest.mark.parametrize(
    "options", [{"compression": "gzip"}, {"compression": "lzf"}, {"fletcher32": True}], ids=["gzip", "lzf", "sum"]
)
def test_damage_in_a_chunk(tmp_path, options):
    path = tmp_path / "c.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("t", data=CHUNKED, chunks=(100, 8), **options)
        chunk = file["t"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset] ^= 0xFF
    path.write_bytes(data)
    with open_checkpoint(path) as checkpoint, pytest.raises(Corrupt, match="'t': a chunk"):
        checkpoint.read("t")


def undone(data, *filters, nbytes):
    return unfiltered(np.frombuffer(data, np.uint8), filters, skipped=0, width=4, nbytes=nbytes, what="dataset 't'").tobytes()


def test_chunks_that_would_grow(tmp_path):
    bomb = zlib.compress(bytes(1 << 24))
    for data, filters, match in (
        (bomb, (1,), "inflates to more than 1000 bytes"),
        (zlib.compress(bytes(1000))[:-6], (1,), "does not end"),
        (zlib.compress(bytes(999)), (1,), "has 999 bytes, 1000 belong there"),
        (b"not deflated", (1,), "does not inflate"),
        (b"\x00a" + b"\xe0\xff\x00" * 100, (32000,), "holds more than 1000 bytes"),
        (b"\x20\x05", (32000,), "is no lzf"),
        (b"\xe0", (32000,), "is no lzf"),
        (b"\x05ab", (32000,), "is no lzf"),
        (b"abc", (3,), "has no checksum"),
        (bytes(1000) + b"1234", (3,), "differs from its checksum"),
        (b"x" * 3, (), "has 3 bytes"),
    ):
        with pytest.raises(Corrupt, match=match):
            undone(data, *filters, nbytes=1000)
    assert undone(zlib.compress(bytes(1000)), 1, nbytes=1000) == bytes(1000)


def test_without_h5py(tmp_path, monkeypatch):
    write_weights(tmp_path / "w.h5", {"dense": {"w": ROWS}})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(Unsupported, match="needs h5py") as caught:
        open_checkpoint(tmp_path / "w.h5")
    assert caught.value.hint == "pip install 'penstock[keras]'"


@settings(max_examples=150, deadline=None)
@given(data=st.data(), libver=st.sampled_from(["earliest", "latest"]))
def test_any_damage_is_refused_or_leaves_plain_arrays(tmp_path_factory, data, libver):
    path: Path = tmp_path_factory.mktemp("damaged") / "a.h5"
    write_weights(path, {"dense": {"w": ROWS}}, libver=libver)
    with h5py.File(path, "a", libver=libver) as file:
        file.create_dataset("c", data=CHUNKED, chunks=(30, 5), compression="gzip", fletcher32=True)
        file.create_dataset("t", data=[b"alpha", b"beta"], dtype=h5py.string_dtype())
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    with nothing_left_open(), suppress(Refused), open_checkpoint(path) as checkpoint:
        total = sum(block.nbytes for info in checkpoint.tensors for block in checkpoint.blocks(info.name))
        assert total <= 8 * len(damaged)
