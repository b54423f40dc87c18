"""Files of keys beside a checkpoint: which are found, and that nothing about them is an error."""

import json

import numpy as np
import pytest

from penstock.slicer.readers import open_checkpoint
from penstock.slicer.vocabularies import Beside

TABLE = "emb.user.weight"
ROWS = 5


@pytest.fixture
def vocabulary(tmp_path):
    """The name of what is found for a table of five rows, and its first texts."""
    path = tmp_path / "c.npz"

    def find(inside=path, rows=ROWS):
        np.savez(path, **{TABLE: np.ones((rows, 2), np.float32)})
        with open_checkpoint(inside) as checkpoint:
            found = Beside(checkpoint, inside).vocabulary(lambda name: "user" in name, rows)
            return None if found is None else (found.name, list(found.first))

    return find


@pytest.mark.parametrize(
    ("name", "data", "first"),
    [
        ("user.txt", b"a\nb\n\nd\ne\n", [b"a", b"b", b"", b"d", b"e"]),
        ("user.txt", b"1\r\n2\r\n3\r\n4\r\n5", [b"1", b"2", b"3", b"4"]),
        ("user_vocab.json", json.dumps(["a", "b", "c", "d", "é"]).encode(), [b"a", b"b", b"c", b"d", "é".encode()]),
        ("user_vocab.json", b"[1, 2, 3, 4, 5]", []),
        ("user_vocab.json", b'{"a": 1, "b": 4}', [b"a", b"b"]),
    ],
)
def test_a_file_of_as_many_keys_is_found(vocabulary, tmp_path, name, data, first):
    (tmp_path / name).write_bytes(data)
    assert vocabulary() == (name, first)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("user.txt", b"a\nb\nc\nd\n"),
        ("user.txt", b""),
        ("item.txt", b"1\n2\n3\n4\n5\n"),
        ("user.log", b"1\n2\n3\n4\n5\n"),
        ("user.json", b"[1, 2, 3, 4"),
        ("user.json", b"[" * 100_000),
        ("user.json", b"[1, 2, 3, 4]"),
        ("user.json", b'{"a": 1, "b": 3}'),
        ("user.json", b'{"a": 4, "b": 4}'),
        ("user.json", b'{"a": 4, "b": 5}'),
        ("user.json", b'"abcde"'),
        ("user.npz", b"PK\3\4 but no zip"),
        ("user.npy", b"\x93NUMPY"),
        ("user.txt.penstock.json", b"[1, 2, 3, 4, 5]"),
    ],
)
def test_others_are_not_and_none_is_an_error(vocabulary, tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert vocabulary() is None


@pytest.mark.parametrize(
    ("file", "tensor", "values", "found"),
    [
        ("ids.npz", "user", np.arange(5), ("ids.npz#user", [])),
        ("other.npz", "user", np.arange(5), None),
        ("other.npz", "user_ids", np.arange(5), ("other.npz#user_ids", [])),
        ("other.npz", "user", np.array(["a", "b", "c", "d", "é"]), ("other.npz#user", [b"a", b"b", b"c", b"d", "é".encode()])),
        ("other.npz", "user", np.array([b"a"] * 5), ("other.npz#user", [b"a"] * 5)),
        ("ids.npz", "user", np.arange(4), None),
        ("ids.npz", "user", np.ones((5, 1), np.int64), None),
        ("ids.npz", "user", np.ones(5), None),
        ("ids.npz", "item", np.arange(5), None),
        ("user_ids.npz", "all", np.arange(5), ("user_ids.npz#all", [])),
    ],
)
def test_a_tensor_of_another_file(vocabulary, tmp_path, file, tensor, values, found):
    np.savez(tmp_path / file, **{tensor: values})
    assert vocabulary() == found


def test_a_numpy_file_of_one_tensor(vocabulary, tmp_path):
    np.save(tmp_path / "user_ids.npy", np.arange(5))
    assert vocabulary() == ("user_ids.npy", [])


def test_a_folder_that_is_a_checkpoint_is_looked_into_first(vocabulary, tmp_path):
    (tmp_path / "user.txt").write_bytes(b"1\n2\n3\n4\n5\n")
    folder = tmp_path / "step_1"
    folder.mkdir()
    np.savez(folder / "c.npz", **{TABLE: np.ones((ROWS, 2), np.float32)})
    assert vocabulary(folder) == ("user.txt", [b"1", b"2", b"3", b"4", b"5"])
    (folder / "user.txt").write_bytes(b"5\n4\n3\n2\n1\n")
    assert vocabulary(folder) == ("user.txt", [b"5", b"4", b"3", b"2", b"1"])


def test_only_the_first_texts_are_looked_at(vocabulary, tmp_path):
    (tmp_path / "user.txt").write_bytes(b"".join(b"%d\n" % n for n in range(300_000)))
    name, first = vocabulary(rows=300_000)
    assert (name, len(first), first[-1]) == ("user.txt", 64, b"63")
