"""A replica that leaves: it says so, answers on for a while, waits for those under way but not for ever, and is gone."""

import http.client
import json
import os
import re
import signal
import subprocess
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import waiting
from command_shell import COMMAND
from exchanges import Raw, connect, serve
from pyarrow import flight
from served import step

from penstock.pipeline.catalog import leases
from penstock.pipeline.config import load_config
from penstock.pipeline.core.errors import Unreachable
from penstock.pipeline.environment import open_environment
from penstock.pipeline.ports.wall_clock import system_clock
from penstock.publishers import FRESH, Delivery
from penstock.serving.wire import KEYS

__all__ = ["connect", "serve"]
KEYS_OF = np.arange(12)
LOOKUP = flight.FlightDescriptor.for_command(b'{"tables": ["item"]}')
CONFIG = """
[store]
url = "file://{folder}/store"
[log]
url = "file://{folder}/log"
partitions = 2
[models.shop]
buckets = 16
[replica]
refresh = "50ms"
drain_grace = "{grace}"
token_file = "{folder}/tokens"
"""
TOKEN = "x" * 32
reached = partial(waiting.reached, seconds=120.0)


def test_one_that_leaves_says_so_to_all_and_answers_on(world, serve, connect):
    server = serve()
    step(server.replica)
    catalog = server.replica.env.catalog
    (before,) = leases.presences(catalog, now=world.now)
    assert before.ready
    server.replica.leave()
    step(server.replica)
    (after,) = leases.presences(catalog, now=world.now)
    assert not after.ready
    raw = connect(server)
    reply, ((_, found),) = raw.ask(["item"], [KEYS_OF])
    assert not reply.ready
    assert found.all()
    health = raw.act("health")
    assert (health["ready"], health["leaving"], health["why"]) == (False, True, "it is leaving")


def test_draining_tells_whether_all_have_ended(world, serve, connect):
    server, stuck = serve(), serve(name="other")
    connect(server).ask(["item"], [KEYS_OF])
    assert server.drain()
    writer, reader = connect(stuck).flight.do_exchange(LOOKUP)
    writer.begin(KEYS)
    reached(lambda: stuck.admission.calls)
    assert not stuck.drain(0.05)
    with pytest.raises(Unreachable):
        connect(stuck, timeout_s=5).act("health")
    reader.cancel()
    assert stuck.drain()


class Process:
    """A replica on its own, and what it has said."""

    def __init__(self, folder, grace):
        config = folder / "penstock.toml"
        config.write_text(CONFIG.format(folder=folder, grace=grace))
        (folder / "tokens").write_text(TOKEN)
        with Delivery.open(config, publisher="trainer", resume=FRESH, model="shop") as delivery:
            rows = np.ones((12, 4), np.float32)
            delivery.publish_snapshot({"item": (KEYS_OF, rows)}, trained_through="2026-11-01T10:00:00Z")
        self.config, self.log = config, folder / "replica.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [*COMMAND, "replica", "--config", str(config), "--listen", "127.0.0.1:0", "--health-port", "0"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, "COLUMNS": "200"},
            )  # fmt: skip
        self.probes = self._said(r"probes on \S+:(\d+)")
        self.raw = Raw(
            "grpc://" + self._said(r"listening on (\S+:\d+)"), headers=[(b"authorization", b"Bearer " + TOKEN.encode())]
        )

    def _said(self, what):
        def said():
            assert self.process.poll() is None, self.log.read_text()
            return re.search(what, self.log.read_text())

        reached(said)
        return said()[1]

    def probe(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", int(self.probes), timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def presences(self):
        with open_environment(load_config(self.config), "shop") as env:
            return leases.presences(env.catalog, now=system_clock())


@contextmanager
def replica_of(folder, grace):
    found = Process(folder, grace)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait()
        found.raw.close()


def test_a_process_that_is_told_to_end_leaves_in_good_order(tmp_path):
    with replica_of(tmp_path, "10m") as replica:
        reached(lambda: replica.probe("/readyz")[0] == 200)
        code, said = replica.probe("/version")
        assert (code, said["version"], said["timeline"], said["ready"]) == (200, 1, 1, True)
        assert [p.ready for p in replica.presences()] == [True]
        replica.process.send_signal(signal.SIGTERM)
        reached(lambda: replica.probe("/readyz")[0] == 503)
        assert replica.probe("/healthz")[0] == 200
        reached(lambda: [p.ready for p in replica.presences()] == [False])
        reply, ((_, found),) = replica.raw.ask(["item"], [KEYS_OF])
        assert not reply.ready
        assert found.all()
        replica.process.send_signal(signal.SIGTERM)
        assert replica.process.wait(60) == 0
        assert replica.presences() == []
        assert TOKEN not in replica.log.read_text()


def test_a_process_does_not_wait_for_ever_for_one_that_does_not_go_on(tmp_path):
    with replica_of(tmp_path, "0s") as replica:
        writer, _ = replica.raw.flight.do_exchange(LOOKUP, flight.FlightCallOptions(headers=replica.raw.headers))
        writer.begin(KEYS)
        reached(lambda: replica.raw.act("health")["load"]["calls"] == 2)
        replica.process.send_signal(signal.SIGTERM)
        reached(lambda: "draining" in replica.log.read_text())
        replica.process.send_signal(signal.SIGTERM)
        assert replica.process.wait(60) == 0
        assert "1 calls were still under way" in replica.log.read_text()
        assert replica.presences() == []
