"""What `inspect` says of a checkpoint, and what it proposes."""

import hashlib
import json

import numpy as np
import pytest

from penstock.pipeline.config import parse_config
from penstock.slicer.inspect import inspect_checkpoint, inspect_with_checksums, proposed_tables
from penstock.slicer.readers.roles import role_of


def test_the_document_is_that_of_the_interface(tmp_path):
    rows = np.arange(2000, dtype=">f4").reshape(1000, 2)
    np.savez(tmp_path / "a.npz", **{"item_emb.weight": np.asfortranarray(rows), "step": np.array(3)})
    assert json.loads(inspect_checkpoint(tmp_path / "a.npz").encode()) == {
        "format": "npz",
        "tensors": [
            {"name": "item_emb.weight", "shape": [1000, 2], "dtype": "float32", "role": "embedding"},
            {"name": "step", "shape": [], "dtype": "int64", "role": "other"},
        ],
    }
    sums = [tensor.sha256 for tensor in inspect_with_checksums(tmp_path / "a.npz").tensors]
    assert sums == [hashlib.sha256(data).hexdigest() for data in (rows.astype("<f4").tobytes(), np.int64(3).tobytes())]


def test_the_proposal_is_a_config(tmp_path):
    names = ["model.embeddings.customer.weight", "user.embedding.weight", "item/embeddings:0", "bags.user.weight", "ta ble.emb.0"]
    np.savez(tmp_path / "a.npz", dense=np.ones((4, 4), "f4"), **{name: np.ones((1000, 2), "f4") for name in names})
    text = proposed_tables("retail", inspect_checkpoint(tmp_path / "a.npz").tensors)
    config = parse_config(f'[store]\nurl = "file:///s"\n[log]\nurl = "file:///l"\n{text}', "proposed")
    tables = config.models["retail"].tables
    assert sorted(table.tensor for table in tables.values()) == sorted(names)
    assert {"customer", "user", "item", "user_"} <= tables.keys()
    assert proposed_tables("retail", []) == ""


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
