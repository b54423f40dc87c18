"""ONNX that lies about its sizes, or whose external data leads out of its folder: refused, and no file left open."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_wire import data, external, model, number, tensor, varint
from open_files import nothing_left_open

from penstock.pipeline.core.errors import Corrupt, NotFound, Refused, Unsupported
from penstock.slicer.readers.formats import open_checkpoint
from penstock.slicer.readers.onnx.onnx_files import is_onnx, open_onnx

RAW = data(9, bytes(16))
FLOAT, INT32, INT64, STRING, BOOL, INT8 = 1, 6, 7, 8, 9, 3


def refused(tmp_path, content, error, match):
    (tmp_path / "m.onnx").write_bytes(content)
    with nothing_left_open(), pytest.raises(error, match=match):
        open_checkpoint(tmp_path / "m.onnx")


def packed(*values):
    return b"".join(map(varint, values))


@pytest.mark.parametrize(
    ("found", "match"),
    [
        (tensor("t", FLOAT, (5,), RAW), r"float32\[5\] has 20 bytes, 16 are stored"),
        (tensor("t", FLOAT, (3,), RAW), r"float32\[3\] has 12 bytes, 16 are stored"),
        (tensor("t", FLOAT, (2**40, 2**40), RAW), "overflows 64 bits"),
        (tensor("t", FLOAT, (2**62, 0, 8), RAW), "overflows 64 bits"),
        (tensor("t", FLOAT, (-1,), RAW), "of a negative one"),
        (tensor("t", FLOAT, (1,) * 33, RAW), "too many dimensions"),
        (data(1, packed(*[1] * 33)) + tensor("t", FLOAT, (), RAW), "33 dimensions"),
        (data(1, b"\x01" * 100_000) + tensor("t", FLOAT, (), RAW), "too many dimensions"),
        (tensor("t", FLOAT, (4,)), "has 16 bytes, 0 are stored"),
        (tensor("t", FLOAT, (4,), data(4, bytes(12))), "has 16 bytes, 12 are stored"),
        (tensor("t", FLOAT, (4,), data(7, packed(1, 2, 3, 4))), "in a field of another type"),
        (tensor("t", FLOAT, (4,), RAW, data(4, bytes(16))), "elements in two fields"),
        (tensor("t", INT64, (4,), data(7, b"\x01" * 3)), "4 numbers in 3 bytes"),
        (tensor("t", INT64, (4,), data(7, b"\x01" * 41)), "4 numbers in 41 bytes"),
        (tensor("t", INT64, (2**50,), data(7, b"\x01")), "numbers in 1 bytes"),
        (tensor("", FLOAT, (4,), RAW), "a tensor without a name"),
        (tensor("x" * 70_000, FLOAT, (4,), RAW), "field 8 of a tensor"),
        (tensor("t", FLOAT, (4,), number(9, 1)), "field 9 of a tensor"),
        (tensor("t", STRING, (3,), data(6, b"a")), r"1 texts, its shape \[3\] has 3"),
        (tensor("t", STRING, (1,), data(9, b"a")), "0 texts"),
        (b"\xff" * 20, "no number"),
    ],
)
def test_tensors_that_lie(tmp_path, found, match):
    refused(tmp_path, model(found), Corrupt, match)


@pytest.mark.parametrize(
    ("found", "match"),
    [
        (tensor("t", INT64, (4,), data(7, b"\x01" * 5)), "5 bytes are not 4 numbers"),
        (tensor("t", INT64, (4,), data(7, packed(1, 2, 3) + b"\x80")), "4 numbers|does not end"),
        (tensor("t", INT64, (4,), data(7, packed(1, 2, 300))), "4 numbers"),
        (tensor("t", INT64, (2,), data(7, b"\x01" + b"\xff" * 12 + b"\x01")), "does not end|beyond 64 bits"),
        (tensor("t", INT64, (1,), data(7, b"\xff" * 9 + b"\x02")), "beyond 64 bits"),
        (tensor("t", INT8, (2,), data(5, packed(1, 128))), "a number that int8 cannot hold"),
        (tensor("t", BOOL, (2,), data(5, packed(1, 2))), "a number that bool cannot hold"),
        (tensor("t", INT32, (1,), data(5, packed(2**31))), "a number that int32 cannot hold"),
    ],
)
def test_numbers_that_are_not_what_was_promised(tmp_path, found, match):
    (tmp_path / "m.onnx").write_bytes(model(found))
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint, pytest.raises(Corrupt, match=match):
        checkpoint.read("t")


def test_two_tensors_of_one_name(tmp_path):
    refused(tmp_path, model(tensor("t", FLOAT, (4,), RAW), tensor("t", FLOAT, (4,), RAW)), Refused, "two tensors are called 't'")


@pytest.fixture
def folder(tmp_path):
    """A model's folder with a file of 16 bytes, and one beside it that is none of the model's business."""
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "w.bin").write_bytes(bytes(16))
    (tmp_path / "secret").write_bytes(bytes(16))
    (inside / "out").symlink_to("../secret")
    (inside / "up").symlink_to("..")
    (inside / "sub").mkdir()
    return inside


@pytest.mark.parametrize(
    ("location", "match"),
    [
        ("/etc/passwd", "no path inside the model's folder"),
        ("../secret", "no path inside the model's folder"),
        ("sub/../../secret", "no path inside the model's folder"),
        ("sub\\..\\w.bin", "no path inside the model's folder"),
        ("C:w.bin", "no path inside the model's folder"),
        ("w.bin\0", "no path inside the model's folder"),
        ("", "no path inside the model's folder"),
        ("out", "a link that leads out of the model's folder"),
        ("up/secret", "a link that leads out of the model's folder"),
    ],
)
def test_paths_that_lead_out(folder, location, match):
    refused(folder, model(tensor("t", FLOAT, (4,), external(location=location))), Refused, match)


@pytest.mark.parametrize(
    ("entries", "error", "match"),
    [
        ({"location": "gone"}, NotFound, "no file 'gone'"),
        ({"location": "sub"}, NotFound, "no file 'sub'"),
        ({"location": "w.bin", "offset": 4}, Corrupt, "has 16 bytes, 12 are said to be in w.bin"),
        ({"location": "w.bin", "length": 12}, Corrupt, "has 16 bytes, 12 are said to be in w.bin"),
        ({"location": "w.bin", "offset": 4, "length": 16}, Corrupt, "leaves the file of 16 bytes"),
        ({"location": "w.bin", "offset": 2**62, "length": 16}, Corrupt, "leaves the file of 16 bytes"),
        ({"location": "w.bin", "offset": 99}, Corrupt, "is no length of external data"),
        ({"location": "w.bin", "offset": -4}, Corrupt, "'-4' is no offset"),
        ({"location": "w.bin", "offset": "0x10"}, Corrupt, "'0x10' is no offset"),
        ({"location": "w.bin", "offset": "²"}, Corrupt, "is no offset"),
        ({"location": "w.bin", "length": "9" * 4000}, Corrupt, "is no length"),
        ({"location": "w" * 5000}, Corrupt, "field 13 of a tensor"),
    ],
)
def test_external_data_that_is_not_there(folder, entries, error, match):
    found = tensor("t", FLOAT, (4,), external(location="w.bin"))
    refused(folder, model(found, tensor("u", FLOAT, (4,), external(**entries))), error, match)


def test_two_locations(folder):
    twice = external(location="w.bin") + data(13, data(1, b"location") + data(2, b"other"))
    refused(folder, model(tensor("t", FLOAT, (4,), twice)), Corrupt, "'location' twice")


def test_files_of_others_are_not_taken_for_models(tmp_path):
    path = tmp_path / "f"
    for content in (
        b"",
        b"\x08",
        number(1, 10),
        number(1, 0) + data(7, b""),
        number(1, 99) + data(7, b""),
        number(1, 1) + data(2, b"meta graph of a SavedModel"),
        number(1, 10) + data(2, b"x") + data(9, b"") + data(7, b""),
        number(1, 10) + number(7, 1),
        np.arange(8, 100, dtype="<i8").tobytes(),
        np.arange(0x0308, 0x0400, dtype="<i8").tobytes(),
        b"\x08\x0a" + bytes(100),
    ):
        path.write_bytes(content)
        assert not is_onnx(path, content[:16])
        with pytest.raises(Unsupported, match="no checkpoint of a known format"):
            open_checkpoint(path)


def test_cut_short(tmp_path):
    path = tmp_path / "m.onnx"
    whole = model(tensor("t", FLOAT, (4,), RAW))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        if length == len(whole) - len(data(8, number(2, 21))):
            continue
        with pytest.raises((Corrupt, Unsupported)):
            open_checkpoint(path)
        with pytest.raises(Corrupt):
            open_onnx(path)


@settings(max_examples=300, deadline=None)
@given(drawn=st.data())
def test_any_damage_is_refused_or_leaves_plain_arrays(tmp_path_factory, drawn):
    whole = model(
        tensor("raw", FLOAT, (4,), RAW), tensor("ints", INT64, (3,), data(7, packed(1, -2, 300))),
        tensor("texts", STRING, (2,), data(6, b"a"), data(6, b"bcd")), tensor("far", FLOAT, (4,), external(location="w.bin")),
        graph=data(1, data(1, b"raw") + data(4, b"Gather")),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "w.bin").write_bytes(bytes(16))
    damaged = bytearray(whole)
    for _ in range(drawn.draw(st.integers(1, 4))):
        damaged[drawn.draw(st.integers(0, len(damaged) - 1))] = drawn.draw(st.integers(0, 255))
    (folder / "m.onnx").write_bytes(damaged)
    with nothing_left_open(), suppress(Refused, NotFound), open_onnx(folder / "m.onnx") as checkpoint:
        total = sum(block.nbytes for info in checkpoint.tensors for block in checkpoint.blocks(info.name))
        assert total <= 4 * len(damaged)
