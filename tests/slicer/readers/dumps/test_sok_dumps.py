"""SparseOperationKit's own dumps: a head in every file, and sizes that have to fit it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_files import nothing_left_open
from raw_dumps import sok_file, write_sok

from penstock.pipeline.core.errors import Corrupt, Unsupported
from penstock.slicer.readers import open_checkpoint
from penstock.slicer.readers.dumps.sok_dumps import is_sok

KEYS = np.array([-7, 0, 5, 2**40, 2**63 - 1], np.int64)
ROWS = np.arange(15, dtype=np.float32).reshape(5, 3)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["int32", "int64", "uint32", "uint64"]), st.sampled_from(["float16", "float32", "float64"]),
    st.integers(1, 40), st.integers(1, 9), st.data(),
)  # fmt: skip
def test_every_type_and_range(tmp_path_factory, key_type, row_type, count, width, data):
    folder = tmp_path_factory.mktemp("any")
    random = np.random.default_rng(count)
    keys, rows = random.integers(0, 2**31 - 1, count).astype(key_type), random.random((count, width)).astype(row_type)
    write_sok(folder, "user_0", keys, rows)
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count))
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.format == "sok"
        for name, wanted in (("user_0/keys", keys), ("user_0/rows", rows)):
            found, part = checkpoint.read(name), checkpoint.rows(name, start, stop)
            assert (found.dtype, found.shape, found.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())
            assert part.tobytes() == wanted[start:stop].tobytes()


def test_slots_are_the_optimizers_and_other_files_nobodys(tmp_path):
    write_sok(tmp_path, "user_0", KEYS, ROWS, m=ROWS * 2, v=ROWS * 3)
    write_sok(tmp_path, "item_0", KEYS[:2].astype(np.uint64), ROWS[:2])
    (tmp_path / "user_0-notes-2024.txt").write_text("good")
    (tmp_path / "penstock.json").write_text("{}")
    with open_checkpoint(tmp_path) as checkpoint:
        assert {info.name: info.role for info in checkpoint.tensors} == {
            "item_0/keys": "other", "item_0/rows": "embedding", "user_0/keys": "other", "user_0/rows": "embedding",
            "user_0/Adam-m": "optimizer", "user_0/Adam-v": "optimizer",
        }  # fmt: skip
        assert checkpoint.read("user_0/Adam-v").tolist() == (ROWS * 3).tolist()


@pytest.mark.parametrize(
    ("name", "data", "error", "match"),
    [
        ("u-key", sok_file(KEYS, kind=1), Corrupt, "u-key: its head says kind 1, not 0"),
        ("u-weight", sok_file(ROWS, kind=2), Corrupt, "u-weight: its head says kind 2, not 1"),
        ("u-Adam-m", sok_file(ROWS, kind=1), Corrupt, "u-Adam-m: its head says kind 1, not 2"),
        ("u-key", sok_file(ROWS, kind=0), Unsupported, "u-key: its head says type 5; known of keys are 0 int32"),
        ("u-weight", sok_file(KEYS, kind=1), Unsupported, "u-weight: its head says type 1; known of rows are 4 float16"),
        ("u-weight", sok_file(ROWS, kind=1)[:295], Corrupt, "u-weight: head at 0, 296 bytes, leaves the file"),
        ("u-weight", sok_file(ROWS, kind=1)[:-4], Corrupt, "u-weight: 56 bytes are no 5 rows of float32"),
        ("u-weight", sok_file(ROWS, kind=1)[:296], Corrupt, "u-weight: 0 bytes are no 5 rows"),
        ("u-key", sok_file(KEYS, kind=0)[:-1], Corrupt, "u-key: 335 bytes are no list of int64"),
        ("u-Adam-m", sok_file(ROWS, kind=2) + b"1", Corrupt, "u-Adam-m: 61 bytes are no 5 rows"),
        ("w-weight", b"", Corrupt, "beside w-weight there is no w-key"),
        ("w-key", b"", Corrupt, "beside w-key there is no w-weight"),
        ("w-Ftrl-linear", b"", Corrupt, "beside w-Ftrl-linear there is no w-key"),
    ],
)
def test_files_that_do_not_fit(tmp_path, name, data, error, match):
    write_sok(tmp_path, "u", KEYS, ROWS, m=ROWS)
    write_sok(tmp_path, "z", KEYS, ROWS)
    (tmp_path / name).write_bytes(data)
    with nothing_left_open(), pytest.raises(error, match=match):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("u-key", b""), ("u-key", bytes(400)), ("u-key", b" " * 400), ("u-key", sok_file(KEYS, kind=1)),
        ("u-key", sok_file(ROWS, kind=0)), ("u-key", sok_file(KEYS, kind=0, slot="m")), ("key", sok_file(KEYS, kind=0)),
        ("a-b-key", sok_file(KEYS, kind=0)),
    ],
)  # fmt: skip
def test_other_folders_are_none(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert not is_sok(tmp_path, b"")
    assert not is_sok(tmp_path / "nowhere", b"")
