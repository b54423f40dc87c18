"""Chains of real checkpoints through the publishers: each delta has exactly the rows that differ, and every version gives back
what was in its checkpoint. Those that may not be committed are read where PENSTOCK_TEST_SAMPLES names the folder of them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from penstock.pipeline.catalog.catalog import Actor, Catalog
from penstock.pipeline.config import Config, LogConfig, ModelConfig, StoreConfig, TableConfig
from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.history import table_layers
from penstock.pipeline.core.ids import Position, Positions
from penstock.pipeline.core.times import EventTime
from penstock.pipeline.environment import Environment
from penstock.pipeline.ports.local_store import LocalStore
from penstock.pipeline.ports.memory_log import MemoryLog
from penstock.publishers.delta import publish_delta
from penstock.publishers.snapshot import publish_snapshot
from penstock.publishers.sources import checkpoint_source
from penstock.publishers.verification import verify
from penstock.slicer.layers import Layers
from penstock.slicer.run_layout import TableLayout

NOW = 1_400_000_000_000_000
COMMITTED = Path(__file__).parents[1] / "data"
SAMPLES = os.environ.get("PENSTOCK_TEST_SAMPLES")
needs_samples = pytest.mark.skipif(not SAMPLES, reason="PENSTOCK_TEST_SAMPLES names no folder of samples")


def sample(*parts: str) -> Path:
    return Path(SAMPLES or "").joinpath(*parts)


@pytest.fixture
def model(tmp_path):
    """An environment for a model of some tables."""

    def create(**tables):
        store, log = LocalStore(tmp_path / "store"), MemoryLog(2, identity="log-1")
        start = Positions("log-1", tuple(Position(0, {}) for _ in range(2)))
        catalog = Catalog.create(store, "m", buckets=64, positions=start, actor=Actor(who="me", now=NOW))
        declared = ModelConfig(tables={name: TableConfig(**settings) for name, settings in tables.items()})
        config = Config(store=StoreConfig(url="file:///unused"), log=LogConfig(url="file:///unused"), models={"m": declared})
        return Environment(config=config, catalog=catalog, log=log, clock=lambda: NOW, who="me")

    return create


def rows_in(source, table):
    """int64[n] keys, sorted, and float32[n, dim]: a table of a checkpoint."""
    found = source.tables[table]
    keys = found.keys(0, found.rows)
    rows = found.read(0, np.empty((found.rows, found.dim), np.float32))
    order = np.arange(found.rows) if keys is None else np.argsort(keys)
    return (order if keys is None else keys[order]), rows[order].copy()


def rows_of(env, version, table):
    """The same, of a version."""
    layout, chain = TableLayout.of(env.schema, table), env.catalog.history().chain(version.version)
    with Layers.open(env.catalog.store, layout, table_layers(chain, table)) as layers:
        parts = [(keys, codec(layout.codec).decode(rows, layout.dim)) for keys, rows in layers.merged()]
    keys, rows = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.argsort(keys)
    return keys[order], rows[order]


def changed(before, after):
    """Keys of the rows that differ, bit by bit, or are new; of those that are gone."""
    keys, rows = after
    if before is None:
        return keys, keys[:0]
    at = np.searchsorted(before[0], keys)
    known = (at < len(before[0])) & (before[0][np.minimum(at, len(before[0]) - 1)] == keys)
    same = known.copy()
    same[known] = (before[1][at[known]].view(np.uint32) == rows[known].view(np.uint32)).all(axis=1)
    return keys[~same], np.setdiff1d(before[0], keys)


def publish_chain(env, paths, *, touched=None, snapshots=False):
    """Publishes the checkpoints in turn; the counts of rows that each version has changed, by table."""
    counts, before = [], {}
    for number, path in enumerate(paths):
        through = EventTime(NOW - 1_000_000 + number)
        with checkpoint_source(path, env.model) as source:
            if number == 0 or snapshots:
                publish_snapshot(env, source, trained_through=through)
            else:
                publish_delta(env, source, trained_through=through, touched=touched and touched[number])
            version = env.catalog.history().newest
            found = {}
            for table in source.tables:
                held = rows_in(source, table)
                puts, gone = changed(before.get(table), held)
                change = version.changes.get(table)
                assert ((0, 0) if change is None else (change.rows, change.tombstones)) == (len(puts), len(gone))
                keys, rows = rows_of(env, version, table)
                assert np.array_equal(keys, held[0])
                assert np.array_equal(rows.view(np.uint32), held[1].view(np.uint32))
                before[table], found[table] = held, puts
            counts.append(found)
    checked = verify(env)
    assert checked.ok, checked.findings
    return counts


def test_row_sharded_tensors_of_two_ranks(model):
    env = model(**{name: {"tensor": f"model.embeddings.{name}.weight"} for name in ("customer", "product", "country", "hour")})
    folder = COMMITTED / "torch_dcp_dlrm_retail"
    steps = publish_chain(env, [folder / "step_0002", folder / "step_0003"])
    assert {name: len(keys) for name, keys in steps[0].items()} == {"customer": 2974, "product": 3282, "country": 37, "hour": 24}
    assert 0 < len(steps[1]["customer"]) < 500


def test_ids_beside_row_numbers(model):
    folder, names = COMMITTED / "torch_dlrm_retail", ("customer", "product")
    settings = {name: {"tensor": f"model.embeddings.{name}.weight", "vocabulary": f"ids.npz#{name}"} for name in names}
    steps = publish_chain(model(**settings), [folder / f"step_000{step}.pt" for step in (2, 3)])
    with np.load(folder / "ids.npz") as ids:
        assert set(steps[0]["customer"].tolist()) == set(ids["customer"].tolist())


@needs_samples
@pytest.mark.parametrize("told", [False, True])
def test_torchrec(model, told):
    folder = sample("checkpoints", "torchrec_dcp_mlls")
    env = model(**{name: {"tensor": f"model.ebc.embedding_bags.t_{name}.weight"} for name in ("user", "item")})
    lists = [
        {name: np.load(folder / f"v{version}.touched_{name}_rows.npy").astype(np.int64) for name in ("user", "item")}
        for version in (1, 2, 3)
    ]
    steps = publish_chain(env, [folder / f"v{version}" for version in (1, 2, 3)], touched=lists if told else None)
    for found, expected in zip(steps[1:], lists[1:], strict=True):
        for table, keys in found.items():
            assert keys.tolist() == sorted(expected[table].tolist())


@needs_samples
@pytest.mark.parametrize("snapshots", [False, True])
def test_versions_of_a_saved_model(model, snapshots):
    folder = sample("checkpoints", "tf_savedmodel_neuralcf_chain")
    name = "layer_with_weights-{}/{}_embedding.Sembedding_weights/.ATTRIBUTES/VARIABLE_VALUE"
    env = model(movie={"tensor": name.format(0, "movieId")}, user={"tensor": name.format(1, "userId")})
    steps = publish_chain(env, sorted(folder.iterdir()), snapshots=snapshots)
    assert [{table: len(keys) for table, keys in found.items()} for found in steps] == [{"movie": 1001, "user": 30001}] * 3


@needs_samples
@pytest.mark.parametrize("key_type", ["int64", "string"])
def test_versions_of_a_text_table(model, key_type):
    env = model(item={"keys": "keys", "rows": "rows", "key_type": key_type})
    steps = publish_chain(env, sorted(sample("tables", "item2vec_chain").iterdir()))
    assert [len(found["item"]) for found in steps] == [881] * 4
