"""safetensors against its own library, and against every rule that its README states."""

import json
import shutil
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import save_file

from penstock.pipeline.core.errors import Corrupt, NotFound, Refused, Unsupported
from penstock.slicer.readers import open_checkpoint, widened

DTYPES = ["bool", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8", "c8"]
VALUES = st.sampled_from(DTYPES).flatmap(lambda dtype: arrays(dtype, array_shapes(min_dims=0, min_side=0, max_dims=3)))
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda name: name != "__metadata__")


@settings(max_examples=50, deadline=None)
@given(tensors=st.dictionaries(NAMES, VALUES, min_size=1, max_size=5))
def test_whatever_the_library_writes(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("any") / "model.safetensors"
    save_file({name: np.ascontiguousarray(value).reshape(value.shape) for name, value in tensors.items()}, path, {"step": "7"})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "safetensors"
        assert {info.name for info in checkpoint.tensors} == set(tensors)
        for name, value in tensors.items():
            found = checkpoint.read(name)
            assert (found.dtype, found.shape, found.tobytes()) == (value.dtype, value.shape, value.tobytes())


def raw(header, data=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2, 3), offsets=(0, 24)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


GOOD = {"a": entry()}


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (raw(GOOD, bytes(24), length=2**63), "a header of 9223372036854775808 bytes"),
        (raw(GOOD, bytes(24), length=2**64 - 1), "a header of"),
        (raw(GOOD, bytes(24), length=100_000_001), "a header of"),
        (raw(b"{" * 50_000), "no JSON"),
        (raw(b'{"a": ' * 50_000), "no JSON"),
        (raw(b'{"a": 1, "a": 1}'), "a key comes twice"),
        (raw(b'{"a": {"dtype": "F32", "dtype": "F32"}}'), "a key comes twice"),
        (raw(b'{"a": "\xff"}'), "no JSON"),
        (raw({"__metadata__": {"step": 7}}), "__metadata__"),
        (raw({"__metadata__": []}), "__metadata__"),
        (raw({"a": 1}), "is not dtype, shape and data_offsets"),
        (raw({"a": {**entry(), "more": 1}}, bytes(24)), "is not dtype, shape and data_offsets"),
        (raw({"a": {**entry(), "shape": "23"}}, bytes(24)), "other types"),
        (raw({"a": entry(offsets=(0, 24, 48))}, bytes(24)), "other types"),
        (raw({"a": entry(offsets=(-24, 0))}, bytes(24)), "no offsets"),
        (raw({"a": entry(offsets=(0, True))}, bytes(24)), "no offsets"),
        (raw({"a": entry(offsets=(0, 23))}, bytes(24)), r"has 24 bytes, data_offsets 23"),
        (raw({"a": entry(offsets=(24, 0))}, bytes(24)), r"has 24 bytes, data_offsets -24"),
        (raw({"a": entry(shape=(2, -3))}, bytes(24)), "no size of a dimension"),
        (raw({"a": entry(shape=(2, 3.0))}, bytes(24)), "no size of a dimension"),
        (raw({"a": entry(shape=(2**62, 2**62))}, bytes(24)), "overflows 64 bits"),
        (raw({"a": entry(shape=(2**62, 0, 4), offsets=(0, 0))}), "overflows 64 bits"),
        (raw({"a": entry(shape=(1,) * 40)}, bytes(24)), "40 dimensions"),
        (raw({"a": entry(offsets=(8, 32))}, bytes(32)), "a hole or an overlap"),
        (raw({"a": entry(), "b": entry(offsets=(28, 52))}, bytes(52)), "a hole or an overlap"),
        (raw({"a": entry(), "b": entry(offsets=(20, 44))}, bytes(44)), "a hole or an overlap"),
        (raw({"a": entry(), "b": entry()}, bytes(24)), "a hole or an overlap"),
        (raw({"\ud800emb": entry()}, bytes(24)), r"tensor '\\ud800emb': a name that is no Unicode text"),
        (raw(GOOD, bytes(23)), "the file at"),
        (raw(GOOD, bytes(25)), "the file at"),
    ],
)
def test_every_rule(tmp_path, data, match):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=match) as error:
        open_checkpoint(path)
    assert str(path) in str(error.value)


def test_padding_empty_tensors_and_order_are_fine(tmp_path):
    header = {"b": entry(offsets=(24, 48)), "none": entry(shape=(0, 3), offsets=(24, 24)), "a": entry()}
    text = json.dumps(header).encode() + b" " * 5
    (tmp_path / "a").write_bytes(raw(text, np.arange(12, dtype="<f4").tobytes()))
    with open_checkpoint(tmp_path / "a") as checkpoint:
        assert [info.name for info in checkpoint.tensors] == ["b", "none", "a"]
        assert checkpoint.read("b").tolist() == [[6, 7, 8], [9, 10, 11]]
        assert checkpoint.read("none").shape == (0, 3)
        assert list(checkpoint.blocks("none")) == []


def test_bfloat16_and_dtypes_to_come(tmp_path):
    bits = np.array([[0x3F80, 0xC000, 0x7F7F]], "<u2")
    (tmp_path / "a").write_bytes(raw({"a": entry("BF16", (1, 3), (0, 6))}, bits.tobytes()))
    with open_checkpoint(tmp_path / "a") as checkpoint:
        rows = np.empty((1, 3), np.float32)
        checkpoint.read_rows_into("a", 0, rows)
        assert rows[0, :2].tolist() == [1, -2]
        assert np.array_equal(widened(checkpoint.rows("a", 0, 1)), rows)
    (tmp_path / "b").write_bytes(raw({"a": entry("F4", (1, 6), (0, 3))}, bytes(3)))
    with pytest.raises(Unsupported, match="dtype F4; can be read: BOOL"):
        open_checkpoint(tmp_path / "b")


def test_cut_short_at_any_length(tmp_path, retail):
    whole = (retail / "step_0001.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for length in [*range(9, header + 40, 7), *range(header, len(whole), 10_001), len(whole) - 1]:
        (tmp_path / "a").write_bytes(whole[:length])
        with pytest.raises(Corrupt):
            open_checkpoint(tmp_path / "a")


def test_a_file_that_shrinks_while_it_is_read(tmp_path, retail):
    path = tmp_path / "a"
    shutil.copy(retail / "step_0001.safetensors", path)
    with open_checkpoint(path) as checkpoint, path.open("r+b") as file:
        file.truncate(5000)
        with pytest.raises(Corrupt, match="the file has shrunk"):
            checkpoint.read_rows_into("top.2.weight", 0, np.empty((1, 64), np.float32))
        with pytest.raises(Corrupt, match="the file has shrunk"):
            list(checkpoint.blocks("embeddings.product.weight"))
        with pytest.raises(Corrupt, match="the file has shrunk"):
            checkpoint.rows("top.2.weight", 0, 1)


@pytest.fixture
def sharded(tmp_path):
    parts = {"model-1.safetensors": {"a": np.arange(6.0)}, "model-2.safetensors": {"b": np.arange(3), "c": np.ones((2, 2), "f4")}}
    for name, tensors in parts.items():
        save_file(tensors, tmp_path / name)
    weight_map = {tensor: name for name, tensors in parts.items() for tensor in tensors}

    def write(**changes):
        index = {"metadata": {"total_size": 88}, "weight_map": {k: v for k, v in (weight_map | changes).items() if v is not None}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        return tmp_path

    return write


def test_a_set_of_files_is_one_checkpoint(sharded):
    folder = sharded()
    for place in (folder, folder / "model.safetensors.index.json"):
        with open_checkpoint(place) as checkpoint:
            assert checkpoint.format == "safetensors"
            assert [info.name for info in checkpoint.tensors] == ["a", "b", "c"]
            assert checkpoint.read("b").tolist() == [0, 1, 2]
            assert checkpoint.rows("c", 1, 2).tolist() == [[1, 1]]


def test_an_index_that_lies(sharded):
    for changes, error, match in [
        ({"a": "model-2.safetensors"}, Corrupt, "tensor 'a' is in none of its files, the index says model-2"),
        ({"d": "model-2.safetensors"}, Corrupt, "tensor 'd' is in none"),
        ({"b": None}, Corrupt, "tensor 'b' is in model-2.safetensors, the index says nothing"),
        ({"a": "../model-1.safetensors"}, Refused, "which is no file beside the index"),
        ({"a": "/etc/passwd"}, Refused, "which is no file beside the index"),
        ({"a": ".."}, Refused, "which is no file beside the index"),
        ({"a": 7}, Refused, "which is no file beside the index"),
        ({"a": "missing.safetensors"}, NotFound, "no file at .*missing"),
        ({f"t{i}": f"file{i}" for i in range(65_536)}, Refused, "a set of 65538 files"),
    ]:
        with pytest.raises(error, match=match):
            open_checkpoint(sharded(**changes))
    folder = sharded()
    for text in ("[]", "{}", '{"weight_map": {}}', "{", '{"weight_map": {"a": "x", "a": "y"}}'):
        (folder / "model.safetensors.index.json").write_text(text)
        with pytest.raises(Corrupt):
            open_checkpoint(folder)
