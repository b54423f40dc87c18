"""Files of torch before 1.6: pickles of unstated length, then storages; what torch 0.4 to 2 writes, and what none would."""

import io
import os
import struct
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_files import nothing_left_open
from torch_files import STORAGES, legacy_file, saved_tensor
from torch_pickles import call, mapping, name, number, storage, tensor, text, tuple_of

from penstock.pipeline.core.errors import Corrupt, Refused, Unsupported
from penstock.slicer.readers import open_checkpoint
from penstock.slicer.readers.files import mapped_file
from penstock.slicer.readers.torch import pickle_stream

VALUES = np.arange(24, dtype=np.float32)


def opened(path, data):
    path.write_bytes(data)
    return open_checkpoint(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pth"


@settings(deadline=None)
@given(data=st.data())
def test_any_state_dict_reads_byte_for_byte(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("legacy") / "model.pth"
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    tensors = {}
    for i in range(data.draw(st.integers(0, 5))):
        shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=3)))
        dtype = data.draw(st.sampled_from(sorted(STORAGES)))
        tensors[f"layer.{i}"] = rng.integers(0, 2, shape).astype(dtype)
    body = mapping({key: saved_tensor(values, str(i)) for i, (key, values) in enumerate(tensors.items())})
    raw = legacy_file(body, {str(i): values for i, values in enumerate(tensors.values())})
    with opened(path, raw) as checkpoint:
        assert checkpoint.format == "pytorch legacy"
        assert [info.name for info in checkpoint.tensors] == list(tensors)
        for key, values in tensors.items():
            found = checkpoint.read(key)
            assert (found.dtype, found.shape, found.tobytes()) == (values.dtype, values.shape, values.tobytes())
            if values.ndim and len(values):
                assert np.array_equal(checkpoint.rows(key, len(values) // 2, len(values)), values[len(values) // 2 :])


def test_storages_are_found_by_their_keys_and_not_by_the_order_of_the_value(path):
    two = {"b": VALUES[:6], "a": VALUES[6:]}
    body = mapping({"x": saved_tensor(two["a"], "a"), "y": saved_tensor(two["b"], "b"), "step": number(7)})
    with opened(path, legacy_file(body, two)) as checkpoint:
        assert np.array_equal(checkpoint.read("x"), two["a"])
        assert np.array_equal(checkpoint.read("y"), two["b"])
        assert checkpoint.read("step") == 7


def viewed(key, count, view):
    parts = (text("storage"), name("torch", "FloatStorage"), text(key), text("cpu"), number(count), view)
    return tuple_of(*parts) + b"Q"


def test_views_of_a_storage_and_shared_storages(path):
    view = tuple_of(text("7"), number(4), number(12))
    body = mapping({
        "whole": saved_tensor(VALUES, "0"),
        "none": tensor(viewed("0", 24, b"N"), 1, (2,), (1,)),
        "view": tensor(viewed("0", 24, view), 2, (2, 5), (5, 1)),
        "transposed": tensor(viewed("0", 24, b"N"), 0, (4, 6), (1, 4)),
    })  # fmt: skip
    with opened(path, legacy_file(body, {"0": VALUES})) as checkpoint:
        assert np.array_equal(checkpoint.read("whole"), VALUES)
        assert checkpoint.read("none").tolist() == [1, 2]
        assert np.array_equal(checkpoint.read("view"), VALUES[6:16].reshape(2, 5))
        assert np.array_equal(checkpoint.read("transposed"), VALUES.reshape(6, 4).T)


def test_pickles_longer_than_the_first_window(path):
    filler = mapping({f"note.{i}": text("x" * 1000) for i in range(500)})
    body = mapping({"notes": filler, "lines": b"S'" + b"y" * 200_000 + b"'\n", "t": saved_tensor(VALUES)})
    with opened(path, legacy_file(body, {"0": VALUES})) as checkpoint:
        assert np.array_equal(checkpoint.read("t"), VALUES)


def test_pickles_longer_than_may_be_held(path, monkeypatch):
    monkeypatch.setattr(pickle_stream, "MAX_HEADER_BYTES", 100_000)
    body = mapping({"t": saved_tensor(VALUES), "notes": text("x" * 200_000)})
    with pytest.raises(Corrupt, match="its pickles have more than 100000 bytes"):
        opened(path, legacy_file(body, {"0": VALUES}))
    assert mapped_file.MAX_HEADER_BYTES == 100_000_000


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_magic_number_in_every_protocol(path, protocol):
    raw = legacy_file(mapping({"t": saved_tensor(VALUES)}), {"0": VALUES})
    frame = b"\x95" + (13).to_bytes(8, "little") if protocol >= 4 else b""
    magic = b"\x80" + bytes([protocol]) + frame + raw[2:15]
    with opened(path, magic + raw[15:]) as checkpoint:
        assert checkpoint.format == "pytorch legacy"
        assert np.array_equal(checkpoint.read("t"), VALUES)


GOOD = mapping({"t": saved_tensor(VALUES)})
STORED = {"0": VALUES}
WHOLE = legacy_file(GOOD, STORED)


def file_of(value, storages=STORED, **options):
    return legacy_file(mapping({"t": value}), storages, **options)


def floats(shape, *, offset=0, count=24, view=None):
    stored = viewed("0", count, view) if view else storage("FloatStorage", "0", count)
    return tensor(stored, offset, shape, (1,) * len(shape))


def view_of(first, size):
    return tuple_of(text("1"), number(first), number(size))


SYSTEM = call(name("os", "system"), text("touch RAN"))
MODULE = tuple_of(text("module"), name("__main__", "Net"), text("n.py"), text("")) + b"Q"
DOUBLING = b"(]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)) + b"l"


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (legacy_file(GOOD, STORED, protocol=number(1002)), "protocol 1002, not 1001"),
        (legacy_file(GOOD, STORED, protocol=b"]"), "protocol list, not 1001"),
        (legacy_file(GOOD, STORED, keys=[]), "storage '0' is in the saved value only"),
        (legacy_file(GOOD, STORED, keys=["0", "1"]), "storage '1' is in the list of keys only"),
        (legacy_file(GOOD, STORED, keys=["0", "0"]), "no list of different texts"),
        (legacy_file(GOOD, {"0": VALUES[:23]}), "has 23 elements, its tensors say 24"),
        (WHOLE + b"x", "the storages end at .*, the file at"),
        (WHOLE[:-1], "storage 0 at .*, 96 bytes, leaves the file"),
        (WHOLE[:-97], "storage 0 at .*, 8 bytes, leaves the file"),
        (legacy_file(GOOD, {}, keys=["0"]) + struct.pack("<q", -1), "has -1 elements"),
        (legacy_file(GOOD, {}, keys=["0"]) + struct.pack("<q", 2**62), "has 4611686018427387904 elements"),
        (file_of(tuple_of(saved_tensor(VALUES), saved_tensor(VALUES[:3]))), "two types or two sizes"),
        (file_of(tuple_of(saved_tensor(VALUES), saved_tensor(VALUES.astype(np.int32)))), "two types or two sizes"),
        (file_of(floats((1,), count=2**63), {}), "names no storage"),
        (file_of(floats((1,), count=-1), {}), "names no storage"),
        (file_of(floats((5,), offset=20)), "element 24 leaves its storage of 24"),
        (file_of(floats((2**62, 2**62))), "overflows 64 bits"),
        (file_of(floats((1,), view=view_of(20, 5))), "a view of 5 elements at 20 leaves its storage of 24"),
        (file_of(floats((6,), view=view_of(4, 5))), "element 5 leaves its storage of 5"),
        (file_of(floats((1,), view=view_of(-1, 5))), "a int where a count"),
        (file_of(floats((1,), view=number(4))), "no key, offset and size"),
        (file_of(SYSTEM), r"names the global os\.system"),
        (legacy_file(GOOD, STORED, protocol=SYSTEM), r"names the global os\.system"),
        (legacy_file(GOOD, STORED, protocol=storage("FloatStorage", "0", 1)), r"names the global torch\.FloatStorage"),
        (legacy_file(GOOD, STORED, protocol=number(1) + b"Q"), "a persistent id where a plain value belongs"),
        (file_of(MODULE), r"names the global __main__\.Net"),
        (legacy_file(DOUBLING, {}), "holds more than"),
        (legacy_file(b"\x8e" + b"\xff" * 8, {}), "the pickle breaks"),
        (legacy_file(b"\x8e" + (2**40).to_bytes(8, "little"), {}), "the pickle breaks"),
        (legacy_file(b"\x95" + (2**40).to_bytes(8, "little") + GOOD, STORED), "a frame of 1099511627776 bytes"),
    ],
)
def test_lies_are_refused(path, monkeypatch, raw, match):
    monkeypatch.chdir(path.parent)
    path.write_bytes(raw)
    with nothing_left_open(), pytest.raises(Refused, match=match) as error:
        open_checkpoint(path)
    assert str(path) in str(error.value)
    assert os.listdir() == ["model.pth"]


def test_another_magic_number_behind_the_same_beginning(path):
    raw = bytearray(legacy_file(GOOD, {"0": VALUES}))
    raw[8] ^= 1
    with pytest.raises(Corrupt, match="magic number .*, not 119547037146038801333356"):
        opened(path, raw)


def test_cut_short_at_any_length(path):
    raw = legacy_file(GOOD, {"0": VALUES})
    for length in range(len(raw)):
        with pytest.raises(Refused):
            opened(path, raw[:length])


@settings(max_examples=150, deadline=None)
@given(at=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage_is_refused_or_leaves_plain_arrays(tmp_path_factory, at):
    raw = bytearray(legacy_file(mapping({"t": saved_tensor(VALUES), "lr": number(0.5)}), {"0": VALUES}))
    for where, value in at:
        raw[where % len(raw)] = value
    path = tmp_path_factory.mktemp("damaged") / "model.pth"
    try:
        with opened(path, raw) as checkpoint:
            found = [checkpoint.read(info.name) for info in checkpoint.tensors]
    except Refused:
        return
    assert sum(values.nbytes for values in found) <= 2 * len(raw)


def test_tar_files_are_known_and_refused(path):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for member in ("sys_info", "pickle", "tensors", "storages"):
            info = tarfile.TarInfo(member)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"\x80\x02."))
    with pytest.raises(Unsupported, match=r"a tar file of PyTorch 0\.1") as error:
        open_checkpoint(path)
    assert "torch.save" in error.value.hint
