"""Parts that are sliced apart make the same snapshot as one run, whoever dies, and whoever is there twice."""

from __future__ import annotations

import numpy as np
import pytest
from shop import TABLES, Shop, dense_of, refused, rows_of, source_of, survives_every_failure, written

from penstock.pipeline.catalog import leases
from penstock.pipeline.config import ModelConfig, TableConfig
from penstock.pipeline.core.errors import CommitConflict, Expired, InvalidInput, NotFound, Refused
from penstock.publishers import differing
from penstock.publishers.compaction import compact
from penstock.publishers.delta import publish_delta
from penstock.publishers.fanout import commit_parts, publish_part
from penstock.publishers.snapshot import publish_snapshot
from penstock.publishers.verification import verify
from penstock.slicer.row_source import ArraySource


@pytest.fixture
def shop():
    found = Shop()
    yield found
    found.close()


def parts(shop, run, of=3, **given):
    return [publish_part(shop.env, shop.source(), run=run, part=part, of=of, **given) for part in range(1, of + 1)]


@pytest.mark.parametrize("of", [1, 3, 20])
def test_the_first_snapshot_in_parts(shop, of):
    sidecar = shop.mark()
    documents = parts(shop, "monday", of, sidecar=sidecar)
    assert sum(document.rows for document in documents) == 8
    assert shop.env.catalog.refs().trunk == 0
    found = commit_parts(shop.env, run="monday")
    assert (found.version, found.kind, found.upload, str(found.state)) == (1, "snapshot", "monday", sidecar.state)
    assert rows_of(shop.env, found) == TABLES
    assert dense_of(shop.env, found) == shop.dense
    assert verify(shop.env).ok
    other = Shop()
    assert publish_snapshot(other.env, other.source(), trained_through=0).digest(8) == found.digest(8)
    assert commit_parts(shop.env, run="monday") == found
    assert publish_snapshot(shop.env, shop.source(), sidecar=sidecar) == found


@pytest.mark.parametrize("at_once", [1 << 26, 1])
def test_a_later_snapshot_in_parts_comes_with_its_delta(shop, monkeypatch, at_once):
    monkeypatch.setattr(differing, "WRITE_AT_BYTES", at_once)
    shop.published()
    shop.train("item", {1: 9.0, 70: 7.0}, deletes=(2, 3))
    shop.train("user", {-5: 8.0})
    shop.dense = {"top": 5.0}
    parts(shop, "tuesday", sidecar=shop.mark())
    beside = commit_parts(shop.env, run="tuesday")
    history = shop.env.catalog.history()
    assert [(m.kind, m.source) for m in history.trunk[1:]] == [("snapshot", "whole"), ("delta", "compared")]
    assert written(shop.env, history.newest) == {"item": ({1: 9.0, 70: 7.0}, {2, 3}), "user": ({-5: 8.0}, set())}
    assert rows_of(shop.env, history.newest, chain=list(history.trunk[1:])) == rows_of(shop.env, beside) == shop.tables
    assert dense_of(shop.env, beside) == shop.dense
    assert history.newest.digest(8) == beside.digest(8)
    assert verify(shop.env).ok
    assert commit_parts(shop.env, run="tuesday") == beside


def test_parts_of_a_checkpoint_without_a_place_in_the_log(shop):
    parts(shop, "a", trained_through=shop.through)
    found = commit_parts(shop.env, run="a")
    assert (found.publisher, found.trained_through) == ("offline", shop.through)
    parts(shop, "b", trained_through=shop.through)
    assert commit_parts(shop.env, run="b") == found  # the same again: nothing has changed
    shop.train("item", {1: 3.0}, send=False)
    parts(shop, "c", trained_through=shop.through)
    assert rows_of(shop.env, commit_parts(shop.env, run="c")) == shop.tables


def test_a_quantized_table_is_compared_as_it_is_encoded():
    shop = Shop({"item": {}}, model=ModelConfig(tables={"item": TableConfig(tensor="item", codec="int8")}))
    shop.dense = {}
    rows = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)

    def publish(run, through):
        source = source_of({"item": {}})
        source.tables["item"] = ArraySource(rows)
        for part in (1, 2):
            publish_part(shop.env, source, run=run, part=part, of=2, trained_through=through)
        return commit_parts(shop.env, run=run)

    publish("a", 0)
    rows[7] += 1
    beside = publish("b", 1)
    delta = shop.env.catalog.history().newest
    assert delta.changes["item"].rows == 1
    assert delta.digest(8) == beside.digest(8)


def test_a_part_that_is_there_is_not_sliced_again(shop):
    sidecar = shop.mark()
    once = parts(shop, "monday", sidecar=sidecar)
    before = {entry.key for entry in shop.store.list("retail/data/")}
    assert parts(shop, "monday", sidecar=sidecar) == once
    assert {entry.key for entry in shop.store.list("retail/data/")} == before


def test_parts_that_do_not_belong_together_are_refused(shop):
    sidecar = shop.mark()
    publish_part(shop.env, shop.source(), run="r", part=1, of=3, sidecar=sidecar)
    refused(shop.env, Refused, "run r: parts 2, 3 of 3 are missing", lambda: commit_parts(shop.env, run="r"))
    refused(shop.env, NotFound, "no run 'other'", lambda: commit_parts(shop.env, run="other"))
    again = lambda **given: lambda: publish_part(shop.env, shop.source(), run="r", **{"part": 1, "of": 3, **given})  # noqa: E731
    refused(shop.env, Refused, "part 1 of run r was sliced of another checkpoint", again(trained_through=shop.through))
    refused(shop.env, Refused, "or as one of 3", again(of=4, sidecar=sidecar))
    refused(shop.env, InvalidInput, "part 4 of 3", again(part=4, sidecar=sidecar))
    refused(shop.env, InvalidInput, "not known what", again())
    refused(
        shop.env,
        InvalidInput,
        "run 'a/b'",
        lambda: publish_part(shop.env, shop.source(), run="a/b", part=1, of=1, sidecar=sidecar),
    )
    shop.train("item", {1: 2.0})
    newer = shop.mark()
    for part in (2, 3):
        publish_part(shop.env, shop.source(), run="r", part=part, of=3, sidecar=newer)
    refused(shop.env, Refused, "part 2 of run r was sliced of another checkpoint", lambda: commit_parts(shop.env, run="r"))


def test_part_one_missing(shop):
    publish_part(shop.env, shop.source(), run="r", part=2, of=2, sidecar=shop.mark())
    refused(shop.env, Refused, "run r: part 1 is missing", lambda: commit_parts(shop.env, run="r"))


def test_a_key_in_two_parts_is_refused(shop):
    source = shop.source()
    source.tables["item"].row_keys[5] = 1
    sidecar = shop.mark()
    for part in (1, 2):
        publish_part(shop.env, source, run="r", part=part, of=2, sidecar=sidecar)
    refused(shop.env, Refused, "table item: key 1 is there twice", lambda: commit_parts(shop.env, run="r"))


def test_a_run_that_retention_gave_up(shop):
    sidecar = shop.mark()
    parts(shop, "r", sidecar=sidecar)
    (upload,) = leases.uploads(shop.env.catalog)
    leases.expire_upload(shop.env.catalog, upload)
    refused(shop.env, Expired, "upload r was given up", lambda: commit_parts(shop.env, run="r"))
    refused(shop.env, Expired, "upload r was given up", lambda: parts(shop, "r", sidecar=sidecar))


def test_an_older_state_is_refused_before_it_is_sliced(shop):
    older, source = shop.mark(), shop.source()
    shop.train("item", {1: 2.0})
    shop.published()
    refused(
        shop.env,
        Refused,
        "checkpoint 1-1 is older than version 1",
        lambda: publish_part(shop.env, source, run="r", part=1, of=1, sidecar=older),
    )
    assert [upload.id for upload in leases.uploads(shop.env.catalog) if upload.id == "r"] == []


def test_another_commit_in_between_is_a_conflict_or_makes_it_older(shop, monkeypatch):
    shop.published()
    shop.train("item", {1: 2.0})
    sidecar = shop.mark()
    parts(shop, "r", sidecar=sidecar)
    from penstock.publishers import fanout

    real = fanout._commit_difference

    def meanwhile(*arguments, **options):
        publish_delta(shop.env, shop.source(), sidecar=sidecar)
        return real(*arguments, **options)

    monkeypatch.setattr(fanout, "_commit_difference", meanwhile)
    with pytest.raises(CommitConflict):
        commit_parts(shop.env, run="r")
    monkeypatch.undo()
    found = commit_parts(shop.env, run="r")
    assert (found.kind, found.base, rows_of(shop.env, found)) == ("snapshot", None, shop.tables)


def test_a_state_that_is_compacted_already_needs_no_second_base(shop):
    shop.published()
    shop.train("item", {1: 2.0})
    sidecar = shop.mark()
    parts(shop, "r", sidecar=sidecar)
    publish_delta(shop.env, shop.source(), sidecar=sidecar)
    base = compact(shop.env)
    assert commit_parts(shop.env, run="r") == base


@pytest.mark.parametrize("kind", ["first", "later", pytest.param("foreign later", marks=pytest.mark.slow)])
def test_invariant_2_every_failure_leaves_the_live_ref_whole(kind):
    shop = Shop({"item": {1: 1.0, 2: 2.0}, "user": {-7: 3.0}})
    foreign = kind.startswith("foreign")
    if kind.endswith("later"):
        publish_snapshot(shop.env, shop.source(), **({"trained_through": shop.through} if foreign else {"sidecar": shop.mark()}))
        shop.train("item", {1: 9.0}, deletes=(2,), send=not foreign)
    given = {"trained_through": shop.through} if foreign else {"sidecar": shop.mark()}
    shop.close()

    def run(env):
        for part in (1, 2):
            publish_part(env, shop.source(), run="r", part=part, of=2, **given)
        return commit_parts(env, run="r")

    def check(env, found):
        history = env.catalog.history()
        assert rows_of(env, found) == rows_of(env, history.newest) == shop.tables
        assert len(history.trunk) == (3 if kind.endswith("later") else 2)

    survives_every_failure(shop, run, check)
