"""Keras HDF5 of every layout, a real one from 2017 among them, against h5py; and what others store in HDF5."""

import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes
from keras_files import fill_keras3, write_keras_zip, write_model, write_weights

from penstock.pipeline.core.errors import Corrupt, InvalidInput, Unsupported
from penstock.slicer.readers.formats import open_checkpoint

GMF = Path(__file__).parents[3] / "data" / "keras_h5_ncf" / "ml-1m_GMF_8_1501651698.h5"
RNG = np.random.default_rng(7)
TABLE = RNG.standard_normal((1000, 8)).astype(np.float32)
LAYERS = {
    "user": {"user/embeddings:0": TABLE},
    "flatten": {},
    "dense": {"dense/kernel:0": TABLE[:16], "dense/bias:0": TABLE[0]},
}


def all_bytes(checkpoint, name, limit):
    return b"".join(block.tobytes() for block in checkpoint.blocks(name, limit_bytes=limit))


def check_against_h5py(checkpoint, file):
    """Every number in every way of reading."""
    for info in checkpoint.tensors:
        wanted = file[info.name][()]
        assert info.shape == wanted.shape
        assert np.array_equal(checkpoint.read(info.name), wanted)
        assert all_bytes(checkpoint, info.name, 1000) == wanted.tobytes()
        if wanted.ndim:
            middle = len(wanted) // 2
            part = np.empty_like(wanted[middle:])
            checkpoint.read_rows_into(info.name, middle, part)
            assert np.array_equal(part, wanted[middle:])
            assert np.array_equal(checkpoint.rows(info.name, middle, len(wanted)), wanted[middle:])


def test_a_real_file_of_keras_1():
    with open_checkpoint(GMF) as checkpoint, h5py.File(GMF, locking=False) as file:
        assert checkpoint.format == "hdf5"
        assert [(info.name, info.shape, info.role) for info in checkpoint.tensors] == [
            ("item_embedding/item_embedding_W", (3706, 8), "embedding"),
            ("user_embedding/user_embedding_W", (6040, 8), "embedding"),
            ("prediction/prediction_W", (8, 1), "dense"),
            ("prediction/prediction_b", (1,), "dense"),
        ]
        check_against_h5py(checkpoint, file)


def test_tables_are_mapped_and_not_copied():
    with open_checkpoint(GMF) as checkpoint:
        rows = checkpoint.rows("user_embedding/user_embedding_W", 10, 20)
        assert not rows.flags.writeable
        assert rows.base is not None


@pytest.mark.parametrize("options", [{}, {"libver": "earliest"}, {"libver": "latest"}, {"userblock_size": 1024}])
@pytest.mark.parametrize("limit", [64512, 20])
def test_weights_in_the_order_of_keras(tmp_path, options, limit):
    write_weights(tmp_path / "w.h5", LAYERS, limit=limit, **options)
    with open_checkpoint(tmp_path / "w.h5") as checkpoint, h5py.File(tmp_path / "w.h5") as file:
        names = ["user/user/embeddings:0", "dense/dense/kernel:0", "dense/dense/bias:0"]
        assert [info.name for info in checkpoint.tensors] == names
        check_against_h5py(checkpoint, file)


def test_a_whole_model_is_called_like_its_weights(tmp_path):
    write_model(tmp_path / "m.h5", LAYERS, {"iteration:0": np.int64(7), "Adam/user/m:0": TABLE})
    with open_checkpoint(tmp_path / "m.h5") as checkpoint:
        assert [(info.name, info.role) for info in checkpoint.tensors] == [
            ("user/user/embeddings:0", "embedding"),
            ("dense/dense/kernel:0", "dense"),
            ("dense/dense/bias:0", "dense"),
            ("optimizer_weights/iteration:0", "optimizer"),
            ("optimizer_weights/Adam/user/m:0", "optimizer"),
        ]
        assert checkpoint.read("optimizer_weights/iteration:0") == 7
        assert np.array_equal(checkpoint.read("user/user/embeddings:0"), TABLE)


def test_names_that_h5py_3_writes_as_texts_of_any_length(tmp_path):
    write_weights(tmp_path / "w.h5", LAYERS)
    with h5py.File(tmp_path / "w.h5", "a") as file:
        file.attrs["layer_names"] = [name.encode() for name in LAYERS]
        file["dense"].attrs["weight_names"] = list(LAYERS["dense"])
    with open_checkpoint(tmp_path / "w.h5") as checkpoint, h5py.File(tmp_path / "w.h5") as file:
        assert len(checkpoint.tensors) == 3
        check_against_h5py(checkpoint, file)


BFLOAT16 = (TABLE[:5].view(np.uint32) >> 16).astype(np.uint16)
KERAS3 = {"user_embedding": [TABLE], "dense": [TABLE[:16], TABLE[0]], "half": [BFLOAT16.view("V2")]}


def check_keras3(checkpoint):
    assert {info.name: info.role for info in checkpoint.tensors} == {
        "layers/user_embedding/vars/0": "embedding",
        "layers/dense/vars/0": "dense",
        "layers/dense/vars/1": "dense",
        "layers/half/vars/0": "dense",
        "optimizer/vars/0": "optimizer",
        "optimizer/vars/1": "optimizer",
    }
    assert np.array_equal(checkpoint.read("layers/user_embedding/vars/0"), TABLE)
    assert checkpoint.info("layers/half/vars/0").dtype == "bfloat16"
    assert np.array_equal(checkpoint.read("layers/half/vars/0"), BFLOAT16)
    widened = np.empty((5, 8), np.float32)
    checkpoint.read_rows_into("layers/half/vars/0", 0, widened)
    assert np.array_equal(widened, (BFLOAT16.astype(np.uint32) << 16).view(np.float32))


def test_keras_3(tmp_path):
    optimizer = [np.int64(3), TABLE]
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        fill_keras3(file, KERAS3, optimizer)
    with open_checkpoint(tmp_path / "a.weights.h5") as checkpoint:
        assert checkpoint.format == "hdf5"
        check_keras3(checkpoint)
    write_keras_zip(tmp_path / "a.keras", KERAS3, optimizer)
    with open_checkpoint(tmp_path / "a.keras") as checkpoint:
        assert checkpoint.format == "keras"
        check_keras3(checkpoint)
    write_keras_zip(tmp_path / "b.keras", KERAS3, optimizer, method=zipfile.ZIP_DEFLATED)
    with pytest.raises(Unsupported, match=r"model\.weights\.h5 is compressed"):
        open_checkpoint(tmp_path / "b.keras")


def test_many_layers_in_a_group_that_the_library_stores_densely(tmp_path):
    layers = {f"layer_{number:03}": {"w": np.full((2, 3), number, np.float32)} for number in range(200)}
    write_weights(tmp_path / "w.h5", layers, libver="latest")
    with open_checkpoint(tmp_path / "w.h5") as checkpoint:
        assert [info.name for info in checkpoint.tensors] == [f"{layer}/w" for layer in layers]
        assert checkpoint.read("layer_117/w")[0, 0] == 117


def test_a_list_names_what_is_not_there(tmp_path):
    for gone, match in (
        ("dense/dense/bias:0", "'dense/dense/bias:0' is in weight_names"),
        ("user", "layer 'user' is in layer_names"),
    ):
        write_weights(tmp_path / "w.h5", LAYERS)
        with h5py.File(tmp_path / "w.h5", "a") as file:
            del file[gone]
        with pytest.raises(Corrupt, match=match):
            open_checkpoint(tmp_path / "w.h5")


FILTERS = {
    "plain": {},
    "gzip": {"compression": "gzip"},
    "all": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"compression": "lzf", "shuffle": True},
    "checked": {"fletcher32": True},
}


@pytest.mark.parametrize("options", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("libver", ["earliest", "latest"])
@settings(deadline=None, max_examples=20)
@given(data=st.data(), kind=st.sampled_from(["<f4", ">f4", "<f8", "<i8", "u1", "<f2"]))
def test_any_chunks(tmp_path_factory, options, libver, data, kind):
    shape = data.draw(array_shapes(min_dims=1, max_dims=3, max_side=23))
    chunk = tuple(data.draw(st.integers(1, size)) for size in shape)
    values = (np.random.default_rng(len(shape)).standard_normal(shape) * 3).astype(kind)
    path = tmp_path_factory.mktemp("chunks") / "c.h5"
    with h5py.File(path, "w", libver=libver) as file:
        maxshape = data.draw(st.sampled_from([(None,) * len(shape), (None, *shape[1:])]))
        file.create_dataset("t", data=values, chunks=chunk, maxshape=maxshape, **options)
    start = data.draw(st.integers(0, shape[0]))
    stop = data.draw(st.integers(start, shape[0]))
    with open_checkpoint(path) as checkpoint:
        assert np.array_equal(checkpoint.rows("t", start, stop), values[start:stop])
        assert np.array_equal(checkpoint.read("t"), values)
        assert (
            all_bytes(checkpoint, "t", data.draw(st.integers(1, 300))) == values.astype(values.dtype.newbyteorder("<")).tobytes()
        )
        if values.dtype.kind == "f":
            part = np.empty((stop - start, *shape[1:]), np.float32)
            checkpoint.read_rows_into("t", start, part)
            assert np.array_equal(part, values[start:stop].astype(np.float32))


@settings(deadline=None, max_examples=60)
@given(value=arrays(scalar_dtypes(), array_shapes(min_dims=0, max_dims=4, min_side=0)))
def test_any_array_that_h5py_stores_in_one_piece(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("any") / "a.h5"
    if value.dtype.kind in "mM":
        return
    with h5py.File(path, "w") as file:
        file["a/b"] = value
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.info("a/b").shape == value.shape
        assert checkpoint.read("a/b").tobytes() == value.astype(value.dtype.newbyteorder("<")).tobytes()
        assert all_bytes(checkpoint, "a/b", 7) == value.astype(value.dtype.newbyteorder("<")).tobytes()


TEXTS = [b"a", b"", "größer".encode(), b"x" * 5000, b"last"] * 40


@pytest.mark.parametrize("userblock", [0, 512])
def test_texts_of_any_length(tmp_path, userblock):
    with h5py.File(tmp_path / "t.h5", "w", userblock_size=userblock) as file:
        file.create_dataset("names", data=TEXTS, dtype=h5py.string_dtype())
        file["version"] = "1.0"
        file["none"] = np.empty(0, h5py.string_dtype())
        file["fixed"] = np.array([b"ab", b"c"])
    framed = b"".join(len(text).to_bytes(8, "little") + text for text in TEXTS)
    with open_checkpoint(tmp_path / "t.h5") as checkpoint:
        info = checkpoint.info("names")
        assert (info.shape, info.dtype, info.nbytes) == ((200,), "string", len(framed))
        assert checkpoint.texts("names", 0, 200).to_pylist() == TEXTS
        assert checkpoint.texts("names", 3, 5).to_pylist() == TEXTS[3:5]
        assert checkpoint.texts("fixed", 0, 2).to_pylist() == [b"ab", b"c"]
        assert checkpoint.texts("none", 0, 0).to_pylist() == []
        for limit in (1, 100, 1 << 20):
            blocks = list(checkpoint.blocks("names", limit_bytes=limit))
            assert max(block.nbytes for block in blocks) <= limit
            assert b"".join(block.tobytes() for block in blocks) == framed
        assert all_bytes(checkpoint, "version", 100) == b"\3\0\0\0\0\0\0\0" + b"1.0"
        with pytest.raises(InvalidInput, match="no list of texts"):
            checkpoint.texts("version", 0, 1)
        with pytest.raises(InvalidInput, match="texts of any length"):
            checkpoint.read("names")


def test_compact_empty_and_aliased(tmp_path):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    values = np.array([1, 2, 3], ">i4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple((3,))
        dataset = h5py.h5d.create(file.id, b"compact", h5py.h5t.py_create(values.dtype), space, plist)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
        file["null"] = h5py.Empty("f4")
        file["zero"] = np.zeros((0, 4), np.float32)
        file["again"] = file["zero"]
        file["soft"] = h5py.SoftLink("/compact")
        file["dangling"] = h5py.SoftLink("/nowhere")
        file["flag"] = np.array([True, False])
    with open_checkpoint(tmp_path / "a.h5") as checkpoint:
        assert {info.name: info.shape for info in checkpoint.tensors} == {
            "compact": (3,), "null": (0,), "zero": (0, 4), "again": (0, 4), "flag": (2,),
        }  # fmt: skip
        assert checkpoint.read("compact").tolist() == [1, 2, 3]
        assert checkpoint.read("compact").dtype == np.dtype("<i4")
        assert checkpoint.read("flag").tolist() == [True, False]
        assert [block.size for block in checkpoint.blocks("zero")] == []


def test_reading_chunks_takes_no_more_memory_than_chunks(tmp_path):
    values = np.zeros((1 << 20, 16), np.float32)
    values[:, 0] = np.arange(1 << 20)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("t", data=values, chunks=(1 << 13, 16), compression="gzip", compression_opts=1)
    buffer = np.empty((5000, 16), np.float32)
    with open_checkpoint(tmp_path / "c.h5") as checkpoint:
        tracemalloc.start()
        for start in range(0, (1 << 20) - 5000, 5000):
            checkpoint.read_rows_into("t", start, buffer)
            assert buffer[0, 0] == start
        blocks = sum(block.nbytes for block in checkpoint.blocks("t"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert blocks == values.nbytes
    assert peak < 8 << 20


def test_a_process_that_never_closes_it_ends_well():
    """h5py calls back into the interpreter for what it reads, and must not while that goes down."""
    code = f"""
from pathlib import Path
from penstock.slicer.readers.hdf5.keras_hdf5 import open_hdf5
kept = open_hdf5(Path({str(GMF)!r}))
print(kept.rows("prediction/prediction_b", 0, 1).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1,)"
