"""Bad input, one row each: one clear error with its exit code, that names what is wrong, and the refs are as they were."""

import errno
import json
import os
import re

import numpy as np
import pytest
from command_shell import CUSTOMERS, DIM, ITEMS, Shell, rows

from penstock.pipeline import environment
from penstock.pipeline.cli.main import run
from penstock.pipeline.core.errors import StorageFull
from penstock.pipeline.ports import wall_clock
from penstock.pipeline.ports.local_store import LocalStore

LATER = ("--trained-through", "2024-11-01T11:00:00Z")


@pytest.fixture
def refused(shell: Shell):
    """Runs a command that must fail in one line, and move nothing."""
    refs = shell.folder / "store/shop/refs.json"

    def run(*arguments, code, says):
        before = refs.read_bytes()
        said = shell(*arguments)
        assert said.code == code, said
        first, *rest = said.err.splitlines()
        assert first.startswith("error: ")
        assert says in first
        assert len(rest) <= 1
        assert all(line.startswith("hint: ") for line in rest)
        assert said.out == ""
        assert refs.read_bytes() == before
        return said

    return run


def stored(shell, pattern):
    path = sorted((shell.folder / "store/shop").glob(pattern))[0]
    path.chmod(0o644)
    return path


# ---- what is stored --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 3])
def test_a_truncated_slice(shell, refused, version):
    manifest = json.loads(stored(shell, f"versions/{version:010}.json").read_bytes())
    run = manifest["changes"]["item"]["runs"][0]["path"]
    path = shell.folder / "store" / run
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size - 64)
    refused("export", version, "--table", "item", "--output", shell.folder / "x.parquet", code=3, says=run)
    assert not (shell.folder / "x.parquet").exists(), "no half of a table"
    found = shell("verify", version, "--json")
    assert found.code == 3
    assert [each["object"] for each in json.loads(found.out)["findings"]] == [run]


@pytest.mark.parametrize("pattern", ["versions/0000000003.json", "refs.json", "catalog.json"])
@pytest.mark.parametrize("damage", ["truncated", "unknown field", "not JSON"])
def test_a_damaged_document(shell, pattern, damage):
    path = stored(shell, pattern)
    data = path.read_bytes()
    path.write_bytes({"truncated": data[:-9], "unknown field": b'{"x":1,' + data[1:], "not JSON": b"\0" + data}[damage])
    for command in (["versions"], ["status"], ["publish", "delta", shell.folder / "step_3.npz"], ["verify"]):
        said = shell(*command)
        assert said.code == 3, said
        assert pattern in said.out + said.err
        assert "Traceback" not in said.err


def test_a_damaged_record_of_the_log(shell, refused):
    for path in (shell.folder / "log").rglob("*.log"):
        data = bytearray(path.read_bytes())
        for found in re.finditer(b"PNST", bytes(data)):
            data[found.start() + 30] ^= 0xFF
        path.write_bytes(data)
    refused("rollback", "--to-version", "1", "--dry-run", code=3, says="/log/shop")


# ---- what is published -----------------------------------------------------------------------------------------------------


def not_a_number():
    broken = rows(ITEMS, 2.0)
    broken[4, 2] = np.nan
    return broken


CHECKPOINTS = {
    "NaN": ({"items": not_a_number()}, 3, "item"),
    "duplicate keys": ({"keys": np.array([7] * ITEMS)}, 3, "7"),
    "fewer keys than rows": ({"keys": np.arange(ITEMS - 1)}, 3, "item"),
    "keys that are no integers": ({"keys": np.arange(ITEMS) + 0.5}, 3, "item"),
    "empty table": ({"customers": np.empty((0, DIM), np.float32)}, 3, "customer"),
    "no table": ({"customers": np.ones(CUSTOMERS, np.float32)}, 3, "customer"),
}


@pytest.mark.parametrize("command", ["snapshot", "delta"])
@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_that_cannot_be_published(shell, refused, case, command):
    arrays, code, says = CHECKPOINTS[case]
    refused("publish", command, shell.save("bad.npz", **arrays), *LATER, code=code, says=says)
    shell.json("publish", command, shell.save("good.npz"), *LATER)


def test_a_delta_of_another_dim(shell, refused):
    refused("publish", "delta", shell.save("bad.npz", items=rows(ITEMS, 2.0)[:, : DIM - 1]), *LATER, code=3, says="item: dim 3")


def test_a_table_that_the_checkpoint_does_not_have(shell, refused):
    path = shell.folder / "other.npz"
    np.savez(path, customer=rows(CUSTOMERS, 1.0))
    refused("publish", "delta", path, *LATER, code=5, says="'item/keys'")


@pytest.mark.parametrize("kind", ["truncated", "garbage", "empty", "missing"])
def test_a_checkpoint_that_cannot_be_read(shell, refused, kind):
    path = shell.save("bad.npz")
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "garbage": b"\x93" * 500, "empty": b"", "missing": data}[kind])
    if kind == "missing":
        path.unlink()
    assert run(["inspect", str(path)]) == (5 if kind == "missing" else 3)
    refused("publish", "snapshot", path, *LATER, code=5 if kind == "missing" else 3, says="bad.npz")


def test_a_first_checkpoint_that_cannot_be_read_gives_birth_to_nothing(empty):
    assert empty("publish", "snapshot", empty.folder / "none.npz", *LATER).code == 5
    assert not (empty.folder / "store").exists() or not list((empty.folder / "store").rglob("*.json"))


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("{", 3, "penstock.json"),
        ('{"state": "9-9"}', 5, "9"),
        ('{"state": "nonsense"}', 2, "nonsense"),
        ('{"model": "other"}', 2, "other"),
        ('{"trained_through": "2024-11-01T11:00:00"}', 2, "2024-11-01T11:00:00"),
    ],
)
def test_a_sidecar_that_makes_no_sense(shell, refused, text, code, says):
    path = shell.save("bad.npz")
    path.with_name("bad.npz.penstock.json").write_text(text)
    refused("publish", "delta", path, *(() if "trained" in text else LATER), code=code, says=says)


def test_a_delta_on_a_base_that_was_taken_back(shell, refused):
    shell.json("rollback", "--before", "2024-11-01T10:20:00Z", "--reason", "bots")
    refused("publish", "delta", shell.folder / "step_3.npz", code=3, says="rollback")


def test_an_older_checkpoint(shell, refused):
    refused("publish", "delta", shell.save("old.npz"), "--trained-through", "2024-11-01T10:00:00Z", code=3, says="version 3")


@pytest.mark.parametrize(
    ("saved", "code"), [({"item": np.array([0.5])}, 3), ({"user": np.array([1])}, 5), ({"item": np.array([[1]])}, 3), (None, 5)]
)
def test_touched_keys_that_make_no_sense(shell, refused, saved, code):
    path = shell.folder / "touched.npz"
    if saved is not None:
        np.savez(path, **saved)
    says = "touched" if saved is None or code == 3 else "user"
    refused("publish", "delta", shell.save("a.npz"), "--touched", path, *LATER, code=code, says=says)


# ---- where it runs ---------------------------------------------------------------------------------------------------------


def reconfigured(shell, old, new):
    text = shell.config.read_text()
    assert old in text
    shell.config.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "code", "says"),
    [
        ("partitions = 2", "partitons = 2", 2, "partitons"),
        ("buckets = 16", "buckets = 0", 2, "buckets"),
        ("[store]", "[store", 2, "not TOML"),
        ('keys = "item/keys"', "", 2, "models.shop.tables.item"),
        ("[models.shop.tables.item]", "[models.shop.tables.item]\ncodec = 4", 2, "models.shop.tables.item.codec"),
        ("buckets = 16", "bukets = 16", 2, "`bukets` (at models.shop)"),
        ("[store]", '[recovery]\nwindow = "a week"\n[store]', 2, "recovery.window"),
        ('url = "file://', 'url = "ftp://', 2, "ftp://"),
        ("models.shop", "models.boutique", 5, "boutique"),
    ],
)
def test_a_config_that_makes_no_sense(shell, old, new, code, says):
    reconfigured(shell, old, new)
    said = shell("versions")
    assert said.code == code
    assert says in said.err.splitlines()[0]


@pytest.mark.parametrize(
    ("old", "new", "says"), [("buckets = 16", "buckets = 32", "buckets"), ("partitions = 2", "partitions = 3", "partitions")]
)
def test_what_was_frozen_at_birth(shell, refused, old, new, says):
    reconfigured(shell, old, new)
    refused("publish", "snapshot", shell.save("a.npz"), *LATER, code=3, says=says)


def test_a_store_that_is_unreachable(shell, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    reconfigured(shell, f'url = "file://{shell.folder}/store"', 'url = "s3://bucket/x"\nendpoint = "http://127.0.0.1:1"')
    said = shell("versions")
    assert said.code == 6
    assert "s3://bucket/x" in said.err.splitlines()[0]


def test_a_log_that_is_unreachable(shell):
    reconfigured(shell, f"file://{shell.folder}/log", "kafka://127.0.0.1:1")
    said = shell("status")
    assert said.code == 6
    assert "kafka://127.0.0.1:1" in said.err.splitlines()[0]
    assert shell.json("versions")[-1]["version"] == 3, "what needs no log goes on"
    assert shell.live() == 3


def test_a_log_that_was_made_anew(shell, refused):
    (shell.folder / "log").rename(shell.folder / "log.lost")
    assert shell("freeze", "--reason", "x").code == 5
    said = refused("publish", "snapshot", shell.save("a.npz"), *LATER, code=3, says="log")
    assert said.code == 3


class FullStore(LocalStore):
    """The device is full for whatever is bigger than a document."""

    def upload(self, key, *, size_hint=0):
        raise StorageFull(f"{key}: {os.strerror(errno.ENOSPC)}")


@pytest.mark.parametrize("command", [["publish", "delta"], ["publish", "snapshot"], ["compact"]])
def test_a_full_disk(shell, refused, monkeypatch, command):
    arguments = [shell.save("a.npz", items=rows(ITEMS, 5.0)), *LATER] if command[0] == "publish" else []
    with monkeypatch.context() as patched:
        patched.setattr(environment, "open_store", lambda url, **_: FullStore(shell.folder / "store"))
        refused(*command, *arguments, code=6, says="No space left on device")
    shell.json(*command, *arguments)


def test_a_clock_that_goes_back(shell, refused, monkeypatch):
    """Versions grow all the same; what would lie in the future is refused."""
    before = int(np.datetime64("2024-11-01T10:30:00", "ns").astype(np.int64))
    monkeypatch.setattr(wall_clock.time, "time_ns", lambda: before)
    refused("publish", "delta", shell.save("a.npz"), *LATER, code=2, says="past the clock")
    made = shell.json("publish", "delta", shell.save("a.npz"), "--trained-through", "2024-11-01T10:30:00Z")
    assert (made["version"], made["created_at"]) == (4, "2024-11-01T10:30:00Z")
    assert shell.json("verify")["ok"]
    assert [each["version"] for each in shell.json("versions")] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "command",
    [["publish", "delta", "a.npz", "--trained-through"], ["rollback", "--reason", "x", "--before"],
     ["rollback", "--reason", "x", "--written-before"], ["export", "--table", "item", "--output", "x.parquet", "--before"]],
)  # fmt: skip
@pytest.mark.parametrize("time", ["2024-11-01T10:30:00", "2024-11-01", "yesterday"])
def test_invariant_11_a_time_without_an_offset(shell, refused, command, time):
    said = refused(*command, time, code=2, says=time)
    assert "hint: give the offset" in said.err
