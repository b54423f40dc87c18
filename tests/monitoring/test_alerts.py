"""A real Prometheus over real components with the rules as they are, but for their waiting times: of a model that is well no
alert ever fires, and beside it one fires for everything that goes wrong with another."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from command_shell import COMMAND
from exchanges import Raw
from servers.prometheus import executable, running_prometheus
from servers.s3 import free_port

from penstock.pipeline.catalog import leases
from penstock.pipeline.cli.exporting import Exporter
from penstock.pipeline.cli.main import run
from penstock.pipeline.config import MetricsConfig, ModelConfig, RecoveryConfig, load_config
from penstock.pipeline.core.coordination import Claim
from penstock.pipeline.core.errors import Overloaded
from penstock.pipeline.core.ids import Partition
from penstock.pipeline.environment import log_settings, open_environment
from penstock.pipeline.exposition import Exposition, MetricsServer
from penstock.pipeline.ports.open_log import open_log
from penstock.pipeline.ports.wall_clock import system_clock
from penstock.publishers import FRESH, Delivery
from penstock.rollback import freezing
from penstock.rollback.target import before_event
from penstock.serving import Replica, Server
from penstock.serving.metrics import ReplicaMetrics
from penstock.serving.probes import Probes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
RULES = Path(__file__).parents[2] / "monitoring/alerts.yml"
CONFIG = """
[store]
url = "file://{folder}/store"
[log]
url = "file://{folder}/log"
partitions = 2
[replica]
refresh = "100ms"
lease = "1s"
drain_grace = "100ms"
[retention]
max_chain = 2
[models.well]
buckets = 16
[models.ill]
buckets = 16
"""
DIM, KEYS, SECOND = 4, np.arange(50), 1_000_000
AWAIT_S = 60.0
SERVED = ("replica", "--model", "well", "--listen", "127.0.0.1:0", "--health-port", "0")
SHORTER = {"[5m]": "[10s]", "[15m]": "[10s]", "(penstock_log_silence_seconds) > 60": "(penstock_log_silence_seconds) > 8"}


class Trainer:
    """Puts rows again and again, `behind_s` late, learned from events `stale_s` ago."""

    def __init__(self, config, model, *, behind_s=0, stale_s=0):
        self.port, self.stale_us = free_port(), stale_s * SECOND
        settings = msgspec.structs.replace(config, metrics=MetricsConfig(listen=f"127.0.0.1:{self.port}"))
        clock = system_clock if not behind_s else (lambda: system_clock() - behind_s * SECOND)
        self.delivery = Delivery.open(settings, publisher="trainer", resume=FRESH, model=model, clock=clock)
        self.env, self.updates = self.delivery.environment, self.delivery.updates()
        self.value, self._stop = 0.0, threading.Event()
        self.put()
        self.delivery.publish_snapshot({"item": (KEYS, self.rows())})
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def rows(self):
        return np.full((len(KEYS), DIM), self.value, np.float32)

    def put(self):
        self.value += 1.0
        self.updates.put("item", KEYS, self.rows(), trained_through=system_clock() - self.stale_us)

    def _run(self):
        while not self._stop.wait(0.05):
            self.put()

    def rest(self):
        self._stop.set()
        self._thread.join()

    def delta(self):
        self.sidecar = self.updates.mark()
        return self.delivery.publish_delta_from_log()

    def close(self):
        self.rest()
        self.delivery.close()


@contextmanager
def told(what, *arguments, config):
    """A command in a process of its own; yields the port that it says it tells metrics on."""
    environment = {**os.environ, "PENSTOCK_CONFIG": str(config)}
    process = subprocess.Popen([*COMMAND, *arguments], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        port = None
        for line in process.stderr:
            port = port or re.search(rf"{what} on \S+:(\d+)", line)
            if port and (what == "metrics" or "listening" in line):
                break
        assert port, f"{arguments} said nothing"
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield int(port[1])
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@contextmanager
def replica_of(env, name):
    """In this process, with its server and its metrics."""
    replica = Replica(env, name=name)
    server, probes = Server(replica, host="127.0.0.1", port=0), Probes(host="127.0.0.1", port=0)
    probes.tell(server.health, ReplicaMetrics(replica, server))
    replica.start()
    try:
        yield replica, server, probes.port
    finally:
        replica.close()
        server.drain()
        probes.close()


def configured(folder, ports):
    rules = RULES.read_text()
    for written, shorter in SHORTER.items():
        assert written in rules
        rules = rules.replace(written, shorter)
    found = yaml.safe_load(rules)
    for group in found["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    (folder / "rules.yml").write_text(yaml.safe_dump(found))
    jobs = [{"job_name": f"penstock-{p}", "static_configs": [{"targets": [f"127.0.0.1:{p}"]}]} for p in ports]
    config = {"global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"}, "rule_files": ["rules.yml"]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump({**config, "scrape_configs": jobs}))
    return folder / "prometheus.yml"


def awaited(what, found, until_s=AWAIT_S):
    until = time.monotonic() + until_s
    while not (value := found()):
        assert time.monotonic() < until, f"{what} did not come about"
        time.sleep(0.1)
    return value


def fired(prometheus, model=None):
    """The alerts that have fired so far."""
    chosen = "" if model is None else f', model="{model}"'
    expr = f'max_over_time(ALERTS{{alertstate="firing"{chosen}}}[1h])'
    return {labels["alertname"] for labels, _ in prometheus.query(expr)}


def test_all_alerts_fire_for_what_is_ill_and_none_for_what_is_well(tmp_path, capfd):
    executable("prometheus")
    file = tmp_path / "penstock.toml"
    file.write_text(CONFIG.format(folder=tmp_path))
    config = load_config(file)
    alerts = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    with ExitStack() as world:
        well = Trainer(config, "well")
        world.callback(well.close)
        ports = [
            world.enter_context(told("metrics", "exporter", "--listen", "127.0.0.1:0", "--every", "0.3", config=file)),
            *(world.enter_context(told("probes", *SERVED, "--name", name, config=file)) for name in ("one", "two")),
            well.port,
        ]
        small = dataclasses.replace(log_settings(config), segment_bytes=16 << 10)
        open_log(config.log.url, name="ill", partitions=2, create=small).close()
        ill = Trainer(config, "ill", behind_s=60, stale_s=3600)
        world.callback(ill.close)
        env = world.enter_context(open_environment(config, "ill"))
        replica, server, port = world.enter_context(replica_of(env, "ill-0"))
        # Where a look says that the live version is older than what the log keeps, and one model was never born.
        short = msgspec.structs.replace(
            config, recovery=RecoveryConfig(window="1s"), models={"ill": config.models["ill"], "unborn": ModelConfig()}
        )
        exporter = Exporter(short, ["ill", "unborn"], every=0.3)
        world.callback(exporter.close)
        looking = MetricsServer(Exposition(exporter), host="127.0.0.1", port=0)
        world.callback(looking.close)
        gone = free_port()
        prometheus = world.enter_context(
            running_prometheus(tmp_path, configured(tmp_path, [*ports, ill.port, port, looking.port, gone]))
        )
        awaited("the first scrape", lambda: {prometheus.targets().get(f"127.0.0.1:{p}") for p in ports} == {"up"})
        well.delta()

        stale = {"PenstockFreshnessStale", "PenstockUpdateLagHigh"}
        looks = {"PenstockLogHeadroomLow", "PenstockExporterBlind", "PenstockTargetDown"}
        awaited("stale, late, low", lambda: stale | looks <= fired(prometheus))

        Replica(env, name="silent").report()
        behind = Replica(env, name="behind")
        reports = threading.Event()
        reporting = threading.Thread(target=lambda: [behind.report() for _ in iter(lambda: reports.wait(0.3), True)], daemon=True)
        reporting.start()
        world.callback(reporting.join)
        world.callback(reports.set)
        for _ in range(4):
            ill.delta()
        awaited("silent and behind", lambda: {"PenstockReplicaSilent", "PenstockVersionsBehind"} <= fired(prometheus))
        awaited("a long chain", lambda: "PenstockChainTooLong" in fired(prometheus))

        other = Replica(env, name="other")
        harm(other)
        other.start()
        world.callback(other.close)
        newest = ill.delta().version
        ill.rest()
        awaited("other digests", lambda: min(other.version, replica.version) == newest)
        awaited("that they are seen", lambda: "PenstockDigestsDisagree" in fired(prometheus))

        ill.updates.touch("item", KEYS[:3])
        ill.sidecar = ill.updates.mark()
        raw = Raw(server.address)
        for _ in range(50):
            with pytest.raises(Overloaded):
                raw.ask(["item"], [KEYS], timeout_ms=0)
        slices = sorted((tmp_path / "store/ill/data").rglob("*.arrow"))
        assert slices
        for path in slices:
            path.write_bytes(b"?" * path.stat().st_size)
        assert run(["verify", "--model", "ill", "--config", str(file)]) == 3
        awaited(
            "owed, shed, damaged",
            lambda: {"PenstockDropsNotCovered", "PenstockLookupsShed", "PenstockCareFailed"} <= fired(prometheus),
        )

        Delivery.open(config, publisher="trainer", resume=ill.sidecar, model="ill").close()
        awaited("a publisher's end", lambda: "PenstockPublisherEnded" in fired(prometheus))
        env.log.append(Partition(1), b"noise").result(10.0)
        awaited("a stop", lambda: {"PenstockPartitionStopped", "PenstockReplicaNotReady"} <= fired(prometheus))
        freezing.freeze(env, "live", why="a test")
        begin_rollback(env)
        cut_log(env)
        awaited("all of them", lambda: alerts <= fired(prometheus))

        assert fired(prometheus, "well") == set()
        check_seen(prometheus)


def harm(replica):
    """A row that nobody wrote, in each partition."""
    table, holding = replica.follower.tables["item"], replica.follower.holding
    for partition in replica.follower.partitions:
        key = next(key for key in KEYS + 1000 if holding.stranger(partition, np.array([key])) is None)
        table.correct(partition, np.array([key]), np.ones((1, table.width), np.uint8), KEYS[:0])


def begin_rollback(env):
    """What a rollback leaves that died ten minutes ago, just after it had begun."""
    refs, ends = env.catalog.refs(), tuple(env.log.end(Partition(p)) for p in range(env.schema.partitions))
    leases.create_claim(
        env.catalog,
        Claim(
            id=env.catalog.new_id(), timeline=refs.next_timeline, parent=refs.timeline, target=before_event(system_clock()),
            of=refs.timeline, base=refs.trunk, tables=None, cuts=ends, who="ann", at=system_clock() - 600 * SECOND, why="a test",
        ),
    )  # fmt: skip


def cut_log(env):
    """As a broker does whose retention is short: what came before the newest version is gone."""
    for partition, position in enumerate(env.catalog.history().newest.positions.partitions):
        env.log.truncate(Partition(partition), position.offset)
        assert env.log.begin(Partition(partition)) > 0


def check_seen(prometheus):
    """What is well was measured all the while."""
    seen = {
        'penstock_up{model="well"}': lambda value: value == 1,
        'penstock_digests_agree{model="well"}': lambda value: value == 1,
        'count(penstock_replica_ready{model="well"} == 1)': lambda value: value == 2,
        'sum(penstock_update_lag_seconds_count{model="well"})': lambda value: value > 1000,
        'histogram_quantile(0.99, sum by (le) (rate(penstock_update_lag_seconds_bucket{model="well"}[30s])))': lambda value: (
            value < 5
        ),
        'sum(penstock_publisher_acknowledged_rows_total{model="well"})': lambda value: value > 1000,
        'sum(penstock_published_rows_total{model="well",tier="delta"})': lambda value: value > 0,
    }
    for expr, is_right in seen.items():
        found = prometheus.query(expr)
        assert found, expr
        assert is_right(found[0][1]), (expr, found)
