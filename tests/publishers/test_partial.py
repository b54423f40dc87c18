"""Deltas from checkpoints that hold only what changed: all of it counts, and nothing goes that is not said to be gone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from easyrec_deltas import write_step
from shop import DIM, Shop, dense_of, refused, rows_of, source_of, survives_every_failure, written

from penstock.pipeline.config import DeltaTensors, ModelConfig, TableConfig
from penstock.pipeline.core.errors import NotFound, Refused
from penstock.pipeline.core.times import EventTime
from penstock.publishers.delta import publish_delta
from penstock.publishers.fanout import publish_part
from penstock.publishers.snapshot import publish_snapshot
from penstock.publishers.sources import checkpoint_source


@pytest.fixture
def shop():
    found = Shop()
    yield found
    found.close()


@pytest.fixture
def offline():
    """A shop without a realtime tier, its first version published."""
    found = Shop()
    publish_snapshot(found.env, found.source(), trained_through=EventTime(found.through))
    yield found
    found.close()


def changes(puts, deletes=None):
    return dataclasses.replace(
        source_of(puts), partial=True, deleted={name: np.array(sorted(keys), np.int64) for name, keys in (deletes or {}).items()}
    )


def later(shop):
    shop.seconds += 1
    return EventTime(shop.through)


def test_rows_and_deletions_are_taken_and_other_tables_stay(offline):
    found = publish_delta(offline.env, changes({"item": {1: 9.0, 70: 7.0}}, {"item": [2]}), trained_through=later(offline))
    assert (found.kind, found.source) == ("delta", "touched")
    assert written(offline.env, found) == {"item": ({1: 9.0, 70: 7.0}, {2})}
    expected = {**offline.tables, "item": {**offline.tables["item"], 1: 9.0, 70: 7.0}}
    expected["item"].pop(2)
    assert rows_of(offline.env, found) == expected
    assert dense_of(offline.env, found) == offline.dense


def test_a_table_may_only_lose_rows(offline):
    found = publish_delta(offline.env, changes({"user": {}}, {"user": [-5]}), trained_through=later(offline))
    assert written(offline.env, found) == {"user": ({}, {-5})}


def test_a_new_table_may_come_with_it(offline):
    found = publish_delta(offline.env, changes({"ad": {3: 1.0}}), trained_through=later(offline))
    assert rows_of(offline.env, found) == {**offline.tables, "ad": {3: 1.0}}


def test_it_is_no_snapshot_and_no_beginning(shop, offline):
    source = changes({"item": {1: 9.0}})
    match = "holds only the rows that changed, which make a delta and no snapshot"
    refused(offline.env, Refused, match, lambda: publish_snapshot(offline.env, source, trained_through=later(offline)))
    part = {"run": "r", "part": 1, "of": 2, "trained_through": later(offline)}
    refused(offline.env, Refused, match, lambda: publish_part(offline.env, source, **part))
    shop.train("item", {1: 9.0})
    sidecar = shop.mark()
    refused(shop.env, Refused, match, lambda: publish_delta(shop.env, source, sidecar=sidecar))


def test_a_key_both_there_and_gone_is_refused(offline):
    source = changes({"item": {1: 9.0, 2: 1.0}}, {"item": [2]})
    match = "key 2 of table item has a row, and is said to be deleted"
    refused(offline.env, Refused, match, lambda: publish_delta(offline.env, source, trained_through=later(offline)))


def test_a_touched_key_that_it_says_nothing_of_is_refused(shop):
    shop.published()
    shop.train("item", {1: 9.0, 2: 8.0}, deletes=(3,))
    sidecar = shop.mark()
    told = changes({"item": {1: 9.0}}, {"item": [3]})
    error = refused(
        shop.env, Refused, "key 2 of table item was touched since", lambda: publish_delta(shop.env, told, sidecar=sidecar)
    )
    assert "whole checkpoint" in error.hint
    found = publish_delta(shop.env, changes({"item": {1: 9.0, 2: 8.0}}, {"item": [3]}), sidecar=sidecar)
    assert rows_of(shop.env, found) == shop.tables


def test_rows_that_no_list_of_touched_keys_has_are_taken_as_well(shop):
    shop.published()
    shop.train("item", {1: 9.0})
    shop.train("item", {2: 8.0}, send=False)
    shop.train("ad", {3: 1.0}, send=False)
    found = publish_delta(shop.env, changes({"item": {1: 9.0, 2: 8.0}, "ad": {3: 1.0}}), sidecar=shop.mark())
    assert rows_of(shop.env, found) == shop.tables


def test_a_touched_table_that_it_does_not_have_is_refused(shop):
    shop.published()
    shop.train("item", {1: 9.0})
    shop.train("user", {-5: 3.0})
    sidecar, told = shop.mark(), changes({"item": {1: 9.0}})
    refused(shop.env, Refused, "key -5 of table user was touched", lambda: publish_delta(shop.env, told, sidecar=sidecar))


def test_after_a_snapshot_of_unknown_touches_a_whole_checkpoint_is_asked_for(offline):
    touched = {"nowhere": np.array([1], np.int64)}
    source = changes({"item": {1: 9.0}})
    refused(
        offline.env, NotFound, "keys were touched of table 'nowhere'",
        lambda: publish_delta(offline.env, source, touched=touched, trained_through=later(offline)),
    )  # fmt: skip


@pytest.mark.slow
def test_it_survives_every_failure(shop):
    shop.published()
    shop.train("item", {1: 9.0}, deletes=(3,))
    sidecar = shop.mark()
    source = changes({"item": {1: 9.0}}, {"item": [3]})

    def check(env, version):
        assert rows_of(env, version) == shop.tables

    survives_every_failure(shop, lambda env: publish_delta(env, source, sidecar=sidecar), check)


def test_a_delta_of_torcheasyrec_goes_on_from_a_whole_checkpoint(tmp_path):
    declared = TableConfig(
        tensor="ebc.item.weight", delta=DeltaTensors(keys="ebc.item/keys", rows="ebc.item/rows", deleted="ebc.item/deleted")
    )
    shop = Shop(model=ModelConfig(tables={"item": declared}))
    rows = np.repeat(np.arange(5, dtype=np.float32), DIM).reshape(5, DIM)
    np.savez(tmp_path / "whole.npz", **{"ebc.item.weight": rows})
    told = [("ebc.item", key, [value] * DIM) for key, value in ((1, 9.0), (7, 7.0), (3, 0.0))]
    changed = write_step(tmp_path, [told])
    with checkpoint_source(tmp_path / "whole.npz", shop.env.model) as source:
        publish_snapshot(shop.env, source, trained_through=later(shop))
    with checkpoint_source(changed, shop.env.model) as source:
        found = publish_delta(shop.env, source, trained_through=later(shop))
    assert rows_of(shop.env, found) == {"item": {0: 0.0, 1: 9.0, 2: 2.0, 4: 4.0, 7: 7.0}}
    shop.close()
