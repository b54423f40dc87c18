"""`.npy` and `.npz`: what numpy writes, in every way it does, and what nobody should."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes

from penstock.pipeline.core.errors import Corrupt, InvalidInput, Refused, Unsupported
from penstock.slicer.readers import open_checkpoint

SAVES = {"stored": np.savez, "deflated": np.savez_compressed}
ARRAYS = {
    "rows": np.random.default_rng(0).standard_normal((5000, 8), np.float32),
    "keys": np.arange(5000, dtype=np.uint64),
    "half": np.linspace(0, 1, 12, dtype=np.float16).reshape(3, 4),
    "big": np.arange(10, dtype=">f8"),
    "names": np.array(["one", "three"]),
    "flag": np.array(True),
    "none": np.empty((0, 5), np.float32),
}


@pytest.fixture(params=SAVES)
def packed(request, tmp_path):
    SAVES[request.param](tmp_path / "arrays.npz", **ARRAYS)
    return tmp_path / "arrays.npz"


def test_every_array_is_what_was_saved(packed):
    with open_checkpoint(packed) as checkpoint:
        assert checkpoint.format == "npz"
        assert [info.name for info in checkpoint.tensors] == list(ARRAYS)
        for name, wanted in ARRAYS.items():
            little = wanted.astype(wanted.dtype.newbyteorder("<"))
            assert checkpoint.info(name).shape == wanted.shape
            assert np.array_equal(checkpoint.read(name), wanted)
            assert checkpoint.read(name).dtype == little.dtype
            assert b"".join(block.tobytes() for block in checkpoint.blocks(name, limit_bytes=100)) == little.tobytes()
        assert checkpoint.info("names").role == "other"


def test_ranges_in_any_order(packed):
    with open_checkpoint(packed) as checkpoint:
        for start in (0, 100, 4000, 50, 4999, 0):
            part = np.empty((min(500, 5000 - start), 8), np.float32)
            checkpoint.read_rows_into("rows", start, part)
            assert np.array_equal(part, ARRAYS["rows"][start : start + 500])
            assert np.array_equal(checkpoint.rows("keys", start, start + 1), [start])
            signed = np.empty((3, 4), np.float32)
            checkpoint.read_rows_into("half", 0, signed)
            assert np.array_equal(signed, ARRAYS["half"])
        with pytest.raises(InvalidInput, match="without loss"):
            checkpoint.read_rows_into("keys", 0, np.empty(10, np.int64))


@settings(deadline=None)
@given(value=arrays(scalar_dtypes(), array_shapes(min_dims=0, min_side=0)), fortran=st.booleans(), deflated=st.booleans())
def test_any_array_that_numpy_saves(tmp_path_factory, value, fortran, deflated):
    path = tmp_path_factory.mktemp("any") / "value.npz"
    value = np.asfortranarray(value) if fortran else value
    SAVES["deflated" if deflated else "stored"](path, value=value)
    np.save(path.with_name("value.npy"), value)
    with open_checkpoint(path.with_name("value.npy")) as checkpoint:
        assert (checkpoint.format, checkpoint.tensors[0].name) == ("npy", "value")
        assert checkpoint.read("value").tobytes() == value.astype(value.dtype.newbyteorder("<")).tobytes()
    if deflated and value.flags.f_contiguous and not value.flags.c_contiguous:
        with pytest.raises(Unsupported, match="Fortran order"):
            open_checkpoint(path)
        return
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("value").tobytes() == value.astype(value.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize("save", SAVES.values())
def test_objects_are_refused_and_not_unpickled(tmp_path, save):
    save(tmp_path / "a.npz", ids=np.array([{"a": 1}], object))
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object))
    for name in ("a.npz", "a.npy"):
        with pytest.raises(Refused, match="holds pickled objects"):
            open_checkpoint(tmp_path / name)


def test_arrays_of_records_are_unsupported(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3, [("key", "i8"), ("row", "f4", 4)]))
    with pytest.raises(Unsupported, match="arrays of numbers and text"):
        open_checkpoint(tmp_path / "a.npy")


@pytest.mark.parametrize("name", SAVES)
def test_reading_takes_no_more_memory_than_the_buffer(tmp_path, name):
    values = np.zeros((1 << 20, 16), np.float32)
    values[:, 0] = np.arange(1 << 20)
    SAVES[name](tmp_path / "large.npz", rows=values)
    buffer = np.empty((4096, 16), np.float32)
    with open_checkpoint(tmp_path / "large.npz") as checkpoint:
        tracemalloc.start()
        for start in range(0, 1 << 20, 4096):
            checkpoint.read_rows_into("rows", start, buffer)
            assert buffer[0, 0] == start
        blocks = sum(block.nbytes for block in checkpoint.blocks("rows"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert blocks == values.nbytes
    assert peak < 4 << 20


def npy(descr="<f4", shape=(6,), data=bytes(24), fortran=False):
    header = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (npy(shape=(7,)), r"shape \[7\] of float32 needs"),
        (npy(data=bytes(25)), r"shape \[6\] of float32 needs"),
        (npy(shape=(2**62, 2**62)), "overflows 64 bits"),
        (npy(shape=(2**62, 0, 8)), "overflows 64 bits"),
        (npy(shape=(-1,)), "no size of a dimension"),
        (npy(shape=(True,)), "no size of a dimension"),
        (npy(shape=(1,) * 33), "33 dimensions"),
        (npy(shape=6), "shape is not valid"),
        (npy(descr="<q9"), "descr is not a valid"),
        (npy(descr="<f4" + "," * 2000), "npy header"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "npy header"),
        (b"\x93NUMPY\x01\x00\x00\x0f" + b"(" * 3840, "npy header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"{}", "npy header"),
        (b"\x93NUMPY\x01", "npy header"),
    ],
)
def test_headers_that_lie(tmp_path, data, match):
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(Corrupt, match=match):
        open_checkpoint(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", data)
    with pytest.raises(Corrupt, match=match):
        open_checkpoint(tmp_path / "a.npz")


def test_versions_and_members_that_are_unknown(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x03\x00" + npy()[8:])
    with pytest.raises(Unsupported, match=r"npy version 3\.0"):
        open_checkpoint(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", npy())
        archive.writestr("b.txt", b"")
    with pytest.raises(Unsupported, match=r"'b\.txt' is no \.npy"):
        open_checkpoint(tmp_path / "a.npz")


@pytest.mark.parametrize("name", SAVES)
def test_cut_short_and_damaged(tmp_path, name):
    buffer = io.BytesIO()
    SAVES[name](buffer, a=np.arange(40, dtype=np.float32).reshape(10, 4), b=np.arange(3))
    whole, path = buffer.getvalue(), tmp_path / "a.npz"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(Refused):
            open_checkpoint(path)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), name=st.sampled_from(list(SAVES)))
def test_any_damage_is_refused_or_leaves_plain_arrays(tmp_path_factory, data, name):
    buffer = io.BytesIO()
    SAVES[name](buffer, a=np.arange(40, dtype=np.float32).reshape(10, 4), b=np.arange(3))
    damaged = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.npz"
    path.write_bytes(damaged)
    try:
        with open_checkpoint(path) as checkpoint:
            total = sum(checkpoint.read(info.name).nbytes for info in checkpoint.tensors)
    except Refused:
        return
    assert total <= len(damaged) * 2


def test_a_flipped_bit_in_deflated_data_is_found(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.random.default_rng(0).standard_normal(1000))
    with open_checkpoint(tmp_path / "a.npz") as checkpoint:
        wanted = checkpoint.read("a")
    whole = bytearray((tmp_path / "a.npz").read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / "a.npz").write_bytes(whole)
    with pytest.raises(Corrupt, match=r"zip member 'a\.npy'"), open_checkpoint(tmp_path / "a.npz") as checkpoint:
        checkpoint.read("a")
    assert wanted.shape == (1000,)
