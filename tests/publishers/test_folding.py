"""Deltas from the log alone: the same state as from the checkpoint, or a refusal where the log does not have all of it."""

from __future__ import annotations

import numpy as np
import pytest
from shop import Shop, dense_of, refused, rows_of, survives_every_failure, written

from penstock.pipeline.core.errors import CommitConflict, Refused
from penstock.publishers import folding
from penstock.publishers.delta import publish_delta
from penstock.publishers.folding import publish_delta_from_log
from penstock.publishers.verification import verify


@pytest.fixture
def shop():
    found = Shop()
    yield found
    found.close()


@pytest.mark.parametrize("at_once", [1 << 28, 0])
def test_the_log_gives_what_the_checkpoint_would(shop, monkeypatch, at_once):
    monkeypatch.setattr(folding, "WRITE_AT_BYTES", at_once)
    shop.published()
    shop.train("item", dict.fromkeys(range(1, 30), 9.0))
    shop.train("item", {1: 10.0, 99: 1.0}, deletes=(2, 99))
    shop.train("user", {-5: 4.0})
    shop.mark()
    shop.train("user", {-5: 5.0})
    shop.mark()
    shop.train("user", {-5: 6.0})
    shop.updates.flush()  # behind the newest marker: it stays with the log
    found = publish_delta_from_log(shop.env)
    items = {**dict.fromkeys(range(3, 30), 9.0), 1: 10.0}
    assert (found.source, str(found.state)) == ("log", "1-3")
    assert written(shop.env, found) == {"item": (items, {2, 99}), "user": ({-5: 5.0}, set())}
    assert rows_of(shop.env, found)["item"] == shop.tables["item"]
    assert verify(shop.env).ok
    runs = found.changes["item"].runs
    assert len({run.path for run in runs}) == len(runs) == (3 if at_once == 0 else 2)


def test_without_a_newer_checkpoint_the_newest_version_is_returned(shop):
    first = shop.published()
    shop.train("item", {1: 2.0})
    shop.updates.flush()
    assert publish_delta_from_log(shop.env) == first
    shop.mark()
    once = publish_delta_from_log(shop.env)
    assert publish_delta_from_log(shop.env) == once


def test_the_first_version_may_come_from_the_log(shop):
    shop.tables = {}
    shop.train("item", {1: 2.0})
    shop.mark()
    assert rows_of(shop.env, publish_delta_from_log(shop.env)) == {"item": {1: 2.0}}


def test_rows_that_were_kept_back_are_refused(shop):
    shop.published()
    shop.train("item", {1: 9.0})
    shop.updates.flush()
    shop.reopen()  # what its dead term wrote is dirty
    shop.mark()
    error = refused(
        shop.env, Refused, r"checkpoint 1-2: trainer did not send 1 rows over the log", lambda: publish_delta_from_log(shop.env)
    )
    assert "publish delta PATH" in error.hint


def test_invariant_6_what_brokers_have_acknowledged_and_lost_is_missed(shop):
    shop.published()
    ends = [shop.log.end(p) for p in range(shop.world.partitions)]
    shop.train("item", {20: 10.0})
    shop.updates.flush()
    for p, end in enumerate(ends):  # the leader that had them has gone
        del shop.log._records[p][end - shop.log.begin(p) :]
    shop.train("item", {50: 9.0})
    shop.mark()
    lost = "checkpoint 1-2: trainer sent key 20 of table item, and the log does not have it"
    refused(shop.env, Refused, lost, lambda: publish_delta_from_log(shop.env))
    found = publish_delta(shop.env, shop.source(), sidecar=shop.mark())
    assert rows_of(shop.env, found)["item"] == shop.tables["item"]


def test_a_table_whose_list_has_overflowed_is_refused(shop):
    shop.published()
    shop.reopen(touched_keys=1)
    shop.train("item", {1: 9.0, 2: 9.0})
    shop.mark()
    refused(shop.env, Refused, "trainer did not send tables item over the log", lambda: publish_delta_from_log(shop.env))


def test_a_foreign_checkpoint_cannot_be_folded(shop):
    shop.published()
    from penstock.publishers.offline import place

    place(shop.env, shop.env.catalog.history(), None, shop.through)
    refused(shop.env, Refused, "checkpoint 1-2: offline did not send tables item, user", lambda: publish_delta_from_log(shop.env))


def test_an_announced_dense_slice_is_taken_else_that_of_the_base(shop):
    shop.published()
    shop.train("item", {1: 9.0})
    shop.mark()
    assert dense_of(shop.env, publish_delta_from_log(shop.env)) == {"top": 1.0}
    shop.updates.put_dense({"top": np.full(3, 7.0, np.float32)}, trained_through=shop.through)
    shop.mark()
    assert dense_of(shop.env, publish_delta_from_log(shop.env)) == {"top": 7.0}
    shop.dense = {"top": 8.0}
    publish_delta(shop.env, shop.source(), sidecar=shop.mark())
    shop.mark()
    assert dense_of(shop.env, publish_delta_from_log(shop.env)) == {"top": 8.0}


def test_a_dense_slice_of_a_dead_term_is_not_that_of_the_checkpoint(shop):
    """The trainer goes on from before it, and has another one."""
    shop.dense = {"top": 1.0}
    shop.published()
    shop.updates.put_dense({"top": np.full(3, 7.0, np.float32)}, trained_through=shop.through)
    shop.updates.flush()
    shop.reopen()
    shop.mark()
    assert dense_of(shop.env, publish_delta_from_log(shop.env)) == {"top": 1.0}


def test_a_dense_slice_that_the_trainer_went_back_to_is_not_in_the_log(shop):
    first = shop.published()
    shop.dense = {"top": 8.0}
    publish_delta(shop.env, shop.source(), sidecar=shop.mark())
    shop.updates.close()
    shop.updates = shop.world.open(first.state)
    shop.mark()
    owed = "checkpoint 1-3: trainer did not send its dense slice over the log"
    refused(shop.env, Refused, owed, lambda: publish_delta_from_log(shop.env))
    shop.updates.put_dense({"top": np.full(3, 1.0, np.float32)}, trained_through=shop.through)
    shop.mark()
    assert dense_of(shop.env, publish_delta_from_log(shop.env)) == {"top": 1.0}


def test_two_runs_at_once(shop, monkeypatch):
    shop.published()
    shop.train("item", {1: 9.0})
    shop.mark()
    real, other = folding._folded, []

    def meanwhile(*arguments):
        if not other:
            other.append(None)
            other[0] = publish_delta_from_log(shop.env)
        return real(*arguments)

    monkeypatch.setattr(folding, "_folded", meanwhile)
    with pytest.raises(CommitConflict):
        publish_delta_from_log(shop.env)
    assert publish_delta_from_log(shop.env) == other[0]


def test_invariant_2_every_failure_leaves_the_live_ref_whole():
    shop = Shop({"item": {1: 1.0, 2: 2.0}})
    shop.published()
    shop.train("item", {1: 9.0}, deletes=(2,))
    shop.mark()
    shop.close()

    def check(env, found):
        assert rows_of(env, found) == shop.tables
        assert len(env.catalog.history().trunk) == 3

    survives_every_failure(shop, publish_delta_from_log, check)
