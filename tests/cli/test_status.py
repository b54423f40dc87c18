"""`penstock status`: what is wrong is named, and comes first; watched, it goes on until it is interrupted."""

import dataclasses
import io
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time

import msgspec
import pytest
from command_shell import COMMAND
from rich.console import Console

from penstock.pipeline.catalog import leases
from penstock.pipeline.cli.alarms import alarms
from penstock.pipeline.cli.log_watch import LogWatch
from penstock.pipeline.cli.overview import CareStatus, LogPartition, PartitionDocument, RefStatus, ReplicaDocument, gathered
from penstock.pipeline.cli.status import rendered
from penstock.pipeline.config import load_config
from penstock.pipeline.core.ids import Offset, Partition
from penstock.pipeline.environment import open_environment
from penstock.pipeline.ports.memory_log import MemoryLog
from penstock.serving.replica import Replica

START_S = 60.0
replace = msgspec.structs.replace
PARTITION = PartitionDocument(
    partition=0, offset=5, end=5, lag_records=0, lag_ms=2.0, freshness_s=1.0, trained_through="2024-11-01T10:20:00Z", version=3,
    timeline=1, skipped=0, alarm="",
)  # fmt: skip
REPLICA = ReplicaDocument(
    replica="one", address="grpc://one:1", ref="live", ready=True, version=3, versions_behind=0, digest="ab" * 16,
    table_digests={}, rows={"item": 12}, bytes=4096, buckets=[0, 15], partitions=[PARTITION],
)  # fmt: skip


@pytest.fixture
def well(shell):
    """The shop with one replica, as though its trainer beat just now."""
    with open_environment(load_config(shell.config), "shop") as env:
        found = gathered(env)
    log = [replace(each, silence_s=0.5) for each in found.log]
    return replace(found, replicas=[REPLICA], freshness_s=1.0, log=log, alarms=[], alerts=[])


def named(found):
    return {alarm.alert for alarm in alarms(found)}


def test_what_is_well_raises_no_alarm(well):
    assert named(well) == set()


@pytest.mark.parametrize(
    ("alert", "changed"),
    [
        ("PenstockFreshnessStale", {"freshness_s": 901.0}),
        ("PenstockUpdateLagHigh", {"replicas": [replace(REPLICA, partitions=[replace(PARTITION, lag_ms=5001.0)])]}),
        ("PenstockReplicaNotReady", {"replicas": [replace(REPLICA, ready=False)]}),
        ("PenstockVersionsBehind", {"replicas": [replace(REPLICA, versions_behind=4)]}),
        ("PenstockPartitionStopped", {"replicas": [replace(REPLICA, partitions=[replace(PARTITION, alarm="it is noise")])]}),
        ("PenstockReplicaSilent", {"silent": ["two"]}),
        ("PenstockDigestsDisagree", {"digests_agree": False}),
        ("PenstockRollbackOpen", {"rollback_under_way": 2, "rollback_open_s": 3.0, "rollback_by": "ann"}),
        ("PenstockFrozen", {"refs": {"live": RefStatus(version=3, follow="log", frozen=(1, 2))}}),
        ("PenstockChainTooLong", {"chain": 25}),
        ("PenstockLogHeadroomLow", {"retention_used": 0.8}),
        ("PenstockLogHeadroomLow", {"log": [LogPartition(partition=0, begin=9, end=12, headroom=-1, silence_s=0.5)]}),
        ("PenstockRecoveryWindowShort", {"recovery_reach_s": 3600.0}),
        ("PenstockPublisherSilent", {"log": [LogPartition(partition=0, begin=0, end=12, headroom=3, silence_s=61.0)]}),
        ("PenstockCareFailed", {"care": [CareStatus(work="verify", ok=False, found="damage", who="me", at="", age_s=1.0)]}),
    ],
)
def test_each_thing_that_is_wrong_is_named(well, alert, changed):
    assert named(replace(well, **changed)) == {alert}


@pytest.mark.parametrize(
    "changed",
    [
        {"publishers": [], "log": [LogPartition(partition=0, begin=0, end=12, headroom=3, silence_s=9999.0)]},
        {"freshness_s": None},
        {"chain": None},
        {"care": [CareStatus(work="verify", ok=True, found="", who="me", at="", age_s=1.0)]},
    ],
)
def test_what_is_not_known_or_not_wrong_raises_none(well, changed):
    assert named(replace(well, **changed)) == set()


def test_who_is_behind_a_frozen_ref_is_not_late(well):
    frozen = {"live": RefStatus(version=9, follow="log", frozen=(1, 2))}
    assert named(replace(well, refs=frozen, replicas=[replace(REPLICA, versions_behind=6)])) == {"PenstockFrozen"}


@pytest.mark.parametrize("width", [40, 80, 160])
def test_alarms_come_first_and_lines_fit(well, width):
    found = replace(well, alarms=["live is frozen", "\x1b[2Jtwo"], alerts=["PenstockFrozen"])
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(rendered(found, {"one": [1.0, 9.0, 2.0]}, width))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert text.index("! live is frozen") < text.index("lag ")
    assert "\x1b" not in text
    assert "▁█▂" in text
    assert "PenstockFrozen" in text
    for tier in ("snapshot", "delta", "realtime"):
        assert tier in text


def test_who_stops_reporting_is_told_and_who_leaves_is_not(shell):
    with open_environment(load_config(shell.config), "shop") as env:
        replica = Replica(env, name="one")
        presence = replica.report()
        assert gathered(env).silent == []
        leases.report_presence(env.catalog, replace(presence, until=env.clock()))
        assert (gathered(env).silent, gathered(env).replicas) == (["one"], [])
        leases.report_presence(env.catalog, replace(presence, at=1, until=2))
        assert gathered(env).silent == []
        replica.report()
        replica.close()
        found = gathered(env)
        assert (found.silent, found.replicas) == ([], [])


def test_a_replica_is_behind_the_versions_of_its_own_ref(shell):
    shell("promote", 2, "--ref", "canary", "--reason", "a test")
    with open_environment(load_config(shell.config), "shop") as env:
        live, canary = Replica(env, name="one").report(), Replica(env, name="two", ref="canary").report()
        older = {"version": 1, "state": env.catalog.history().version(1).state}
        for presence in (live, canary):
            leases.report_presence(env.catalog, replace(presence, **older))
        found = {each.replica: each.versions_behind for each in gathered(env).replicas}
        assert found == {"one": 2, "two": 1}


def test_how_far_back_a_rollback_can_go(shell):
    with open_environment(load_config(shell.config), "shop") as env:
        assert gathered(env).recovery_reach_s is None
        positions = env.catalog.history().version(2).positions
        begins = {p: position.offset for p, position in enumerate(positions.partitions)}
        found = gathered(_cut(env, begins))
        age_s = (env.clock() - env.catalog.history().version(2).created_at) / 1e6
        assert found.recovery_reach_s == pytest.approx(age_s, abs=60.0)
        assert "PenstockRecoveryWindowShort" in found.alerts
        for p in begins:
            env.log.append(p, b"noise").result(10.0)
        lost = gathered(_cut(env, {p: env.log.end(p) for p in begins}))
        assert min(each.headroom for each in lost.log) < 0
        assert lost.recovery_reach_s == 0.0
        assert "PenstockLogHeadroomLow" in lost.alerts


def _cut(env, begins):
    """The environment with a log that holds nothing before `begins`."""

    class Cut:
        def __getattr__(self, name):
            return getattr(env.log, name)

        def begin(self, partition):
            return begins[partition]

    return dataclasses.replace(env, log=Cut())


def test_silence_is_told_by_the_record_and_then_by_looking():
    now = [1000]
    log = MemoryLog(1, identity="log", clock=lambda: now[0])
    p, watch = Partition(0), LogWatch(log)
    assert watch.newest_at(p, log.end(p), 2000) is None
    log.append(p, b"a")
    assert watch.newest_at(p, log.end(p), 3000) == 3000
    assert watch.newest_at(p, log.end(p), 4000) == 3000
    assert LogWatch(log).newest_at(p, log.end(p), 5000) == 1000
    assert LogWatch(log).newest_at(p, Offset(7), 5000) is None


def watching(shell, **options):
    command = [*COMMAND, "status", "--watch", "--every", "0.1", "--config", str(shell.config)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, **options)


def ended(process):
    process.send_signal(signal.SIGINT)
    process.wait(START_S)
    with process.stderr:
        return process.returncode, process.stderr.read()


def test_watched_into_a_pipe_it_prints_one_after_the_other(shell):
    process = watching(shell, stdout=subprocess.PIPE)
    with process.stdout:
        seen = 0
        for line in process.stdout:
            seen += line.startswith(b"shop")
            if seen == 3:
                break
        assert ended(process) == (0, b"")


def test_watched_at_a_narrow_terminal_it_stays_in_place(shell):
    main, terminal = pty.openpty()
    process = watching(shell, stdout=terminal, env={**os.environ, "COLUMNS": "50", "LINES": "20", "TERM": "xterm"})
    os.close(terminal)
    shown = b""

    def awaited(text):
        nonlocal shown
        until = time.monotonic() + START_S
        while text not in shown:
            assert time.monotonic() < until, shown[-2000:]
            if select.select([main], [], [], 0.1)[0]:
                shown += os.read(main, 1 << 16)

    try:
        awaited(b"realtime")
        awaited(b"\x1b[1A")
        shown = b""
        awaited(b"realtime")
        plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode(errors="replace")
        assert max(len(line.strip("\r")) for line in plain.split("\n")) <= 50
        assert ended(process) == (0, b"")
    finally:
        process.kill()
        process.wait()
        os.close(main)


def test_a_store_that_is_gone_ends_it_with_a_word(shell):
    shutil.rmtree(shell.folder / "store")
    assert shell("status", "--watch").code == 5
