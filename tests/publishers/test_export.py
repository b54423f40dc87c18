"""What is exported can be published again, and gives the same digests; and its sidecar names where to go on."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from shop import Shop, refused, rows_of

from penstock.pipeline.config import ModelConfig, TableConfig
from penstock.pipeline.core.checkpoint import decode_sidecar
from penstock.pipeline.core.errors import Corrupt, InvalidInput, Refused
from penstock.pipeline.core.ids import State
from penstock.pipeline.ports.store import Overwrite
from penstock.publishers.delta import publish_delta
from penstock.publishers.export import export_checkpoint, export_table, sidecar_of_version
from penstock.publishers.offline import place
from penstock.publishers.snapshot import publish_snapshot
from penstock.publishers.sources import checkpoint_source
from penstock.slicer.sidecar import read_sidecar

MODEL = ModelConfig(
    tables={
        "item": TableConfig(tensor="item.weight"),
        "user": TableConfig(keys="user/keys", rows="user/rows", codec="float16"),
    },
    dense=["top"],
)
TABLES = {"item": {key: float(key) for key in range(6)}, "user": {-5: 1.5, 10**12: 2.5, 7: 0.25}}


@pytest.fixture
def shop():
    found = Shop(TABLES, model=MODEL)
    publish_snapshot(found.env, found.source(), trained_through=0)
    found.train("item", {2: 20.0, 6: 60.0}, send=False)
    found.train("user", {7: 3.0}, deletes=(-5,), send=False)
    publish_delta(found.env, found.source(), trained_through=found.through)
    yield found
    found.close()


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_an_exported_checkpoint_is_published_again_with_equal_digests(shop, tmp_path, kind):
    version = shop.env.catalog.history().newest
    output = tmp_path / "made" / f"restart.{kind}"
    assert export_checkpoint(shop.env, version, output, kind, step=9) == {"item": 7, "user": 2}
    assert files(output.parent) == [f"restart.{kind}", f"restart.{kind}.penstock.json"]
    with checkpoint_source(output, MODEL) as source:
        assert source.tables["user"].keys(0, 2).tolist() == [7, 10**12]
        assert np.array_equal(source.dense["top"], np.full(3, 1.0, np.float32))
        # Into the same model, by its sidecar: the state is there already, and this is it as a whole.
        sidecar = read_sidecar(output)
        assert (sidecar.step, sidecar.through()) == (9, version.trained_through)
        beside = publish_snapshot(shop.env, source, sidecar=sidecar)
        assert (beside.state, beside.base) == (version.state, None)
        assert beside.digest(8) == version.digest(8)
        # Into a new model.
        other = Shop({}, model=MODEL)
        again = publish_snapshot(other.env, source, trained_through=0)
    assert again.digest(8) == version.digest(8)
    assert rows_of(other.env, again) == shop.tables


def test_the_sidecar_of_a_version_names_where_to_go_on(shop, tmp_path):
    version = shop.env.catalog.history().newest
    export_checkpoint(shop.env, version, tmp_path / "a.npz", "npz")
    sidecar = read_sidecar(tmp_path / "a.npz")
    assert sidecar == sidecar_of_version(shop.env, version) == decode_sidecar(sidecar.encode(), "again")
    assert place(shop.env, shop.env.catalog.history(), sidecar, None) == version
    updates = shop.world.open(State.parse(sidecar.state))
    assert updates.resumed_from == version.state
    assert publish_delta(shop.env, shop.source(), sidecar=sidecar) == version


def test_an_older_version_is_exported_as_it_was(shop, tmp_path):
    export_checkpoint(shop.env, shop.env.catalog.manifest(1), tmp_path / "a.npz", "npz")
    with np.load(tmp_path / "a.npz") as found:
        assert found["item.weight"][:, 0].tolist() == list(TABLES["item"].values())
        assert dict(zip(found["user/keys"].tolist(), found["user/rows"][:, 0].tolist(), strict=True)) == TABLES["user"]


def test_a_table_as_parquet(shop, tmp_path):
    version = shop.env.catalog.history().newest
    assert export_table(shop.env, version, "user", tmp_path / "user.parquet") == 2
    found = pq.read_table(tmp_path / "user.parquet")
    assert [str(field.type) for field in found.schema] == ["int64", "fixed_size_list<element: float not null>[2]"]
    assert {key: row[0] for key, row in zip(*(found[name].to_pylist() for name in ("key", "row")), strict=True)} == shop.tables[
        "user"
    ]


def test_keys_that_are_no_row_numbers_are_refused_and_the_old_file_stays(shop, tmp_path):
    export_checkpoint(shop.env, shop.env.catalog.history().newest, tmp_path / "a.npz", "npz")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    shop.tables["item"][10**9] = 1.0
    found = publish_delta(shop.env, shop.source(), trained_through=shop.through)
    error = refused(
        shop.env,
        Refused,
        "table item: keys from 0 to 1000000000 are no row numbers of 8 rows",
        lambda: export_checkpoint(shop.env, found, tmp_path / "a.npz", "npz"),
    )
    assert "parquet" in error.hint
    refused(shop.env, InvalidInput, "format 'pt'", lambda: export_checkpoint(shop.env, found, tmp_path / "a.npz", "pt"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_deleted_row_number_is_zeros(shop, tmp_path):
    shop.train("item", {}, deletes=(1,), send=False)
    found = publish_delta(shop.env, shop.source(), trained_through=shop.through)
    assert export_checkpoint(shop.env, found, tmp_path / "a.npz", "npz")["item"] == 6
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["item.weight"][:, 0].tolist() == [0.0, 0.0, 20.0, 3.0, 4.0, 5.0, 60.0]


def test_damage_leaves_no_file(shop, tmp_path):
    version = shop.env.catalog.history().newest
    path = version.dense.path
    shop.store.put(path, shop.store.get(path).data[:-1] + b"\1", Overwrite())
    refused(shop.env, Corrupt, path, lambda: export_checkpoint(shop.env, version, tmp_path / "a.npz", "npz"))
    run = version.changes["user"].runs[0].path
    shop.store.delete(run)
    with pytest.raises(Exception, match=run):
        export_table(shop.env, version, "user", tmp_path / "a.parquet")
    assert files(tmp_path) == []


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "int16", "uint32", "bool"])
def test_dense_tensors_of_any_dtype_come_back(tmp_path, dtype):
    shop = Shop({"item": {0: 1.0}})
    source = shop.source()
    source.dense["odd"] = np.array([0, 1, 1], dtype)
    version = publish_snapshot(shop.env, source, trained_through=0)
    for kind in ("npz", "safetensors"):
        export_checkpoint(shop.env, version, tmp_path / "a", kind)
        model = ModelConfig(tables={"item": TableConfig(keys="item/keys", rows="item/rows")}, dense=["odd", "top"])
        with checkpoint_source(tmp_path / "a", model) as found:
            assert found.dense["odd"].dtype == dtype
            assert found.dense["odd"].tolist() == [0, 1, 1]
