"""Torch archives that the real ones do not cover: strides, dtypes, byte orders, and any plain value a trainer may save."""

import pickle
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_pickles import call, mapping, name, number, storage, tensor, text, tuple_of, write_archive

from penstock.pipeline.core.errors import Corrupt, Refused, Unsupported
from penstock.slicer.readers import open_checkpoint, widened

VALUES = np.arange(24, dtype=np.float32)


@pytest.fixture
def saved(tmp_path):
    def write(items, storages=None, **options):
        path = tmp_path / "model.pt"
        write_archive(path, mapping(items) if isinstance(items, dict) else items, storages, **options)
        return open_checkpoint(path)

    return write


def floats(offset, shape, strides, count=24):
    return tensor(storage("FloatStorage", "0", count), offset, shape, strides)


LAYOUTS = [
    (0, (6, 4), (4, 1)),
    (4, (5, 4), (4, 1)),
    (0, (4, 6), (1, 4)),
    (1, (3, 2), (8, 2)),
    (23, (1, 1), (0, 0)),
    (0, (5, 3), (0, 1)),
    (2, (2, 3, 2), (12, 1, 4)),
    (0, (7,), (3,)),
    (5, (), ()),
    (24, (0, 4), (4, 1)),
    (3, (1, 4), (999, 1)),
]


@pytest.mark.parametrize(("offset", "shape", "strides"), LAYOUTS)
@pytest.mark.parametrize("order", ["little", "big"])
def test_any_layout_over_a_storage(saved, offset, shape, strides, order):
    data = VALUES.astype("<f4" if order == "little" else ">f4").tobytes()
    with saved({"t": floats(offset, shape, strides)}, {"0": data}, order=order.encode()) as checkpoint:
        wanted = np.lib.stride_tricks.as_strided(VALUES[offset:], shape, [4 * stride for stride in strides])
        found = checkpoint.read("t")
        assert found.dtype == "<f4"
        assert found.shape == shape
        assert np.array_equal(found, wanted)
        assert found.flags.c_contiguous
        assert found.flags.aligned
        assert b"".join(block.tobytes() for block in checkpoint.blocks("t", limit_bytes=12)) == wanted.tobytes()
        assert all(block.nbytes <= 12 for block in checkpoint.blocks("t", limit_bytes=12))
        for start in range(shape[0] if shape else 0):
            part = np.empty((shape[0] - start, *shape[1:]), np.float32)
            checkpoint.read_rows_into("t", start, part)
            assert np.array_equal(part, wanted[start:])
            assert np.array_equal(checkpoint.rows("t", start, shape[0]), wanted[start:])
            wide = np.empty(part.shape, np.float64)
            checkpoint.read_rows_into("t", start, wide)
            assert np.array_equal(wide, part)


@pytest.mark.parametrize("order", ["little", "big"])
def test_bfloat16_is_widened_exactly(saved, order):
    values = np.array([[1, -2.5], [3e38, 1e-40], [0.0, -0.0]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    exact = (bits.astype(np.uint32) << 16).view(np.float32)
    stored = bits.astype("<u2" if order == "little" else ">u2").tobytes()
    with saved(
        {"t": tensor(storage("BFloat16Storage", "0", 6), 0, (3, 2), (2, 1))}, {"0": stored}, order=order.encode()
    ) as found:
        assert found.info("t").dtype == "bfloat16"
        assert np.array_equal(found.read("t"), bits)
        assert widened(found.rows("t", 0, 3)).tobytes() == exact.tobytes()
        rows = np.empty((2, 2), np.float32)
        found.read_rows_into("t", 1, rows)
        assert rows.tobytes() == exact[1:].tobytes()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("Double", "f8"),
        ("Half", "f2"),
        ("Long", "i8"),
        ("Int", "i4"),
        ("Short", "i2"),
        ("Char", "i1"),
        ("Byte", "u1"),
        ("Bool", "?"),
    ],
)
def test_the_classic_storages(saved, kind, dtype):
    values = np.array([[0, 1], [1, 0]], dtype)
    with saved({"t": tensor(storage(f"{kind}Storage", "0", 4), 0, (2, 2), (2, 1))}, {"0": values.tobytes()}) as found:
        assert found.info("t").dtype == values.dtype.name
        assert np.array_equal(found.read("t"), values)


def test_untyped_storages_of_newer_dtypes(saved):
    stored = call(name("builtins", "set"))  # a set beside the tensors is passed over
    wide = tensor(storage("UntypedStorage", "0", 8), 1, (3,), (1,), name("torch", "uint16"))
    eighth = tensor(storage("UntypedStorage", "0", 8), 0, (8,), (1,), name("torch", "float8_e4m3fn"))
    with saved({"wide": wide, "eighth": eighth, "set": stored}, {"0": np.arange(4, dtype="<u2").tobytes()}) as found:
        assert found.read("wide").tolist() == [1, 2, 3]
        assert found.info("eighth").dtype == "float8_e4m3fn"
        assert found.read("eighth").dtype == np.uint8
        with pytest.raises(Unsupported, match="float8_e4m3fn elements cannot be read as float32"):
            found.read_rows_into("eighth", 0, np.empty(8, np.float32))


def test_parameters_shared_storages_attributes_and_subclasses(saved):
    plain = floats(0, (6, 4), (4, 1))
    parameter = call(name("torch._utils", "_rebuild_parameter"), plain, b"\x88", call(name("collections", "OrderedDict")))
    kind = name("torch.nn.parameter", "Parameter")
    arguments = plain[len(name("torch._utils", "_rebuild_tensor_v2")) : -1]
    typed = call(
        name("torch._tensor", "_rebuild_from_type_v2"), name("torch._utils", "_rebuild_tensor_v2"), kind, arguments, b"}"
    )
    ordered = call(name("collections", "OrderedDict")) + b"(" + text("w") + parameter + b"u" + mapping({"_metadata": b"}"}) + b"b"
    with saved({"plain": plain, "state": ordered, "typed": typed}, {"0": VALUES.tobytes()}) as checkpoint:
        assert [info.name for info in checkpoint.tensors] == ["plain", "state.w", "typed"]
        for info in checkpoint.tensors:
            assert np.array_equal(checkpoint.read(info.name), VALUES.reshape(6, 4))


def test_a_bare_tensor_is_called_like_its_file(saved):
    with saved(floats(0, (6, 4), (4, 1)), {"0": VALUES.tobytes()}) as checkpoint:
        assert [info.name for info in checkpoint.tensors] == ["model"]


def flat(value, path=""):
    """The specification of names: keys joined by dots."""
    if isinstance(value, bool | int | float | np.ndarray | np.generic):
        yield path, np.asarray(value)
    elif isinstance(value, dict | list | tuple):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(each, f"{path}.{key}" if path else str(key))


KEYS = st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1, max_size=5) | st.integers(0, 9)
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=4)
)


@settings(deadline=None)
@given(tree=st.dictionaries(KEYS, TREES, max_size=4), protocol=st.integers(0, 5), kind=st.sampled_from([dict, OrderedDict]))
def test_any_plain_value_that_python_pickles_is_read(tmp_path_factory, tree, protocol, kind):
    path = tmp_path_factory.mktemp("plain") / "any.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("any/data.pkl", pickle.dumps(kind(tree), protocol))
    wanted = list(flat(tree))
    if len({where for where, _ in wanted}) < len(wanted):
        with pytest.raises(Refused, match="two tensors are called"):
            open_checkpoint(path)
        return
    with open_checkpoint(path) as checkpoint:
        assert [(info.name, info.dtype) for info in checkpoint.tensors] == [(where, value.dtype.name) for where, value in wanted]
        assert [checkpoint.read(where) for where, _ in wanted] == [value for _, value in wanted]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_arrays_and_scalars_of_numpy_beside_the_tensors(tmp_path, protocol):
    tree = {
        "ids": np.arange(5, dtype=">i4"),
        "grid": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "auc": np.float64(0.75),
        "step": np.int32(7),
        "empty": np.empty((0, 3), np.float16),
        "counts": defaultdict(int, {"a": 1}),
    }
    with zipfile.ZipFile(tmp_path / "any.pt", "w") as archive:
        archive.writestr("any/data.pkl", pickle.dumps(tree, protocol))
    with open_checkpoint(tmp_path / "any.pt") as checkpoint:
        for where, value in flat(tree):
            assert checkpoint.read(where).dtype == value.dtype.newbyteorder("<")
            assert np.array_equal(checkpoint.read(where), value)


def test_numbers_beyond_64_bits_are_listed_as_floats(saved):
    with saved({"seed": number(2**64 - 1), "state": number(2**100)}) as checkpoint:
        assert checkpoint.read("seed").dtype == np.uint64
        assert checkpoint.read("state") == 2.0**100


def test_two_paths_of_one_name_are_refused(saved):
    with pytest.raises(Refused, match=r"two tensors are called 'a\.b'"):
        saved({"a.b": number(1), "a": mapping({"b": number(2)})})


def test_a_compressed_storage_and_a_foreign_byte_order_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    for order, method, error in ((b"middle", zipfile.ZIP_STORED, Corrupt), (b"little", zipfile.ZIP_DEFLATED, Unsupported)):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("model/data.pkl", b"\x80\x02" + mapping({"t": floats(0, (24,), (1,))}) + b".")
            archive.writestr("model/byteorder", order)
            archive.writestr("model/data/0", VALUES.tobytes())
        with pytest.raises(error, match="byte order|compressed"):
            open_checkpoint(path)


def test_sizes_and_devices(saved):
    size = call(name("torch", "Size"), tuple_of(number(3), number(4)))
    with saved({"size": size, "device": call(name("torch", "device"), text("cuda"), number(0))}) as checkpoint:
        assert {info.name: int(checkpoint.read(info.name)) for info in checkpoint.tensors} == {"size.0": 3, "size.1": 4}


def test_an_archive_that_torch_wrote_in_2020_on_a_gpu():
    path = Path(__file__).parents[3] / "data" / "pytorch_sasrec" / "SASRec.epoch601.pth"
    with zipfile.ZipFile(path) as archive:
        stored = [archive.read(member) for member in archive.namelist() if "/data/" in member]
    by_size = {len(data): data for data in stored}
    with open_checkpoint(path) as checkpoint:
        found = {info.name: checkpoint.read(info.name) for info in checkpoint.tensors}
        assert {info.name for info in checkpoint.tensors if info.role == "embedding"} == {"item_emb.weight", "pos_emb.weight"}
    assert found["item_emb.weight"].shape == (3417, 50)
    assert found["item_emb.weight"].tobytes() == by_size[3417 * 50 * 4]
    assert found["pos_emb.weight"].shape == (200, 50)
    assert found["pos_emb.weight"].tobytes() == by_size[200 * 50 * 4]
    assert sorted(values.tobytes() for values in found.values()) == sorted(stored)
