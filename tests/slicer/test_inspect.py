"""What `inspect` says of a checkpoint, and what it proposes."""

import hashlib
import json

import numpy as np
import pytest
from tensorflow_files import Stored, write_bundle

from penstock.slicer.inspect import inspect_checkpoint, inspect_with_checksums
from penstock.slicer.readers.roles import role_of


def test_the_document_is_that_of_the_interface(tmp_path):
    rows = np.arange(2000, dtype=">f4").reshape(1000, 2)
    np.savez(tmp_path / "a.npz", **{"item_emb.weight": np.asfortranarray(rows), "step": np.array(3)})
    assert json.loads(inspect_checkpoint(tmp_path / "a.npz").encode()) == {
        "format": "npz",
        "partial": False,
        "tensors": [
            {"name": "item_emb.weight", "shape": [1000, 2], "dtype": "float32", "role": "embedding", "rows": 1000, "dim": 2,
             "nbytes": 8000, "sliced_as": "table item_emb, row number is the key"},
            {"name": "step", "shape": [], "dtype": "int64", "role": "other", "rows": None, "dim": None, "nbytes": 8,
             "sliced_as": "left out: buffer"},
        ],
        "tables": [
            {"name": "item_emb", "rows": 1000, "dim": 2, "nbytes": 8000, "parts": 1, "why": "it looks like an embedding",
             "config": {"tensor": "item_emb.weight"}},
        ],
    }  # fmt: skip
    read = []
    sums = [tensor.sha256 for tensor in inspect_with_checksums(tmp_path / "a.npz", read.append).tensors]
    assert sums == [hashlib.sha256(data).hexdigest() for data in (rows.astype("<f4").tobytes(), np.int64(3).tobytes())]
    assert sum(read) == 8008


def test_texts_are_summed_with_their_lengths_and_what_cannot_be_read_is_not(tmp_path):
    tensors = {
        "user_emb": np.ones((3, 2), np.float32),
        "user_vocab": [b"10", b"7", b"-3"],
        "graph": Stored(np.zeros(2, np.uint8), dtype=21, shape=(2,)),
    }
    write_bundle(tmp_path / "m.ckpt", tensors)
    found = {tensor.name: tensor for tensor in inspect_with_checksums(tmp_path / "m.ckpt").tensors}
    texts = b"".join(len(text).to_bytes(8, "little") + text for text in tensors["user_vocab"])
    assert found["user_vocab"].sha256 == hashlib.sha256(texts).hexdigest()
    assert (found["graph"].sha256, found["graph"].sliced_as) == (None, "left out: buffer")
    table = inspect_checkpoint(tmp_path / "m.ckpt").tables[0]
    assert (table.config.vocabulary, table.config.key_type) == ("user_vocab", "int64")


def test_a_checkpoint_of_changes_says_so(tmp_path):
    tensors = {"user-sparse_incr_keys": np.arange(1), "user-sparse_incr_values": np.ones((1, 2), np.float32)}
    write_bundle(tmp_path / "m.ckpt", tensors)
    found = inspect_checkpoint(tmp_path / "m.ckpt")
    assert (found.partial, found.tables[0].config.keys) == (True, "user/keys")


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "role"),
    [
        ("item_emb.weight", (10, 4), "float32", "embedding"),
        ("sparse.embedding_bags.t_user.weight", (10, 4), "bfloat16", "embedding"),
        ("user_table", (10, 4), "float16", "embedding"),
        ("w", (8000, 1000), "float32", "embedding"),
        ("w", (7999, 1000), "float32", "dense"),
        ("w", (999, 1), "float32", "dense"),
        ("member.weight", (64, 32), "float32", "dense"),
        ("stable.weight", (64, 32), "float32", "dense"),
        ("embedding.bias", (64,), "float32", "dense"),
        ("embedding.ids", (64, 2), "int64", "other"),
        ("temperature", (), "float32", "dense"),
        ("optimizer.state.0.exp_avg", (9000, 4), "float32", "optimizer"),
        ("emb.weight/exp_avg_sq", (9000, 4), "float32", "optimizer"),
        ("sparse.t_user.momentum1", (9000,), "float32", "optimizer"),
        ("optim.step", (), "int64", "optimizer"),
        ("layer/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE", (9000, 4), "float32", "optimizer"),
        ("optimistic.weight", (64, 32), "float32", "dense"),
    ],
)
def test_roles(name, shape, dtype, role):
    assert role_of(name, shape, dtype) == role
