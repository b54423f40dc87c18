"""Tables whose keys are strings: every tier brings them, keeps them, and refuses two with one hash."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest
from collisions import collision
from shop import DIM, Shop, refused, rows_of, survives_every_failure

from penstock.pipeline.config import ModelConfig, TableConfig
from penstock.pipeline.core.errors import Refused
from penstock.pipeline.core.history import table_layers
from penstock.pipeline.core.text_keys import hash_text, hash_texts, texts_of
from penstock.publishers.compaction import compact
from penstock.publishers.delta import publish_delta
from penstock.publishers.export import export_checkpoint, export_table
from penstock.publishers.fanout import commit_parts, publish_part
from penstock.publishers.folding import publish_delta_from_log
from penstock.publishers.snapshot import publish_snapshot
from penstock.publishers.sources import array_source, checkpoint_source
from penstock.publishers.verification import verify
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.retention import apply_retention, plan_retention
from penstock.rollback.target import to_version
from penstock.slicer.layers import Layers
from penstock.slicer.names import Names
from penstock.slicer.run_layout import TableLayout

ONE, OTHER = collision()
TEXTS = {b"apple": 1.0, "pêche".encode(): 2.0, b"": 3.0, b"raw \xff": 4.0}
NUMBERS = {1: 1.0, 2: 2.0}
STRINGS = TableConfig(keys="word/keys", rows="word/rows", key_type="string")
MODEL = ModelConfig(tables={"word": STRINGS, "user": TableConfig(keys="user/keys", rows="user/rows")}, dense=[])


class TextShop(Shop):
    """A trainer with table "word", whose keys are texts, and "user", whose keys are numbers."""

    def __init__(self) -> None:
        super().__init__({"word": TEXTS, "user": NUMBERS}, model=MODEL)
        self.dense = {}
        environment = dataclasses.replace(self.world.environment(), config=self.config)
        self.updates = self.world.open(environment=environment)

    def source(self):
        found = {}
        for name, rows in self.tables.items():
            keys = texts_of(list(rows)) if name == "word" else np.array(list(rows), np.int64)
            found[name] = (keys, np.repeat(np.array(list(rows.values()), np.float32), DIM).reshape(len(rows), DIM))
        return array_source(found, {}, MODEL)

    def learn(self, puts: dict[bytes, float], gone: tuple[bytes, ...] = (), *, send: bool = True) -> None:
        """Rows of table "word", whose hashes are what goes over the log."""
        self.seconds += 1
        self.world.now = self.through
        self.tables["word"] |= puts
        for text in gone:
            self.tables["word"].pop(text, None)
        if not send:
            return
        if puts:
            rows = np.repeat(np.array(list(puts.values()), np.float32), DIM).reshape(len(puts), DIM)
            self.updates.put("word", hash_texts(list(puts)), rows, trained_through=self.through)
        if gone:
            self.updates.delete("word", hash_texts(list(gone)), trained_through=self.through)


@pytest.fixture
def shop():
    found = TextShop()
    yield found
    found.close()


def names_in(env, version):
    """What every row of table "word" is called in a version, and its value."""
    runs = table_layers(env.catalog.history().chain(version.version), "word")
    found = {}
    with Layers.open(env.catalog.store, TableLayout.of(env.catalog.reload_schema(), "word"), runs) as layers:
        for keys, rows in layers.merged():
            values = np.ascontiguousarray(rows).view("<f4")[:, 0].tolist()
            found |= dict(zip(Names(layers).of_keys(keys).to_pylist(), values, strict=True))
    return found


def delta(shop, **given):
    return publish_delta(shop.env, shop.source(), sidecar=shop.mark(), **given)


def check(shop, version):
    assert names_in(shop.env, version) == shop.tables["word"]
    found = verify(shop.env)
    assert (found.ok, found.unnamed) == (True, {}), found


def test_a_snapshot_keeps_the_strings_and_says_what_keys_are(shop):
    found = shop.published()
    assert {name: table.keys for name, table in shop.env.schema.tables.items()} == {"word": "string", "user": "int64"}
    check(shop, found)
    assert rows_of(shop.env, found)["word"] == {hash_text(text): value for text, value in TEXTS.items()}
    assert all(run.names is None for run in found.full["user"].runs)
    assert found.bytes == sum(entry.size for entry in shop.store.list("retail/data/") if entry.key in found.data_paths())
    assert found.data_paths() == {entry.key for entry in shop.store.list("retail/data/")}


def test_a_delta_brings_the_strings_of_what_it_puts(shop):
    shop.published()
    shop.learn({b"apple": 9.0, b"new": 5.0}, gone=(b"",))
    found = delta(shop)
    assert (found.source, found.changes["word"].rows, found.changes["word"].tombstones) == ("touched", 2, 1)
    check(shop, found)
    shop.learn({b"new": 6.0, b"": 1.0})
    check(shop, delta(shop))


def test_compared_in_parts_compacted_and_compared_again(shop):
    publish_snapshot(shop.env, shop.source(), trained_through=shop.through)
    shop.learn({b"two": 2.0}, gone=(b"apple",), send=False)
    compared = publish_delta(shop.env, shop.source(), trained_through=shop.through)
    assert (compared.source, compared.changes["word"].rows, compared.changes["word"].tombstones) == ("compared", 1, 1)
    check(shop, compared)
    compact(shop.env)
    check(shop, compared)
    shop.learn({b"three": 3.0}, send=False)
    for part in (1, 2, 3):
        publish_part(shop.env, shop.source(), run="r", part=part, of=3, trained_through=shop.through)
    beside = commit_parts(shop.env, run="r")
    newest = shop.env.catalog.history().newest
    assert (newest.changes["word"].rows, beside.full["word"].rows) == (1, len(shop.tables["word"]))
    check(shop, newest)


def test_what_only_the_log_has_brought_is_counted_until_a_checkpoint_names_it(shop):
    shop.published()
    shop.learn({b"streamed": 7.0, b"apple": 8.0})
    shop.updates.flush()
    shop.mark()
    folded = publish_delta_from_log(shop.env)
    named = {text: value for text, value in shop.tables["word"].items() if text != b"streamed"}
    assert names_in(shop.env, folded) == named | {None: 7.0}
    found = verify(shop.env)
    assert (found.ok, found.unnamed) == (True, {"word": 1})
    compact(shop.env)
    assert verify(shop.env).unnamed == {"word": 1}
    shop.learn({b"more": 1.0})
    publish_snapshot(shop.env, shop.source(), sidecar=shop.mark())
    newest = shop.env.catalog.history().newest
    assert newest.changes["word"].rows == 2
    check(shop, newest)


@pytest.mark.parametrize("how", ["touched", "compared", "parts"])
def test_a_string_with_the_hash_of_another_is_refused_and_nothing_changes(shop, how):
    shop.learn({ONE: 1.0})
    shop.published()
    shop.learn({OTHER: 1.0}, gone=(ONE,), send=how == "touched")

    def publish():
        if how == "touched":
            shop.updates.touch("word", hash_texts([OTHER]))
            delta(shop)
        elif how == "compared":
            publish_delta(shop.env, shop.source(), trained_through=shop.through)
        else:
            publish_part(shop.env, shop.source(), run="r", part=1, of=1, trained_through=shop.through)
            commit_parts(shop.env, run="r")

    refused(shop.env, Refused, "table word: .* are two keys with one hash", publish)


@pytest.mark.parametrize("publish", [publish_snapshot, publish_delta])
def test_two_strings_with_one_hash_in_one_checkpoint_are_refused(shop, publish):
    shop.learn({ONE: 1.0, OTHER: 2.0}, send=False)
    call = lambda: publish(shop.env, shop.source(), trained_through=shop.through)  # noqa: E731
    refused(shop.env, Refused, "'lane one.* and 'LANE ONE.* are two keys with one hash", call)


def test_a_touched_string_that_is_there_twice_is_refused_by_its_text(shop):
    shop.published()
    shop.learn({b"apple": 9.0})
    source, sidecar = shop.source(), shop.mark()
    table = source.tables["word"]
    twice = dataclasses.replace(
        table,
        values=np.concatenate([table.values, table.values]),
        row_keys=np.concatenate([table.row_keys, table.row_keys]),
        row_names=texts_of(table.row_names.to_pylist() * 2),
    )
    source = dataclasses.replace(source, tables={**source.tables, "word": twice})
    refused(shop.env, Refused, "table word: 'apple' is there twice", lambda: publish_delta(shop.env, source, sidecar=sidecar))


def test_a_rollback_finds_the_strings_of_what_it_restores(shop):
    first = shop.published()
    before = dict(shop.tables["word"])
    shop.learn({b"poison": 1.0, b"apple": -1.0}, gone=(b"",))
    delta(shop)
    back = execute(shop.env, plan_rollback(shop.env, to_version(first.version)), why="poison")
    shop.tables["word"] = before
    check(shop, back)


def test_a_rollback_of_one_table_keeps_the_strings_that_the_others_got_since(shop):
    first = shop.published()
    shop.learn({b"later": 1.0})
    shop.train("user", {1: 9.0})
    delta(shop)
    back = execute(shop.env, plan_rollback(shop.env, to_version(first.version), tables=("user",)), why="poison")
    assert back.base == first.version
    check(shop, back)


def test_retention_keeps_the_strings_of_what_it_keeps_and_removes_the_others(shop):
    shop.published()
    shop.learn({b"later": 1.0})
    newest = delta(shop)
    before = {entry.key for entry in shop.store.list("retail/data/")}
    assert {key for key in before if key.endswith(".names.parquet")} == {
        path for m in shop.env.catalog.history().trunk for path in m.data_paths() if path.endswith(".names.parquet")
    }
    assert apply_retention(shop.env, plan_retention(shop.env), why="test").expired_objects == ()
    check(shop, newest)


def test_a_table_is_exported_with_its_strings(shop, tmp_path):
    found = shop.published()
    export_table(shop.env, found, "word", tmp_path / "word.parquet")
    read = pq.read_table(tmp_path / "word.parquet")
    assert read.column_names == ["key", "name", "row"]
    values = {text.decode(errors="backslashreplace"): value for text, value in TEXTS.items()}
    assert dict(zip(read["name"].to_pylist(), [row[0] for row in read["row"].to_pylist()], strict=True)) == values
    assert read["key"].to_pylist() == [
        hash_text(b"raw \xff" if name.startswith("raw") else name) for name in read["name"].to_pylist()
    ]
    export_table(shop.env, found, "user", tmp_path / "user.parquet")
    assert pq.read_table(tmp_path / "user.parquet").column_names == ["key", "row"]


def test_a_checkpoint_is_exported_with_its_strings_and_publishes_as_nothing_new(shop, tmp_path):
    found = shop.published()
    assert export_checkpoint(shop.env, found, tmp_path / "restart.npz", "npz") == {"user": 2, "word": 4}
    with checkpoint_source(tmp_path / "restart.npz", MODEL) as source:
        assert set(source.tables["word"].names(0, 4).to_pylist()) == set(TEXTS)
        again = publish_delta(shop.env, source, trained_through=shop.through)
    assert again == found


def test_strings_that_cannot_be_exported_are_named(shop, tmp_path):
    shop.learn({b"zero\0": 1.0})
    found = shop.published()
    for kind, match in (("npz", r"'zero\\+x00' ends with a zero byte"), ("safetensors", "its keys are strings")):
        with pytest.raises(Refused, match=match):
            export_checkpoint(shop.env, found, tmp_path / "restart", kind)
    assert not (tmp_path / "restart").exists()


def test_numbers_for_a_table_of_strings_are_no_delta(shop):
    shop.published()
    shop.learn({b"a": 1.0})
    source, sidecar = shop.source(), shop.mark()
    numbers = dataclasses.replace(source.tables["word"], row_names=None)
    source = dataclasses.replace(source, tables={**source.tables, "word": numbers})
    refused(shop.env, Refused, "table word: keys int64", lambda: publish_delta(shop.env, source, sidecar=sidecar))


def test_whoever_dies_the_run_made_again_has_every_string(shop):
    shop.published()
    shop.learn({b"apple": 9.0, b"new": 5.0}, gone=(b"",))
    sidecar, source = shop.mark(), shop.source()
    expected = dict(shop.tables["word"])

    def same(env, manifest):
        assert names_in(env, manifest) == expected

    survives_every_failure(shop, lambda env: publish_delta(env, source, sidecar=sidecar), same)


def test_the_log_may_bring_a_table_of_strings_before_any_checkpoint(shop):
    shop.learn({b"first": 1.0})
    assert shop.world.catalog.reload_schema().table("word").keys == "string"
    check(shop, shop.published())
