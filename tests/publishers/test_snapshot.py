"""Snapshots: the first one is the chain, a later one stands beside it; and whatever fails, the live ref is as it was."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from shop import TABLES, Shop, dense_of, refused, rows_of, source_of, survives_every_failure, written

from penstock.pipeline.catalog import leases
from penstock.pipeline.core.checkpoint import Sidecar
from penstock.pipeline.core.errors import (
    ChainBroken,
    CommitConflict,
    Expired,
    InvalidInput,
    NotFound,
    NotResumable,
    Refused,
    StorageFull,
)
from penstock.pipeline.core.times import format_time
from penstock.publishers.delta import publish_delta
from penstock.publishers.snapshot import publish_snapshot
from penstock.publishers.verification import verify


@pytest.fixture
def shop():
    found = Shop()
    yield found
    found.close()


def test_the_first_snapshot_starts_the_chain(shop):
    found = shop.published()
    refs = shop.env.catalog.refs()
    assert (found.version, found.kind, found.base, found.source) == (1, "snapshot", 0, "whole")
    assert refs.trunk == refs.ref("live").version == 1
    assert found.rows == 8
    assert rows_of(shop.env, found) == TABLES
    assert dense_of(shop.env, found) == {"top": 1.0}
    assert {name: change.interval for name, change in found.changes.items()} == {n: f.state for n, f in found.full.items()}
    assert verify(shop.env, 1).digest == found.digest(shop.env.schema.buckets)[1]


def test_invariant_4_a_later_snapshot_comes_with_a_delta_and_stands_beside_the_chain(shop):
    first = shop.published()
    shop.train("item", {1: 9.0}, deletes=(2,))
    beside = shop.published()
    history = shop.env.catalog.history()
    assert [(m.version, m.kind, m.base) for m in history.trunk] == [(0, "birth", None), (1, "snapshot", 0), (2, "delta", 1)]
    assert (beside.version, beside.kind, beside.base, beside.changes) == (3, "snapshot", None, {})
    assert shop.env.catalog.refs().ref("live").version == 2
    assert written(shop.env, history.newest) == {"item": ({1: 9.0}, {2})}
    assert history.chain(2) == [beside]
    assert rows_of(shop.env, beside) == rows_of(shop.env, beside, chain=[first, history.newest]) == shop.tables
    assert history.newest.digest(8) == beside.digest(8)
    assert beside.trained_through == history.newest.trained_through == shop.through


def test_a_delta_that_was_committed_before_gets_its_whole_state(shop):
    shop.published()
    shop.train("item", {1: 9.0})
    sidecar = shop.mark()
    delta = publish_delta(shop.env, shop.source(), sidecar=sidecar)
    beside = publish_snapshot(shop.env, shop.source(), sidecar=sidecar)
    assert beside.state == delta.state
    assert rows_of(shop.env, beside) == shop.tables
    assert publish_snapshot(shop.env, shop.source(), sidecar=sidecar) == beside


def test_a_source_that_is_not_the_committed_state_is_refused(shop):
    shop.published()
    shop.train("item", {1: 9.0})
    sidecar = shop.mark()
    publish_delta(shop.env, shop.source(), sidecar=sidecar)
    shop.tables["item"][3] = 4.5
    refused(
        shop.env,
        ChainBroken,
        r"table item: not the state that version 2 has.* 1 buckets",
        lambda: publish_snapshot(shop.env, shop.source(), sidecar=sidecar),
    )


@pytest.mark.parametrize("later", [False, True])
def test_the_same_run_again_returns_what_it_made(shop, later):
    if later:
        shop.published()
        shop.train("item", {7: 7.0})
    sidecar = shop.mark()
    once = publish_snapshot(shop.env, shop.source(), sidecar=sidecar)
    refs = shop.env.catalog.refs()
    assert publish_snapshot(shop.env, shop.source(), sidecar=sidecar) == once
    assert shop.env.catalog.refs() == refs


def test_without_promotion_no_ref_moves_and_another_ref_follows_versions(shop):
    found = publish_snapshot(shop.env, shop.source(), sidecar=shop.mark(), promote=())
    refs = shop.env.catalog.refs()
    assert (refs.trunk, refs.ref("live").version) == (found.version, 0)
    shop.train("item", {7: 7.0})
    publish_delta(shop.env, shop.source(), sidecar=shop.mark(), promote=("canary",))
    refs = shop.env.catalog.refs()
    assert (refs.ref("live").version, refs.ref("canary").version, refs.ref("canary").follow) == (0, 2, "versions")
    refused(
        shop.env,
        InvalidInput,
        "ref '../x'",
        lambda: publish_snapshot(
            shop.env, source_of({**shop.tables, "new": {1: 1.0}}), trained_through=shop.through, promote=("../x",)
        ),
    )


def test_a_foreign_checkpoint_is_marked_by_the_run_itself_and_its_repetition_changes_nothing(shop):
    once = publish_snapshot(shop.env, shop.source(), trained_through=shop.through)
    assert (once.version, once.publisher) == (1, "offline")
    assert rows_of(shop.env, once) == TABLES
    assert publish_snapshot(shop.env, shop.source(), trained_through=shop.through) == once
    later = publish_snapshot(shop.env, shop.source(), trained_through=shop.through + 1)
    assert later.version == 3
    assert written(shop.env, shop.env.catalog.history().newest) == {}
    assert later.trained_through == shop.through + 1


def test_a_sidecar_of_a_foreign_trainer_says_what_was_learned(shop):
    sidecar = Sidecar(trained_through=format_time(shop.through), step=7)
    assert publish_snapshot(shop.env, shop.source(), sidecar=sidecar).trained_through == shop.through


BAD_SOURCES = [
    (Refused, "table item: key 3: holds a NaN or an infinity", {**TABLES, "item": {3: float("nan")}}),
    (Refused, "table item: key 4: holds a NaN or an infinity", {**TABLES, "item": {1: 1.0, 4: float("inf")}}),
    (Refused, "the arrays given has no table user, which model retail has", {"item": {1: 1.0}}),
    (InvalidInput, "table '.hidden'", {**TABLES, ".hidden": {1: 1.0}}),
]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("error", "match", "tables"), BAD_SOURCES)
def test_invariant_12_bad_rows_are_refused_and_nothing_has_moved(shop, error, match, tables, first):
    if not first:
        shop.published()
        shop.train("item", {1: 2.0})
    elif "user" not in tables:
        return
    sidecar = shop.mark()
    refused(shop.env, error, match, lambda: publish_snapshot(shop.env, source_of(tables), sidecar=sidecar))
    assert rows_of(shop.env, publish_snapshot(shop.env, shop.source(), sidecar=sidecar)) == shop.tables


def test_another_dim_and_a_key_that_is_there_twice_are_refused(shop):
    shop.published()
    shop.train("item", {1: 2.0})
    sidecar = shop.mark()
    refused(
        shop.env,
        Refused,
        "table item: dim 3 was asked for, it has dim 2",
        lambda: publish_delta(shop.env, source_of(shop.tables, dim=3), sidecar=sidecar),
    )
    double = shop.source()
    double.tables["item"].row_keys[1] = double.tables["item"].row_keys[0]
    refused(shop.env, Refused, "table item: key 1 is there twice", lambda: publish_snapshot(shop.env, double, sidecar=sidecar))


def test_a_dense_tensor_that_is_not_finite_is_refused(shop):
    shop.dense = {"top": float("nan")}
    refused(
        shop.env, Refused, "dense tensor top: holds a NaN", lambda: publish_snapshot(shop.env, shop.source(), sidecar=shop.mark())
    )


def test_times_and_states_that_cannot_be(shop):
    source = shop.source()
    refused(shop.env, InvalidInput, "not known what the checkpoint has learned", lambda: publish_snapshot(shop.env, source))
    refused(
        shop.env,
        InvalidInput,
        "past the clock",
        lambda: publish_snapshot(shop.env, source, trained_through=shop.through + 10**12),
    )
    refused(
        shop.env,
        InvalidInput,
        "sidecar is of model other",
        lambda: publish_snapshot(shop.env, source, sidecar=Sidecar(model="other", trained_through=1)),
    )
    refused(
        shop.env,
        NotFound,
        "no checkpoint with marker 7",
        lambda: publish_snapshot(shop.env, source, sidecar=Sidecar(state="1-7")),
    )
    publish_snapshot(shop.env, source, trained_through=shop.through)
    error = refused(
        shop.env,
        Refused,
        "has learned up to .*, version 1 up to",
        lambda: publish_snapshot(shop.env, source, trained_through=shop.through - 1),
    )
    assert "roll back" in error.hint
    sidecar = shop.mark()
    refused(
        shop.env,
        InvalidInput,
        "said to have learned up to .*, but state 1-2 was marked at",
        lambda: publish_snapshot(shop.env, source, sidecar=sidecar, trained_through=shop.through + 5),
    )


def test_an_older_checkpoint_than_the_newest_version_is_refused(shop):
    older = shop.mark()
    old = shop.source()
    shop.train("item", {1: 2.0})
    shop.published()
    refused(
        shop.env,
        Refused,
        "checkpoint 1-1 is older than version 1 of state 1-2",
        lambda: publish_snapshot(shop.env, old, sidecar=older),
    )


@pytest.mark.parametrize("later", [False, True])
def test_invariant_2_of_two_racing_runs_one_wins_and_the_other_may_try_again(shop, later):
    if later:
        shop.published()
        shop.train("item", {1: 5.0})
    sidecar = shop.mark()
    other = shop.env

    class Meanwhile:
        """The last table is read when another run has committed the same state."""

        def __init__(self, inner):
            self.inner, self.done = inner, False

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def read(self, start, out):
            if not self.done:
                self.done = True
                publish_snapshot(other, shop.source(), sidecar=sidecar)
            return self.inner.read(start, out)

    source = shop.source()
    source.tables["user"] = Meanwhile(source.tables["user"])
    env = shop.env
    with pytest.raises(CommitConflict) as raised:
        publish_snapshot(env, source, sidecar=sidecar)
    assert raised.value.retriable
    found = publish_snapshot(env, source, sidecar=sidecar)
    history = shop.env.catalog.history()
    assert [m.version for m in history.trunk] == ([0, 1, 2] if later else [0, 1])
    assert rows_of(shop.env, found) == shop.tables
    # What the loser wrote is named by no version, and owned by an upload that nobody commits.
    named = {path for m in (*history.trunk, *history.bases.values()) for path in m.data_paths()}
    garbage = {entry.key for entry in shop.store.list("retail/data/")} - named
    uploads = {upload.id for upload in leases.uploads(shop.env.catalog)}
    assert garbage
    assert {key.split("/")[2] for key in garbage} <= uploads - {m.upload for m in history.trunk}


class FullStore:
    """No space for slices any more."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def upload(self, key, *, size_hint=0):
        raise StorageFull(f"{key}: no space left on the device")


def test_a_full_disk_is_said_once_and_the_run_can_be_made_again(shop):
    shop.published()
    shop.train("item", {1: 2.0})
    sidecar = shop.mark()
    full = shop.environment(FullStore(shop.store), shop.log)
    error = refused(shop.env, StorageFull, "no space left", lambda: publish_snapshot(full, shop.source(), sidecar=sidecar))
    assert error.retriable
    assert rows_of(shop.env, publish_snapshot(shop.env, shop.source(), sidecar=sidecar)) == shop.tables


def test_an_upload_that_retention_gave_up_is_not_committed(shop):
    shop.published()
    shop.train("item", {1: 2.0})
    sidecar = shop.mark()

    class GivenUp:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def read(self, start, out):
            for upload in leases.uploads(shop.env.catalog):
                leases.expire_upload(shop.env.catalog, upload)
            return self.inner.read(start, out)

    source = shop.source()
    source.tables["user"] = GivenUp(source.tables["user"])
    refused(shop.env, Expired, "given up by retention", lambda: publish_snapshot(shop.env, source, sidecar=sidecar))


def test_a_checkpoint_that_a_resume_gave_up_is_expired(shop):
    shop.published()
    shop.train("item", {1: 2.0})
    sidecar = shop.mark()
    shop.reopen()
    refused(shop.env, Expired, "given up by a resume", lambda: publish_snapshot(shop.env, shop.source(), sidecar=sidecar))


def test_a_state_that_a_rollback_took_back_is_not_published_again(shop):
    from trainer_world import fence, roll_back

    sidecar = shop.mark()
    publish_snapshot(shop.env, shop.source(), sidecar=sidecar)
    shop.train("item", {1: 2.0})
    unpublished = shop.mark()
    roll_back(shop.world, fence(shop.world))
    refused(
        shop.env,
        NotResumable,
        "state 1-1 was committed as version 1, which a rollback has taken back",
        lambda: publish_snapshot(shop.env, shop.source(), sidecar=sidecar),
    )
    refused(
        shop.env,
        NotResumable,
        "taken on timeline 1; the model was rolled back and is on timeline 2",
        lambda: publish_snapshot(shop.env, shop.source(), sidecar=unpublished),
    )


def test_growth_is_an_ordinary_delta(shop):
    shop.published()
    shop.train("item", {100: 1.0})
    shop.tables["country"] = {1: 4.0, 2: 5.0}
    found = publish_snapshot(shop.env, shop.source(), sidecar=shop.mark())
    delta = shop.env.catalog.history().newest
    assert written(shop.env, delta) == {"item": ({100: 1.0}, set()), "country": ({1: 4.0, 2: 5.0}, set())}
    assert rows_of(shop.env, found) == shop.tables
    assert verify(shop.env).ok


def test_a_table_may_be_empty_in_memory_and_be_filled_later(shop):
    shop.tables = {"item": {1: 1.0}, "user": {}}
    shop.published()
    shop.train("user", {5: 5.0})
    shop.train("item", {}, deletes=(1,))
    found = shop.published()
    assert rows_of(shop.env, found) == {"item": {}, "user": {5: 5.0}}


@pytest.mark.parametrize("kind", ["first", "later", "foreign first", pytest.param("foreign later", marks=pytest.mark.slow)])
def test_invariant_2_every_failure_leaves_the_live_ref_whole(kind):
    shop = Shop({"item": {1: 1.0, 2: 2.0}, "user": {-7: 3.0}})
    foreign = kind.startswith("foreign")
    if kind.endswith("later"):
        publish_snapshot(shop.env, shop.source(), **({"trained_through": shop.through} if foreign else {"sidecar": shop.mark()}))
        shop.train("item", {1: 9.0}, deletes=(2,), send=not foreign)
    given = {"trained_through": shop.through} if foreign else {"sidecar": shop.mark()}
    shop.close()

    def check(env, found):
        history = env.catalog.history()
        assert rows_of(env, found) == rows_of(env, history.newest) == shop.tables
        assert len(history.trunk) == (3 if kind.endswith("later") else 2)
        assert len(history.bases) == (1 if kind.endswith("later") else 0)
        assert env.catalog.refs().ref("live").version == history.newest.version

    survives_every_failure(shop, lambda env: publish_snapshot(env, shop.source(), **given), check)


def test_rows_that_do_not_belong_to_their_keys_are_refused(shop):
    from penstock.pipeline.config import ModelConfig
    from penstock.publishers.sources import array_source

    with pytest.raises(Refused, match="do not belong together"):
        array_source({"item": (np.arange(3), np.zeros((2, 2), np.float32))}, {}, ModelConfig())
    assert msgspec.structs.asdict(shop.env.catalog.refs())["generation"] == 0
