"""`replica`, `lookup`, `status`: what a running replica answers and reports."""

import logging
import os
import signal
import subprocess
import time
from contextlib import contextmanager

import pytest
from certificates import Authority
from command_shell import COMMAND

from penstock.pipeline.cli.serve import LookupDocument
from penstock.pipeline.cli.status import PartitionDocument, ReplicaDocument, StatusDocument
from penstock.pipeline.config import load_config
from penstock.pipeline.environment import open_environment
from penstock.serving.replica import Replica
from penstock.serving.server import Server

START_S = 120.0


@contextmanager
def serving(shell, name):
    """A replica in this process."""
    with open_environment(load_config(shell.config), "shop") as env:
        replica = Replica(env, name=name)
        server = Server(replica, host="127.0.0.1", port=0)
        replica.address = server.address
        replica.start()
        replica.report()
        try:
            yield server.address
        finally:
            replica.close()
            server.shutdown()


@pytest.fixture
def served(shell):
    with serving(shell, "one"):
        yield shell


def test_a_lookup_gives_rows_and_nulls(served):
    found = served.json("lookup", "--table", "item", "30", "-7", "50")
    assert set(found) == set(LookupDocument.__struct_fields__)
    assert (found["version"], found["timeline"]) == (3, 1)
    assert found["rows"] == {"30": [7.0] * 4, "-7": None, "50": [9.0] * 4}
    shown = served("lookup", "--table", "item", "30", "-7").out
    assert "not found" in shown
    assert "7 7 7 7" in shown


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (("--table", "user", "1"), 5),
        (("--table", "item", "x"), 2),
        (("--table", "item", str(2**63)), 2),
        (("--table", "item"), 2),
        (("--table", "item", "1", "--version", "99"), 3),
        (("--table", "item", "1", "--replica", "grpc://127.0.0.1:1"), 6),
        (("--table", "item", "1", "--replica", "nonsense"), 2),
    ],
)
def test_a_lookup_that_cannot_be_answered(served, wrong, code):
    said = served("lookup", *wrong)
    assert said.code == code
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err


def test_no_replica_is_there(shell):
    said = shell("lookup", "--table", "item", "1")
    assert said.code == 5
    assert "penstock replica" in said.err


def test_status_of_a_model_without_replicas(shell):
    found = shell.json("status")
    assert set(found) == set(StatusDocument.__struct_fields__)
    assert found.items() >= {"model": "shop", "version": 3, "timeline": 1, "replicas": [], "digests_agree": None}.items()
    assert found["refs"] == {"live": {"version": 3, "follow": "log", "frozen": None}}
    assert found["tables"] == {"customer": {"dim": 4, "codec": "float32"}, "item": {"dim": 4, "codec": "float32"}}
    assert [each["partition"] for each in found["log"]] == [0, 1]
    assert found["alarms"] == []
    assert shell("status", "--watch", "--json").code == 2


def test_status_of_two_replicas(served, columns):
    with serving(served, "two"):
        found = served.json("status")
        shown = served("status").out
    assert [each["replica"] for each in found["replicas"]] == ["one", "two"]
    assert found["digests_agree"] is True
    for replica in found["replicas"]:
        assert set(replica) == set(ReplicaDocument.__struct_fields__)
        assert replica.items() >= {"version": 3, "versions_behind": 0, "ready": True, "buckets": [0, 15]}.items()
        assert replica["rows"] == {"customer": 20, "item": 12}
        for partition in replica["partitions"]:
            assert set(partition) == set(PartitionDocument.__struct_fields__)
            assert partition["lag_records"] == partition["end"] - partition["offset"]
    assert "digests agree" in shown
    assert "two" in shown
    assert max(map(len, shown.splitlines())) <= columns


@contextmanager
def started(shell, *arguments):
    """A replica process; yields the process and where it listens."""
    log = shell.folder / "replica.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*COMMAND, "replica", "--listen", "127.0.0.1:0", "--config", shell.config, *arguments],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, "PENSTOCK_ACTOR": "test"},
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_S
        while "listening on " not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield process, "grpc://" + log.read_text().split("listening on ")[1].split(",")[0]
    finally:
        process.kill()
        process.wait()


def test_a_replica_in_a_process_of_its_own_confirms_a_rollback(shell):
    with started(shell, "--name", "apart") as (process, address):
        assert shell.json("lookup", "--table", "item", "50")["rows"]["50"] == [9.0] * 4
        done = shell.json("rollback", "--before", "2024-11-01T10:20:00Z", "--reason", "bots", "--wait", "60s")
        assert (done["missing"], done["differing"]) == ([], [])
        assert done["confirmed"] == {"apart": shell.json("verify")["digest"]}
        rows = shell.json("lookup", "--table", "item", "50", "--replica", address)["rows"]["50"]
        assert rows == pytest.approx([2.05] * 4)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    assert shell.json("status")["replicas"] == []


@pytest.mark.parametrize("target", ["2", "1-2"])
def test_a_replica_of_one_version(shell, target):
    with started(shell, "--at", target) as (_, address):
        found = shell.json("lookup", "--table", "item", "50", "30", "--replica", address)
    assert found["version"] == 2
    assert found["rows"]["50"] == pytest.approx([2.05] * 4)
    assert found["rows"]["30"] == [7.0] * 4


@pytest.mark.parametrize(
    ("wrong", "code"),
    [(("--listen", "8815"), 2), (("--buckets", "a-b"), 2), (("--buckets", "0-99"), 3), (("--at", "soon"), 2),
     (("--at", "1-99"), 5), (("--ref", "canary"), 5)],
)  # fmt: skip
def test_a_replica_that_cannot_start_says_why(shell, wrong, code, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    said = shell("replica", *wrong)
    assert said.code == code
    assert said.err.startswith("error: ")


def test_a_replica_that_asks_for_certificates_and_tokens(shell):
    authority = Authority(shell.folder / "ca")
    (served, served_key), (asks, asks_key) = authority.certificate("replica"), authority.certificate("operator")
    for name in ("tokens", "token"):
        (shell.folder / name).write_text("x" * 32)
    text = shell.config.read_text()
    guarded = f"""
tls_cert = "{served}"
tls_key = "{served_key}"
tls_client_ca = "{authority.root}"
token_file = "{shell.folder}/tokens"
[client]
tls_root = "{authority.root}"
tls_cert = "{asks}"
tls_key = "{asks_key}"
token_file = "{shell.folder}/token"
"""
    shell.config.write_text(text.replace('drain_grace = "200ms"', f'drain_grace = "200ms"{guarded}'))
    with started(shell) as (_, address):
        named = address.replace("grpc://", "grpc+tls://")
        assert shell.json("lookup", "--table", "item", "50", "--replica", named)["rows"]["50"] == [9.0] * 4
        (shell.folder / "token").write_text("y" * 32)
        said = shell("lookup", "--table", "item", "50", "--replica", named)
        assert (said.code, "the token is not one of those" in said.err) == (3, True)
        assert "x" * 32 not in said.err + (shell.folder / "replica.log").read_text()


@pytest.mark.parametrize(
    ("setting", "code"), [('token_file = "/nowhere"', 5), ('tls_cert = "/nowhere"', 2), ('tls_cert = "/no"\ntls_key = "/no"', 5)]
)
def test_a_replica_whose_credentials_cannot_be_read(shell, setting, code, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    shell.config.write_text(shell.config.read_text().replace("[replica]", f"[replica]\n{setting}"))
    said = shell("replica", "--listen", "127.0.0.1:0")
    assert said.code == code
    assert said.err.startswith("error: ")
