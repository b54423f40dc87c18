"""Deltas hold what has changed and nothing else, by the lists of touched keys or by comparison; on real checkpoints as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shop import Shop, dense_of, refused, rows_of, source_of, survives_every_failure, written

from penstock.pipeline.catalog.catalog import Actor, Catalog
from penstock.pipeline.config import Config, LogConfig, ModelConfig, StoreConfig, TableConfig
from penstock.pipeline.core.errors import CommitConflict, NotFound, Refused
from penstock.pipeline.core.ids import Position, Positions
from penstock.pipeline.core.times import EventTime
from penstock.pipeline.environment import Environment
from penstock.pipeline.ports.local_store import LocalStore
from penstock.pipeline.ports.memory_log import MemoryLog
from penstock.publishers import picking
from penstock.publishers.delta import publish_delta
from penstock.publishers.export import export_checkpoint
from penstock.publishers.snapshot import publish_snapshot
from penstock.publishers.sources import checkpoint_source
from penstock.publishers.verification import verify

RETAIL = Path(__file__).parents[1] / "data" / "torch_dlrm_retail"
TABLE_NAMES = ("customer", "product", "country", "hour")


@pytest.fixture
def shop():
    found = Shop()
    yield found
    found.close()


def test_invariant_8_touched_rows_are_picked_and_what_is_gone_becomes_a_tombstone(shop):
    shop.published()
    shop.train("item", {1: 9.0, 70: 7.0}, deletes=(2,))
    found = publish_delta(shop.env, shop.source(), sidecar=shop.mark())
    assert (found.kind, found.base, found.source) == ("delta", 1, "touched")
    assert written(shop.env, found) == {"item": ({1: 9.0, 70: 7.0}, {2})}
    assert rows_of(shop.env, found) == shop.tables
    assert verify(shop.env).ok


def test_checkpoints_that_were_never_published_count(shop):
    shop.published()
    shop.train("item", {1: 9.0})
    shop.mark()
    shop.train("user", {-5: 8.0}, deletes=(10**12,))
    found = publish_delta(shop.env, shop.source(), sidecar=shop.mark())
    assert written(shop.env, found) == {"item": ({1: 9.0}, set()), "user": ({-5: 8.0}, {10**12})}


def test_a_resume_from_an_older_state_brings_back_what_its_rows_were(shop):
    shop.published()
    before = {name: dict(rows) for name, rows in shop.tables.items()}
    shop.train("item", {1: 9.0, 50: 5.0})
    shop.updates.flush()
    shop.reopen()
    shop.tables = before
    found = publish_delta(shop.env, shop.source(), sidecar=shop.mark())
    # The log has served both; a comparison with the base would find no difference.
    assert written(shop.env, found) == {"item": ({1: 1.0}, {50})}


def test_where_a_list_has_overflowed_all_is_compared_and_the_state_is_stated(shop):
    shop.published()
    shop.reopen(touched_keys=2)
    shop.train("user", {-5: 8.0})
    shop.train("item", {1: 9.0, 2: 2.0})
    found = publish_delta(shop.env, shop.source(), sidecar=shop.mark())
    assert found.source == "compared"
    assert written(shop.env, found) == {"item": ({1: 9.0}, set()), "user": ({-5: 8.0}, set())}
    assert set(found.digests) == {"item", "user"}
    assert verify(shop.env).digest == found.digest(8)[1]


def test_a_foreign_checkpoint_is_compared_or_its_keys_are_named(shop):
    publish_snapshot(shop.env, shop.source(), trained_through=shop.through)
    shop.train("item", {1: 9.0, 3: 3.0}, deletes=(2,), send=False)
    compared = publish_delta(shop.env, shop.source(), trained_through=shop.through)
    assert compared.source == "compared"
    assert written(shop.env, compared) == {"item": ({1: 9.0}, {2})}
    shop.train("user", {-5: 4.0}, send=False)
    touched = {"user": np.array([-5, 77]), "item": np.array([], np.int64)}
    named = publish_delta(shop.env, shop.source(), trained_through=shop.through, touched=touched)
    assert named.source == "touched"
    assert written(shop.env, named) == {"user": ({-5: 4.0}, {77})}
    assert rows_of(shop.env, named) == shop.tables
    assert verify(shop.env).ok


def test_named_keys_of_an_unknown_table_and_without_a_name(shop):
    publish_snapshot(shop.env, shop.source(), trained_through=shop.through)
    for error, match, touched in (
        (NotFound, "keys were touched of table 'sku'", {"sku": np.array([1])}),
        (Refused, "name no table, and the model has item, user", {"": np.array([1])}),
    ):
        refused(
            shop.env,
            error,
            match,
            lambda t=touched: publish_delta(shop.env, shop.source(), trained_through=shop.through, touched=t),
        )
    single = Shop({"item": {1: 1.0, 2: 2.0}})
    publish_snapshot(single.env, single.source(), trained_through=0)
    single.tables["item"][1] = 8.0
    found = publish_delta(single.env, single.source(), trained_through=1, touched={"": np.array([1])})
    assert written(single.env, found) == {"item": ({1: 8.0}, set())}


def test_a_new_table_comes_whole_though_only_some_of_its_keys_were_touched(shop):
    shop.published()
    shop.tables["country"] = {1: 1.0, 2: 2.0}
    shop.train("country", {2: 5.0})
    found = publish_delta(shop.env, shop.source(), sidecar=shop.mark())
    assert found.source == "compared"
    assert written(shop.env, found) == {"country": ({1: 1.0, 2: 5.0}, set())}
    assert rows_of(shop.env, found) == shop.tables


def test_the_dense_slice_is_written_when_it_has_changed(shop):
    first = shop.published()
    shop.train("item", {1: 9.0})
    same = publish_delta(shop.env, shop.source(), sidecar=shop.mark())
    assert same.dense == first.dense
    shop.dense = {"top": 2.0, "bottom": 3.0}
    changed = publish_delta(shop.env, shop.source(), sidecar=shop.mark())
    assert dense_of(shop.env, changed) == shop.dense
    shop.dense = {}
    assert publish_delta(shop.env, shop.source(), sidecar=shop.mark()).dense == changed.dense


@pytest.mark.parametrize("send", [True, False])
def test_a_row_that_is_not_finite_is_refused_with_its_key(shop, send):
    publish_snapshot(shop.env, shop.source(), trained_through=shop.through)
    bad = source_of({**shop.tables, "user": {-5: float("nan"), 10**12: 2.5}})
    touched = {"user": np.array([-5])} if send else None
    refused(
        shop.env,
        Refused,
        "table user: key -5: holds a NaN",
        lambda: publish_delta(shop.env, bad, trained_through=shop.through, touched=touched),
    )


def test_a_touched_key_that_is_there_twice_is_refused(shop, monkeypatch):
    publish_snapshot(shop.env, shop.source(), trained_through=shop.through)
    for chunk in (2, 1 << 18):
        monkeypatch.setattr(picking, "CHUNK_ROWS", chunk)
        double = shop.source()
        double.tables["item"].row_keys[4] = 1
        refused(
            shop.env,
            Refused,
            "table item: key 1 is there twice",
            lambda d=double: publish_delta(shop.env, d, trained_through=shop.through, touched={"item": np.array([1, 2])}),
        )


def test_rows_in_the_log_that_a_foreign_checkpoint_may_not_have(shop):
    shop.published()
    shop.train("item", {1: 9.0})
    shop.updates.flush()
    error = refused(
        shop.env,
        Refused,
        "the log holds 1 rows since version 1",
        lambda: publish_delta(shop.env, shop.source(), trained_through=shop.through),
    )
    assert "sidecar" in error.hint


def test_invariant_5_a_foreign_checkpoint_keeps_the_readers_of_those_who_publish(shop):
    shop.published()
    seen = shop.env.catalog.history().newest.positions.partitions[0].readers["trainer"]
    found = publish_delta(shop.env, source_of(shop.tables, {"top": 5.0}), trained_through=shop.through)
    for position in found.positions.partitions:
        assert set(position.readers) == {"trainer", "offline"}
        assert position.readers["trainer"] >= seen
    # So a reader that begins there finds no gap in what the trainer sends next.
    shop.train("item", {1: 9.0})
    follows = publish_delta(shop.env, source_of(shop.tables, {"top": 5.0}), sidecar=shop.mark())
    assert rows_of(shop.env, follows) == shop.tables


def test_of_two_foreign_checkpoints_at_once_one_is_a_conflict(shop, monkeypatch):
    publish_snapshot(shop.env, shop.source(), trained_through=shop.through)
    from penstock.publishers import offline

    real, other = offline.send_markers, []

    def meanwhile(*arguments, **options):
        found = real(*arguments, **options)
        if not other:
            other.append(None)
            other[0] = publish_delta(shop.env, source_of({**shop.tables, "user": {1: 1.0}}), trained_through=shop.through)
        return found

    monkeypatch.setattr(offline, "send_markers", meanwhile)
    shop.tables["item"][1] = 9.0
    with pytest.raises(CommitConflict, match="at the same time"):
        publish_delta(shop.env, shop.source(), trained_through=shop.through)
    assert shop.env.catalog.history().newest == other[0]
    assert rows_of(shop.env, publish_delta(shop.env, shop.source(), trained_through=shop.through)) == shop.tables


def test_while_a_rollback_is_undecided_a_foreign_checkpoint_is_refused(shop):
    from trainer_world import claim

    publish_snapshot(shop.env, shop.source(), trained_through=shop.through)
    claim(shop.world)
    refused(
        shop.env,
        Refused,
        "the rollback to timeline 2, claimed by operator, is not decided yet",
        lambda: publish_delta(shop.env, shop.source(), trained_through=shop.through),
    )


values = st.dictionaries(st.integers(-3, 20), st.sampled_from([1.0, 2.0, 3.0]), min_size=1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(values, values, st.booleans()), min_size=2, max_size=4))
def test_any_sequence_of_foreign_deltas_gives_the_last_state(steps):
    shop = Shop({})
    shop.dense = {}
    for number, (items, users, named) in enumerate(steps):
        before, shop.tables = shop.tables, {"item": items, "user": users}
        differing = {
            name: {k for k in rows.keys() | before.get(name, {}).keys() if rows.get(k) != before.get(name, {}).get(k)}
            for name, rows in shop.tables.items()
        }
        touched = {name: np.array(sorted(keys), np.int64) for name, keys in differing.items()} if named and number else None
        publish = publish_delta if number else publish_snapshot
        found = publish(shop.env, shop.source(), trained_through=number, **({"touched": touched} if touched else {}))
        assert rows_of(shop.env, found) == shop.tables
        puts = {k: v for k, v in items.items() if k in differing["item"]}
        gone = differing["item"] - items.keys()
        assert written(shop.env, found).get("item", ({}, set())) == (puts, gone)
    assert verify(shop.env).ok


@pytest.mark.parametrize("kind", ["touched", "compared", "named"])
def test_invariant_2_every_failure_leaves_the_live_ref_whole(kind):
    shop = Shop({"item": {1: 1.0, 2: 2.0}, "user": {-7: 3.0}})
    if kind == "touched":
        shop.published()
    else:
        publish_snapshot(shop.env, shop.source(), trained_through=shop.through)
    shop.dense = {"top": 4.0}
    shop.train("item", {1: 9.0}, deletes=(2,), send=kind == "touched")
    options = {"sidecar": shop.mark()} if kind == "touched" else {"trained_through": shop.through}
    if kind == "named":
        options["touched"] = {"item": np.array([1, 2])}
    shop.close()

    def check(env, found):
        history = env.catalog.history()
        assert rows_of(env, history.newest) == shop.tables
        assert dense_of(env, history.newest) == shop.dense
        # A named list says nothing of content, so its repetition is a version more, of the same content.
        assert len(history.trunk) in ((3, 4) if kind == "named" else (3,))
        assert env.catalog.refs().ref("live").version == history.newest.version == found.version

    survives_every_failure(shop, lambda env: publish_delta(env, shop.source(), **options), check)


# ---- real checkpoints ----------------------------------------------------------------------------------------------------


def retail_config(kind: str) -> Config:
    prefix = "model." if kind == "pt" else ""
    tables = {name: TableConfig(tensor=f"{prefix}embeddings.{name}.weight") for name in TABLE_NAMES}
    return Config(
        store=StoreConfig(url="file:///unused"),
        log=LogConfig(url="file:///unused"),
        models={"retail": ModelConfig(tables=tables)},
    )


def retail_env(folder: Path, kind: str) -> Environment:
    store, log = LocalStore(folder), MemoryLog(2, identity="log-1")
    start = Positions("log-1", tuple(Position(0, {}) for _ in range(2)))
    catalog = Catalog.create(store, "retail", buckets=64, positions=start, actor=Actor(who="me", now=1_400_000_000_000_000))
    return Environment(config=retail_config(kind), catalog=catalog, log=log, clock=lambda: 1_400_000_000_000_000, who="me")


def expected_of(step: int) -> dict[str, np.ndarray]:
    with np.load(RETAIL / f"step_000{step}.expected.npz") as found:
        return dict(found)


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize("named", [False, True])
def test_real_checkpoints_through_a_snapshot_and_three_deltas(kind, named, tmp_path):
    env = retail_env(tmp_path / "store", kind)
    prefix = "model." if kind == "pt" else ""
    before: dict[str, np.ndarray] = {}
    for step in (1, 2, 3, 4):
        expected, through = expected_of(step), EventTime(1_300_000_000_000_000 + step)
        differing = {}
        for name in TABLE_NAMES:
            rows = expected[f"embeddings.{name}.weight"]
            old = before.get(name, np.empty((0, rows.shape[1]), np.float32))
            same = np.zeros(len(rows), bool)
            same[: len(old)] = (rows[: len(old)].view(np.uint32) == old.view(np.uint32)).all(axis=1)
            differing[name], before[name] = np.flatnonzero(~same), rows
        with checkpoint_source(RETAIL / f"step_000{step}.{kind}", env.model) as source:
            if step == 1:
                found = publish_snapshot(env, source, trained_through=through)
            else:
                found = publish_delta(env, source, trained_through=through, touched=differing if named else None)
        assert found.source == ("whole" if step == 1 else "touched" if named else "compared")
        for name in TABLE_NAMES:
            change = found.changes.get(name)
            assert (0 if change is None else change.rows) == len(differing[name]), (step, name)
            assert change is None or change.tombstones == 0
        output = tmp_path / "out.safetensors"
        export_checkpoint(env, found, output, "safetensors")
        with checkpoint_source(output, env.model) as exported:
            for name in TABLE_NAMES:
                rows = before[name]
                got = exported.tables[name].read(0, np.empty_like(rows))
                assert exported.tables[name].rows == len(rows)
                assert np.array_equal(got.view(np.uint32), rows.view(np.uint32))
            for name, tensor in exported.dense.items():
                assert np.array_equal(tensor, expected[name.removeprefix(prefix)])
            assert {n.removeprefix(prefix) for n in exported.dense} == {n for n in expected if n.startswith(("bottom", "top"))}
    found = verify(env)
    assert found.ok, found.findings
    assert found.read_bytes > 100_000
