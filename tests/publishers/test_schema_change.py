"""Tables that grow, appear, go, come back, and change their dim or codec; and what is refused changes nothing."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from recoveries import execute, plan_rollback
from shaping import Shaping, served
from shop import TABLES, refused, rows_of, source_of, survives_every_failure, written

from penstock.pipeline.config import ModelConfig, TableConfig, parse_config
from penstock.pipeline.core.errors import InvalidInput, NotFound, PositionGone, Refused
from penstock.pipeline.core.schema_change import Reshaped, Same
from penstock.publishers.compaction import compact
from penstock.publishers.delta import publish_delta
from penstock.publishers.export import export_checkpoint, export_table
from penstock.publishers.fanout import commit_parts, publish_part
from penstock.publishers.folding import publish_delta_from_log
from penstock.publishers.schema_change import plan_source
from penstock.publishers.snapshot import publish_snapshot
from penstock.publishers.sources import checkpoint_source
from penstock.publishers.verification import verify
from penstock.rollback.moment import export_moment, state_before
from penstock.rollback.target import before_event, to_version
from penstock.rollback.trace import trace

NEW = {"item": "item@2"}
OLD_ITEMS = TABLES["item"]


@pytest.fixture
def shop():
    found = Shaping()
    yield found
    found.close()


def delta(shop, **given):
    return publish_delta(shop.env, shop.source(), sidecar=shop.mark(), **given)


def back(shop, target, **given):
    """A rollback, and a trainer that begins from its state."""
    done = execute(shop.env, plan_rollback(shop.env, target, **given), why="poison")
    shop.world.now = max(shop.world.now, done.created_at)
    shop.reopen()
    return done


def whole(shop):
    """Everything that is stored says the same, and what states its digests does so of every table."""
    history = shop.env.catalog.history()
    for manifest in (*history.trunk[1:], *history.bases.values()):
        found = verify(shop.env, manifest.version)
        assert found.ok, found
        stated, digest = manifest.digest(shop.env.schema.buckets)
        born = {name for name in shop.env.schema.tables if name in rows_of(shop.env, manifest)}
        if stated == "state" and manifest is history.newest:
            assert set(manifest.state_digests(8)) == born
            assert digest == found.digest
    return history


# ---- grow, appear, vanish ------------------------------------------------------------------------------------------------


def test_growth_is_an_ordinary_delta(shop):
    shop.published()
    shop.train("item", dict.fromkeys(range(100, 150), 1.0))
    assert all(
        isinstance(change, Same) for change in plan_source(shop.env, shop.source(), shop.env.catalog.history().newest).changes
    )
    grown = delta(shop)
    assert (grown.source, grown.shapes, grown.retired, grown.rows) == ("touched", {}, (), 50)


def test_a_table_appears_by_a_delta_which_says_so(shop, caplog):
    shop.published()
    shop.train("cart", {5: 0.5}, send=False)
    born = delta(shop)
    assert (born.kind, written(shop.env, born)) == ("delta", {"cart": ({5: 0.5}, set())})
    assert caplog.messages == ["table cart appears"]


def test_a_table_that_vanishes_is_refused_by_every_publish(shop):
    shop.published()
    shop.train("item", {1: 9.0})
    sidecar, source = shop.mark(), source_of({"item": shop.tables["item"]})
    for publish in (publish_delta, publish_snapshot):
        error = refused(
            shop.env, Refused, "the arrays given has no table user, which model retail has$",
            lambda publish=publish: publish(shop.env, source, sidecar=sidecar),
        )  # fmt: skip
        assert error.hint == "is the config complete? `retired = true` in [models.retail.tables.user] lets the table go"
    refused(shop.env, Refused, "no table user", lambda: publish_part(shop.env, source, run="r", part=1, of=1, sidecar=sidecar))


# ---- retired -------------------------------------------------------------------------------------------------------------


def retire(shop, name="user"):
    shop.configure(**{name: {"retired": True}})
    gone = shop.tables.pop(name)
    shop.seconds += 1
    return gone


def publish_retired(shop, how):
    if how == "touched":
        shop.train("item", {1: 9.0})
        return delta(shop)
    if how == "from log":
        shop.train("item", {1: 9.0})
        shop.mark()
        return publish_delta_from_log(shop.env)
    if how == "snapshot":
        return publish_snapshot(shop.env, shop.source(), trained_through=shop.through)
    return publish_delta(shop.env, shop.source(), trained_through=shop.through)


@pytest.mark.parametrize("how", ["touched", "from log", "snapshot", "compared"])
def test_a_retired_table_loses_every_row_in_the_next_version_and_a_rollback_brings_them_back(shop, how):
    shop.published()
    rows = retire(shop)
    manifest = publish_retired(shop, how)
    history = whole(shop)
    newest = history.newest
    assert newest.retired == manifest.retired == ("user",)
    assert written(shop.env, newest)["user"] == ({}, set(rows))
    assert rows_of(shop.env, newest) == {"item": shop.tables["item"], "user": {}}
    assert [moved.move.why for moved in shop.env.catalog.moves()].count("table user is retired") == 1
    shop.tables["item"] = dict(OLD_ITEMS)
    done = back(shop, to_version(history.trunk[1].version))
    assert (done.retired, rows_of(shop.env, done)) == ((), {"item": OLD_ITEMS, "user": rows})
    whole(shop)


def test_a_retired_table_is_cleared_once_and_may_leave_the_config(shop):
    shop.published()
    retire(shop)
    publish_retired(shop, "compared")
    shop.configure()
    shop.train("item", {1: 9.0})
    later = delta(shop)
    assert (later.source, later.retired, written(shop.env, later)) == ("touched", ("user",), {"item": ({1: 9.0}, set())})
    compared = publish_snapshot(shop.env, shop.source(), sidecar=shop.mark())
    assert compared.full["user"].rows == 0
    assert shop.env.catalog.history().of_state(compared.state).digest(8) == compared.digest(8)
    whole(shop)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_table_that_comes_back_is_an_ordinary_delta(shop, dim):
    shop.published()
    rows = retire(shop)
    publish_retired(shop, "touched")
    shop.tables["user"], shop.dims["user"] = {**rows, 77: 7.0}, dim
    shop.configure()
    shop.seconds += 1
    found = delta(shop)
    assert (found.kind, found.retired, served(shop.env, found)) == ("delta", (), shop.tables)
    assert found.shapes == ({} if dim == 2 else {"user": "user@2"})
    whole(shop)


def test_rows_of_a_retired_table_are_refused(shop):
    shop.published()
    rows = shop.tables["user"]
    retire(shop)
    updates = shop.world.open(shop.env.catalog.history().newest.state, publisher="trainer", environment=shop.env)
    refused(shop.env, Refused, "table user is retired", lambda: updates.put("user", [1], [[1.0, 1.0]]))
    source = source_of({**shop.tables, "user": rows})
    error = refused(
        shop.env, Refused, "the arrays given has rows of table user, which is retired",
        lambda: publish_delta(shop.env, source, trained_through=shop.through),
    )  # fmt: skip
    assert "[models.retail.tables.user]" in error.hint
    updates.close()


def test_rows_that_were_sent_before_the_table_was_retired_go_too(shop):
    shop.published()
    shop.train("user", {500: 5.0, -5: 7.0})
    rows = retire(shop)
    found = delta(shop)
    assert written(shop.env, found) == {"user": ({}, set(rows))}
    assert set(rows) >= {500, -5}


def test_a_checkpoint_need_not_have_a_retired_table(shop, tmp_path):
    np.savez(tmp_path / "c.npz", k=np.arange(3), r=np.ones((3, 2), np.float32), old=np.ones((4, 2), np.float32))
    item, gone = TableConfig(keys="k", rows="r"), TableConfig(tensor="old", retired=True)
    with checkpoint_source(tmp_path / "c.npz", ModelConfig(tables={"item": item, "user": gone})) as source:
        assert (set(source.tables), set(source.dense)) == ({"item"}, set())
    with checkpoint_source(tmp_path / "c.npz", ModelConfig(tables={"item": item, "cart": TableConfig(retired=True)})) as source:
        assert (set(source.tables), set(source.dense)) == ({"item"}, {"old"})


def test_the_config_of_a_retired_table():
    text = '[store]\nurl = "file:///a"\n[log]\nurl = "file:///b"\n[models.m.tables.user]\n'
    assert parse_config(text + "retired = true\n", "x").models["m"].tables["user"].retired
    with pytest.raises(InvalidInput, match="give either"):
        parse_config(text + "retired = false\n", "x")
    with pytest.raises(InvalidInput, match="give either"):
        parse_config(text + 'retired = true\nkeys = "k"\n', "x")


# ---- reshaped ------------------------------------------------------------------------------------------------------------


def reshaped(shop, dim=3):
    """A published shop, and then the same by a trainer with another dim of items."""
    first = shop.published()
    shop.widen(dim=dim)
    return first, publish_snapshot(shop.env, shop.source(), sidecar=shop.mark())


def test_a_delta_cannot_bring_another_dim_or_codec(shop):
    shop.published()
    shop.train("item", {1: 9.0})
    sidecar = shop.mark()
    shop.configure(item={"codec": "int8"})
    error = refused(
        shop.env, Refused, "^table item: codec int8 was asked for, it has codec float32$",
        lambda: publish_delta(shop.env, shop.source(), sidecar=sidecar),
    )  # fmt: skip
    assert error.hint == "a snapshot brings another shape: `penstock publish snapshot`"
    assert "item@2" not in shop.env.catalog.reload_schema().tables


def test_a_config_that_expects_a_dim_takes_no_other(shop):
    shop.configure(item={"dim": 2})
    shop.published()
    shop.widen(dim=3)
    sidecar = shop.mark()
    match = 'table item: its rows have 3 values, the config expects "dim" 2'
    refused(shop.env, Refused, match, lambda: publish_snapshot(shop.env, shop.source(), sidecar=sidecar))
    assert "item@2" not in shop.env.catalog.reload_schema().tables


def test_a_snapshot_brings_another_dim_as_a_generation_and_the_next_delta_clears_the_one_before(shop, caplog):
    first, beside = reshaped(shop)
    history = whole(shop)
    brought = history.newest
    assert (brought.kind, brought.shapes, beside.shapes) == ("delta", NEW, NEW)
    assert shop.env.schema.tables["item@2"].generation_of == "item"
    assert served(shop.env, brought) == served(shop.env, beside) == shop.tables
    assert rows_of(shop.env, beside)["item"] == OLD_ITEMS
    assert beside.digest(8) == brought.digest(8)
    assert caplog.messages == ["table item: dim 2 becomes 3"]
    plan = plan_source(shop.env, shop.source(), first)
    assert [type(change) for change in plan.changes] == [Reshaped, Same]

    shop.send("user", {-5: 8.0})
    after = delta(shop)
    assert (after.source, after.shapes) == ("touched", NEW)
    assert written(shop.env, after) == {"item": ({}, set(OLD_ITEMS)), "user": ({-5: 8.0}, set())}
    shop.send("item", {1: 4.0}, deletes=(2,))
    assert written(shop.env, delta(shop)) == {"item@2": ({1: 4.0}, {2})}
    whole(shop)
    compacted = compact(shop.env)
    assert rows_of(shop.env, compacted) == {"item": {}, "item@2": shop.tables["item"], "user": shop.tables["user"]}


def test_a_run_again_finds_what_it_made(shop):
    shop.published()
    shop.widen()
    sidecar = shop.mark()
    once = publish_snapshot(shop.env, shop.source(), sidecar=sidecar)
    refs = shop.env.catalog.refs()
    assert publish_snapshot(shop.env, shop.source(), sidecar=sidecar) == once
    assert publish_delta(shop.env, shop.source(), sidecar=sidecar).state == once.state
    assert shop.env.catalog.refs() == refs


def test_another_codec_without_a_sidecar(shop):
    publish_snapshot(shop.env, shop.source(), trained_through=shop.through)
    shop.seconds += 1
    shop.configure(item={"codec": "int8"})
    beside = publish_snapshot(shop.env, shop.source(), trained_through=shop.through)
    assert (beside.shapes, shop.env.schema.tables["item@2"].codec) == (NEW, "int8")
    assert served(shop.env, beside) == shop.tables
    shop.seconds += 1
    shop.tables["item"][1] = 9.0
    after = publish_delta(shop.env, shop.source(), trained_through=shop.through)
    assert served(shop.env, after) == shop.tables
    assert rows_of(shop.env, after)["item"] == {}
    whole(shop)


def test_what_the_log_brought_to_the_generation_before_is_kept_until_it_is_cleared(shop):
    """Sent by the old trainer, in no version, when the new one takes its first checkpoint."""
    shop.published()
    shop.train("item", {1: 9.0, 50: 5.0}, deletes=(2,))
    old = dict(shop.tables["item"])
    shop.widen()
    publish_snapshot(shop.env, shop.source(), sidecar=shop.mark())
    brought = shop.env.catalog.history().newest
    assert written(shop.env, brought)["item"] == ({1: 9.0, 50: 5.0}, {2})
    assert rows_of(shop.env, brought) == {"item": old, "item@2": shop.tables["item"], "user": shop.tables["user"]}
    shop.updates.put("item", [3, 60], [[1.0, 1.0], [2.0, 2.0]])  # by somebody who knows nothing of it
    shop.seconds += 1
    after = delta(shop)
    assert rows_of(shop.env, after)["item"] == {}
    assert written(shop.env, after)["item"] == ({}, {*old, 60})
    shop.updates.put("item", [70], [[1.0, 1.0]])
    shop.seconds += 1
    # Whoever touched it may have meant the table as it is by now.
    assert written(shop.env, delta(shop)) == {"item": ({}, {70}), "item@2": ({}, {70})}
    whole(shop)


def test_the_first_snapshot_may_have_another_dim_than_what_was_sent_before(shop):
    shop.send("item", {1: 2.0, 90: 9.0})
    shop.widen()
    found = publish_snapshot(shop.env, shop.source(), sidecar=shop.mark())
    assert (found.shapes, served(shop.env, found)) == (NEW, shop.tables)
    assert rows_of(shop.env, found)["item"] == {1: 2.0, 90: 9.0}
    whole(shop)


def test_rows_go_to_the_generation_of_their_dim(shop):
    reshaped(shop)
    refused(
        shop.env,
        Refused,
        "^table item: rows of dim 4, it was born with dim 3$",
        lambda: shop.updates.put("item", [1], [[1.0] * 4]),
    )
    shop.updates.put("item", [1], [[1.0] * 3])
    shop.updates.delete("item", [2])
    shop.updates.touch("item", [3])
    shop.updates.put("item", [4], [[1.0] * 2])
    shop.updates.delete("item", [5])
    shop.updates.flush()
    sent = {(record.table, key) for _, _, record in shop.world.records() if record.table for key in record.keys.tolist()}
    assert sent == {("item@2", 1), ("item@2", 2), ("item", 4), ("item", 5)}


def test_a_deletion_before_any_row_is_one_in_every_generation(shop):
    reshaped(shop)
    shop.reopen()
    shop.updates.delete("item", [2])
    shop.updates.flush()
    sent = {record.table for _, _, record in shop.world.records() if record.table}
    assert sent >= {"item", "item@2"}
    with pytest.raises(NotFound, match="no table 'cart'"):
        shop.updates.delete("cart", [2])


def test_a_put_with_another_codec_waits_for_its_snapshot(shop):
    shop.published()
    shop.configure(item={"codec": "int8"})
    updates = shop.world.open(shop.env.catalog.history().newest.state, environment=shop.env)
    error = refused(
        shop.env, Refused, "^table item: rows of codec int8, it was born with codec float32$",
        lambda: updates.put("item", [1], [[1.0, 1.0]]),
    )  # fmt: skip
    assert error.hint == "publish a snapshot of the new shape first: `penstock publish snapshot`"
    updates.close()


def test_what_a_dead_term_wrote_in_the_dim_before_is_left_to_the_snapshot(shop):
    """Its rows cannot be taken back row by row: the trainer has them in another dim."""
    shop.published()
    shop.send("item", {1: 9.0, 50: 5.0})
    shop.send("user", {-5: 3.0})
    shop.updates.flush()
    shop.reopen(on_restart="undo")

    def rows_of_trainer(table, keys):
        dim, found = (3, np.isin(keys, [1])) if table == "item" else (2, keys == -5)
        return np.ones((len(keys), dim), np.float32), found

    assert shop.updates.undo(rows_of_trainer) == 1
    shop.updates.flush()
    assert shop.world.served()["user"] == {-5: (1.0, 1.0)}
    shop.tables["item"].pop(50)
    shop.widen()
    found = publish_snapshot(shop.env, shop.source(), sidecar=shop.mark())
    assert served(shop.env, found)["item"] == shop.tables["item"]
    whole(shop)


# ---- rolled back ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cleared", [False, True])
@pytest.mark.parametrize("tables", [None, ("item",)])
def test_a_rollback_to_before_restores_the_generation_and_empties_the_new_one(shop, cleared, tables):
    first, _ = reshaped(shop)
    shop.send("item", {1: 4.0})
    shop.send("user", {-5: 8.0})
    shop.updates.flush()
    if cleared:
        delta(shop)
    users = dict(shop.tables["user"]) if tables else TABLES["user"]
    done = back(shop, to_version(first.version), tables=tables)
    assert (done.shapes, rows_of(shop.env, done)) == ({}, {"item": OLD_ITEMS, "item@2": {}, "user": users})
    assert done.rollback.tables == (None if tables is None else ("item", "item@2"))
    whole(shop)

    # The old trainer goes on where it was, and the new one can try again.
    shop.tables, shop.dims = {"item": dict(OLD_ITEMS), "user": dict(users)}, {}
    shop.send("item", {1: 6.0})
    assert written(shop.env, delta(shop)) == {"item": ({1: 6.0}, set())}
    shop.widen()
    again = publish_snapshot(shop.env, shop.source(), sidecar=shop.mark())
    assert (again.shapes, served(shop.env, again)) == (NEW, shop.tables)
    shop.widen(dim=5)
    third = publish_snapshot(shop.env, shop.source(), sidecar=shop.mark())
    assert (third.shapes, served(shop.env, third)) == ({"item": "item@3"}, shop.tables)
    whole(shop)


def test_a_rollback_to_the_version_that_brought_it_has_both_and_the_next_delta_clears(shop):
    _, beside = reshaped(shop)
    shop.send("item", {1: 4.0})
    delta(shop)
    items = {key: value + 300 for key, value in OLD_ITEMS.items()}
    done = back(shop, to_version(beside.version))
    assert (done.shapes, rows_of(shop.env, done)) == (NEW, {"item": OLD_ITEMS, "item@2": items, "user": TABLES["user"]})
    shop.tables["item"] = items
    shop.send("item", {1: 5.0})
    assert written(shop.env, delta(shop)) == {"item": ({}, set(OLD_ITEMS)), "item@2": ({1: 5.0}, set())}
    whole(shop)


def test_back_to_the_old_dim_without_a_rollback_is_a_snapshot_too(shop):
    reshaped(shop)
    shop.widen(dim=2)
    refused(
        shop.env,
        Refused,
        "dim 2 was asked for, it has dim 3",
        lambda: publish_delta(shop.env, shop.source(), sidecar=shop.mark()),
    )
    found = publish_snapshot(shop.env, shop.source(), sidecar=shop.mark())
    assert (found.shapes, served(shop.env, found)) == ({}, shop.tables)
    whole(shop)


# ---- in parts, and whatever fails -------------------------------------------------------------------------------------------


def test_parts_of_a_snapshot_bring_another_dim(shop):
    shop.published()
    shop.widen()
    sidecar = shop.mark()
    for part in (1, 2, 3):
        publish_part(shop.env, shop.source(), run="wide", part=part, of=3, sidecar=sidecar)
    beside = commit_parts(shop.env, run="wide")
    assert (beside.shapes, served(shop.env, beside)) == (NEW, shop.tables)
    assert rows_of(shop.env, beside)["item"] == OLD_ITEMS
    assert commit_parts(shop.env, run="wide") == beside
    assert shop.env.catalog.history().newest.digest(8) == beside.digest(8)
    whole(shop)


def test_invariant_2_a_reshaping_snapshot_survives_every_failure(shop):
    shop.published()
    shop.train("item", {50: 5.0})
    old = dict(shop.tables["item"])
    shop.widen()
    sidecar = shop.mark()

    def check(env, manifest):
        assert (manifest.shapes, served(env, manifest)) == (NEW, shop.tables)
        assert rows_of(env, manifest)["item"] == old

    survives_every_failure(shop, lambda env: publish_snapshot(env, shop.source(), sidecar=sidecar), check)


def test_invariant_2_the_delta_that_clears_survives_every_failure(shop):
    reshaped(shop)
    shop.send("item", {1: 4.0})
    sidecar = shop.mark()

    def check(env, manifest):
        assert (served(env, manifest), rows_of(env, manifest)["item"]) == (shop.tables, {})

    survives_every_failure(shop, lambda env: publish_delta(env, shop.source(), sidecar=sidecar), check)


def test_invariant_2_joining_parts_of_another_dim_survives_every_failure(shop):
    shop.published()
    shop.widen()
    sidecar = shop.mark()
    for part in (1, 2):
        publish_part(shop.env, shop.source(), run="wide", part=part, of=2, sidecar=sidecar)

    def check(env, manifest):
        assert (manifest.shapes, served(env, manifest)) == (NEW, shop.tables)

    survives_every_failure(shop, lambda env: commit_parts(env, run="wide"), check)


# ---- by name ----------------------------------------------------------------------------------------------------------------


def test_exports_and_traces_take_the_name_of_the_table(shop, tmp_path):
    first, _ = reshaped(shop)
    shop.send("item", {1: 4.0})
    newest = delta(shop)
    for version, dim in ((first, 2), (newest, 3)):
        assert export_table(shop.env, version, "item", tmp_path / "t.parquet") == 6
        assert pq.read_schema(tmp_path / "t.parquet").field("row").type.list_size == dim
        assert export_checkpoint(shop.env, version, tmp_path / "c.npz", "npz") == {"item": 6, "user": 2}
        assert np.load(tmp_path / "c.npz")["item/rows"].shape == (6, dim)
    moment = state_before(shop.env, before_event(shop.through))
    assert export_moment(shop.env, moment, "item", tmp_path / "m.parquet") == 6
    assert pq.read_schema(tmp_path / "m.parquet").field("row").type.list_size == 3
    found = trace(shop.env, "item", 1)
    assert {(entry.table, entry.origin, entry.op) for entry in found} == {
        ("item", "version 1 changes", "put"), ("item@2", "version 2 changes", "put"), ("item", "version 3 whole", "put"),
        ("item@2", "version 3 whole", "put"), ("item@2", "log", "put"), ("item", "version 4 changes", "delete"),
        ("item@2", "version 4 changes", "put"),
    }  # fmt: skip
    shop.configure(user={"retired": True})
    shop.tables.pop("user")
    shop.seconds += 1
    gone = delta(shop)
    assert set(export_checkpoint(shop.env, gone, tmp_path / "d.npz", "npz")) == {"item"}
    assert set(export_checkpoint(shop.env, newest, tmp_path / "d.npz", "npz")) == {"item", "user"}


def test_an_older_manifest_has_no_shapes(shop):
    first = shop.published()
    plain = msgspec.json.decode(msgspec.json.encode(first))
    del plain["shapes"], plain["retired"]
    assert msgspec.convert(plain, type(first)) == first


# ---- a log that is gone --------------------------------------------------------------------------------------------------


def cut_off(shop):
    for p in range(shop.log.partitions):
        shop.log.truncate(p, shop.log.end(p))


def test_an_old_generation_is_emptied_though_the_log_was_cut_off(shop):
    shop.published()
    shop.widen()
    publish_snapshot(shop.env, shop.source(), sidecar=shop.mark())
    shop.send("item", {1: 5.0})
    shop.updates.flush()
    cut_off(shop)
    shop.reopen()
    found = delta(shop)
    assert found.source == "compared"
    assert served(shop.env, found) == shop.tables
    assert rows_of(shop.env, found)["item"] == {}
    whole(shop)


def test_a_delta_of_touched_keys_needs_the_log_of_an_old_generation(shop):
    shop.published()
    shop.widen()
    publish_snapshot(shop.env, shop.source(), sidecar=shop.mark())
    shop.reopen()
    shop.updates.touch("item", [1])
    sidecar = shop.mark()
    cut_off(shop)
    refused(shop.env, PositionGone, "is gone", lambda: publish_delta(shop.env, shop.source(), sidecar=sidecar))
    found = publish_snapshot(shop.env, shop.source(), sidecar=sidecar)
    assert served(shop.env, shop.env.catalog.history().newest) == shop.tables
    assert found.state == shop.env.catalog.history().newest.state


# ---- publishers that do not know of a newer generation ---------------------------------------------------------------------


@pytest.mark.parametrize("touched_keys", [1000, 1])
def test_keys_that_were_touched_in_an_older_generation_are_in_the_next_delta(shop, touched_keys):
    """Invariant 6: what was not sent is owed, whatever the table was called when it was touched."""
    shop.published()
    shop.widen()
    shop.reopen(touched_keys=touched_keys)
    marked, source = shop.mark(), shop.source()
    shop.train("item", {1: 7.0, 3: 8.0}, (2,), send=False)
    shop.updates.touch("item", [1, 2, 3])  # the snapshot is not there yet
    sidecar = shop.mark()
    publish_snapshot(shop.env, source, sidecar=marked)
    found = publish_delta(shop.env, shop.source(), sidecar=sidecar)
    assert found.source == ("touched" if touched_keys > 1 else "compared")
    assert served(shop.env, found) == shop.tables
    whole(shop)


def test_a_trainer_that_resumes_from_before_another_dim_owes_the_whole_table(shop):
    """Invariant 6: versions say what changed in a generation, and not how the rows of one differ from those of another."""
    reshaped(shop)
    wide = delta(shop)  # which empties the generation before
    saved = dict(shop.tables["item"])
    shop.widen(dim=2)
    del shop.tables["item"][3]
    publish_snapshot(shop.env, shop.source(), sidecar=shop.mark())
    shop.updates.close()
    shop.updates = shop.world.open(wide.state)
    shop.tables["item"] = saved
    found = publish_delta(shop.env, shop.source(), sidecar=shop.mark())
    assert served(shop.env, found) == shop.tables
    whole(shop)


def test_a_deletion_that_was_sent_before_its_generation_was_there_is_not_in_the_log(shop):
    shop.published()
    shop.widen()
    marked, source = shop.mark(), shop.source()
    shop.train("item", {}, (2,))  # the snapshot is not there yet
    shop.mark()
    publish_snapshot(shop.env, source, sidecar=marked)
    lost = "checkpoint 1-3: trainer sent key 2 of table item, and the log does not have it"
    refused(shop.env, Refused, lost, lambda: publish_delta_from_log(shop.env))
    found = publish_delta(shop.env, shop.source(), sidecar=shop.mark())
    assert served(shop.env, found) == shop.tables
    whole(shop)
