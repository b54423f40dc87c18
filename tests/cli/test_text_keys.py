"""A table whose keys are strings, from its checkpoints to a lookup by string, a rollback and an export, as a person does it."""

import json
from contextlib import contextmanager

import numpy as np
import pyarrow.parquet as pq
import pytest

from penstock.pipeline.config import load_config
from penstock.pipeline.environment import open_environment
from penstock.serving.replica import Replica
from penstock.serving.server import Server

WORDS = '[models.shop.tables.word]\nkeys = "word/keys"\nrows = "word/rows"\n'


@pytest.fixture
def words(empty):
    """A shell in a shop whose one table has strings, published twice: the second version changes one, and brings another."""
    text = empty.config.read_text()
    empty.config.write_text(text[: text.index("[models.shop.tables.customer]")] + WORDS)
    for minute, rows in enumerate(({"apple": 1.0, "12": 2.0, "pêche": 3.0}, {"apple": 9.0, "12": 2.0, "pêche": 3.0, "-7": 4.0})):
        path = empty.folder / f"step_{minute}.npz"
        values = np.array(list(rows.values()), np.float32)[:, None].repeat(4, axis=1)
        np.savez(path, **{"word/keys": np.array(list(rows)), "word/rows": values})
        command = "delta" if minute else "snapshot"
        said = empty("publish", command, path, "--trained-through", f"2026-11-21T10:0{minute}:00Z")
        assert said.code == 0, said.err
    return empty


@contextmanager
def serving(shell):
    with open_environment(load_config(shell.config), "shop") as env:
        replica = Replica(env, name="one")
        server = Server(replica, host="127.0.0.1", port=0)
        replica.address = server.address
        replica.start()
        replica.report()
        try:
            yield server.address
        finally:
            replica.close()
            server.shutdown()


def test_rows_are_asked_for_by_their_strings(words):
    with serving(words) as url:
        found = words.json("lookup", "--table", "word", "apple", "12", "pêche", "-7", "nobody", "raw\udcff")
        assert found["rows"] == {
            "apple": [9.0] * 4, "12": [2.0] * 4, "pêche": [3.0] * 4, "-7": [4.0] * 4, "nobody": None, r"raw\xff": None,
        }  # fmt: skip
        shown = words("lookup", "--table", "word", "--replica", url, "apple").out
        assert "apple" in shown
        assert "9 9 9 9" in shown


def test_replicas_go_without_the_strings_and_verify_does_not(words):
    files = sorted((words.folder / "store").rglob("*.names.parquet"))
    for path in files:
        path.unlink()
    with serving(words):
        assert words.json("lookup", "--table", "word", "apple")["rows"] == {"apple": [9.0] * 4}
    said = words("verify", "--json")
    assert said.code == 3
    assert {found["object"] for found in json.loads(said.out)["findings"]} == {
        path.relative_to(words.folder / "store").as_posix() for path in files
    }


def test_a_string_is_traced(words):
    found = words.json("trace", "--table", "word", "apple")
    assert [entry["origin"] for entry in found] == ["version 1 changes", "version 2 changes"]
    assert "nobody" in words("trace", "--table", "word", "nobody").out


def test_after_a_rollback_the_export_has_every_string_again(words):
    assert words("rollback", "--to-version", "1", "--reason", "test", "--yes", "--wait", "0s").code == 0
    out = words.folder / "word.parquet"
    assert words("export", "--table", "word", "--output", out).code == 0
    read = pq.read_table(out)
    assert dict(zip(read["name"].to_pylist(), [row[0] for row in read["row"].to_pylist()], strict=True)) == {
        "apple": 1.0, "12": 2.0, "pêche": 3.0,
    }  # fmt: skip
    assert words("export", "--table", "word", "--before", "2026-11-21T10:01:00Z", "--output", out).code == 0
    assert set(pq.read_table(out)["name"].to_pylist()) == {"apple", "12", "pêche"}
    assert words.json("verify")["unnamed"] == {}


def test_the_export_of_a_checkpoint_restarts_with_strings(words):
    out = words.folder / "restart.npz"
    assert words("export", "--format", "npz", "--output", out).code == 0
    assert sorted(np.load(out)["word/keys"].tolist()) == [b"-7", b"12", b"apple", "pêche".encode()]
    sidecar = json.loads(out.with_name("restart.npz.penstock.json").read_text())
    assert sidecar["state"]
    said = words("export", "--format", "safetensors", "--output", words.folder / "restart.safetensors")
    assert said.code == 3
    assert "--format npz" in said.err
