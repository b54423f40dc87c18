"""Checkpoints as the config reads them, and the files of touched keys."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.pipeline.config import ModelConfig, TableConfig
from penstock.pipeline.core.errors import InvalidInput, NotFound, Refused, Unsupported
from penstock.publishers import picking
from penstock.publishers.picking import locate, take
from penstock.publishers.sources import array_source, checkpoint_source
from penstock.slicer.row_source import ArraySource

ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)


@pytest.fixture
def path(tmp_path):
    np.savez(
        tmp_path / "c.npz",
        **{
            "emb.item.weight": ROWS,
            "emb.half": ROWS.astype(np.float16),
            "emb.double": ROWS.astype(np.float64),
            "user/keys": np.array([5, -3, 9], np.int64),
            "user/rows": ROWS[:3],
            "small/keys": np.array([1, 2], np.int32),
            "emb.empty": ROWS[:0],
            "counts": np.arange(6),
            "cube": ROWS.reshape(3, 2, 2),
            "top.weight": ROWS.T.copy(),
            "top.bias": ROWS[0],
            "bottom.bias": ROWS[1],
        },
    )
    return tmp_path / "c.npz"


def model(dense=None, **tables):
    return ModelConfig(tables={name: TableConfig(**settings) for name, settings in tables.items()}, dense=dense)


def test_tables_by_row_number_and_by_key(path):
    declared = model(
        item={"tensor": "emb.item.weight"},
        half={"tensor": "emb.half"},
        double={"tensor": "emb.double"},
        user={"keys": "user/keys", "rows": "user/rows"},
    )
    with checkpoint_source(path, declared) as source:
        for name in ("item", "half", "double"):
            table = source.tables[name]
            assert (table.rows, table.dim, table.keys(0, 6)) == (6, 2, None)
            assert np.array_equal(table.read(2, np.empty((3, 2), np.float32)), ROWS[2:5])
        assert source.tables["user"].keys(1, 3).tolist() == [-3, 9]
        assert source.name == str(path)


def test_the_dense_slice_is_what_the_patterns_name(path):
    item = {"tensor": "emb.item.weight"}
    for patterns, names in ((["top.*"], {"top.weight", "top.bias"}), (["*.bias"], {"top.bias", "bottom.bias"}), ([], set())):
        with checkpoint_source(path, model(patterns, item=item)) as source:
            assert set(source.dense) == names
    with checkpoint_source(path, model(item=item)) as source:
        assert {"top.weight", "top.bias"} <= set(source.dense)
        assert "emb.item.weight" not in source.dense
    with (
        pytest.raises(NotFound, match=r"no tensor for the dense pattern 'mlp\.\*'"),
        checkpoint_source(path, model(["mlp.*"], item=item)),
    ):
        pass


@pytest.mark.parametrize(
    ("error", "match", "table"),
    [
        (NotFound, "no tensor 'emb.items.weight', which the config names for table t", {"tensor": "emb.items.weight"}),
        (NotFound, "no tensor 'user/ids'", {"keys": "user/ids", "rows": "user/rows"}),
        (Refused, "table t is empty", {"tensor": "emb.empty"}),
        (Refused, r"tensor counts of table t is int64\[6\]", {"tensor": "counts"}),
        (Refused, r"tensor cube of table t is float32\[3, 2, 2\]", {"tensor": "cube"}),
        (Refused, "table t has keys of 2 rows, and rows of 3", {"keys": "small/keys", "rows": "user/rows"}),
        (Refused, "keys top.bias of table t are float32", {"keys": "top.bias", "rows": "user/rows"}),
    ],
)
def test_what_is_no_table_is_refused_by_name(path, error, match, table):
    with pytest.raises(error, match=match) as raised, checkpoint_source(path, model(t=table)):
        pass
    if "items" in match:
        assert "emb.item.weight" in raised.value.hint


def safetensors(path, tensors):
    """`tensors`: name -> (dtype as safetensors calls it, shape, bytes)."""
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at := at + len(data)]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values()))


def test_dtypes_that_numpy_lacks(tmp_path):
    values = np.array([[1.5, -2.0]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    rows, path = {"tensor": "emb.weight"}, tmp_path / "c.safetensors"
    safetensors(path, {
        "emb.weight": ("BF16", [1, 2], bits), "top.weight": ("BF16", [1, 2], bits), "top.scale": ("BF16", [], bits[:2]),
        "eights": ("F8_E4M3", [2, 1], b"\x38\x40"),
    })  # fmt: skip
    with checkpoint_source(path, model(["top.*"], t=rows)) as source:
        assert np.array_equal(source.tables["t"].read(0, np.empty((1, 2), np.float32)), values)
        assert np.array_equal(source.dense["top.weight"], values)
        assert (source.dense["top.scale"].dtype, float(source.dense["top.scale"])) == (np.float32, 1.5)
    with (
        pytest.raises(Unsupported, match="dense tensor eights is float8_e4m3fn"),
        checkpoint_source(path, model(["eights"], t=rows)),
    ):
        pass
    with (
        pytest.raises(Refused, match=r"tensor eights of table t is float8_e4m3fn\[2, 1\]"),
        checkpoint_source(path, model([], t={"tensor": "eights"})),
    ):
        pass


def test_a_config_without_tables_and_a_checkpoint_that_is_not_there(path, tmp_path):
    with pytest.raises(InvalidInput, match="declares no tables"), checkpoint_source(path, ModelConfig()):
        pass
    with pytest.raises(NotFound), checkpoint_source(tmp_path / "nowhere", model(t={"tensor": "x"})):
        pass


def test_arrays_must_fit(path):
    with pytest.raises(Refused, match="do not belong together"):
        array_source({"t": (np.arange(2), ROWS)}, {}, ModelConfig())
    with pytest.raises(NotFound, match="declares no table 'u', but t"):
        array_source({"u": (np.arange(6), ROWS)}, {}, model(t={"tensor": "x"}))


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(st.integers(-40, 40), unique=True),
    wanted=st.sets(st.integers(-50, 50)),
    numbered=st.booleans(),
    window=st.sampled_from([1, 3, 4096]),
)
def test_picked_rows_are_those_of_their_keys(keys, wanted, numbered, window):
    values = np.arange(2 * len(keys), dtype=np.float32).reshape(-1, 2)
    source = ArraySource(values, None if numbered else np.array(keys, np.int64))
    rows = dict(zip(range(len(keys)) if numbered else keys, values.tolist(), strict=True))
    asked = np.array(sorted(wanted), np.int64)
    before = picking.CHUNK_ROWS, picking.WINDOW_ROWS
    try:
        picking.CHUNK_ROWS = picking.WINDOW_ROWS = window
        positions = locate(source, asked, "t")
        assert [key for key, at in zip(asked.tolist(), positions, strict=True) if at < 0] == sorted(wanted - rows.keys())
        there = np.argsort(positions, kind="stable")[np.count_nonzero(positions < 0) :]
        assert take(source, positions[there]).tolist() == [rows[key] for key in asked[there].tolist()]
    finally:
        picking.CHUNK_ROWS, picking.WINDOW_ROWS = before
