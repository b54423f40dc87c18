"""A model in shards, each a replica process of its own, asked all the time: replicas are killed with -9 one after the other, or
others take their place. No lookup fails, and no row is wrong.

FLEET_SECONDS=60 makes the killing long.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import pytest
import waiting
from command_shell import COMMAND

from penstock.pipeline.core.errors import PenstockError, Unreachable
from penstock.publishers import FRESH, Delivery
from penstock.serving import Client

pytestmark = pytest.mark.slow
SECONDS, LEAST_KILLS = float(os.environ.get("FLEET_SECONDS", "10")), 3
WAIT_S = 180.0
reached = partial(waiting.reached, seconds=WAIT_S)
KEYS, DIM, ASKERS = 2000, 4, 2
SPREAD = 1_000_003
CONFIG = """
[store]
url = "file://{folder}/store"
[log]
url = "file://{folder}/log"
partitions = 4
[models.shop]
buckets = 16
[replica]
refresh = "50ms"
lease = "3s"
drain_grace = "3s"
[client]
timeout = "60s"
"""
ALL = np.arange(KEYS) * SPREAD


def rows_of(keys, sequences):
    """A row tells its key and when it was written, twice. `sequences`: one for all, or one each."""
    number, when = keys // SPREAD, np.broadcast_to(sequences, keys.size)
    return np.stack([number, when, number + when, when], axis=1).astype(np.float32)


class Trainer:
    """Writes some rows all the time, and a version now and then."""

    def __init__(self, config):
        self.delivery = Delivery.open(config, publisher="trainer", resume=FRESH, model="shop")
        self.last, self.least = np.ones(KEYS, np.int64), {}
        self.written, self.failed, self._ending = 1, [], threading.Event()
        sidecar = self._put(ALL)
        self.least[self.delivery.publish_snapshot(self._arrays(), sidecar=sidecar).version] = self.last.copy()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _put(self, keys):
        updates = self.delivery.updates()
        self.last[keys // SPREAD] = self.written
        updates.put("item", keys, rows_of(keys, self.written), trained_through="2026-11-01T10:00:00Z")
        return updates.mark() if keys.size == KEYS else None

    def _arrays(self):
        return {"item": (ALL, rows_of(ALL, self.last))}

    def _run(self):
        chance = np.random.default_rng(1)
        try:
            while not self._ending.wait(0.02):
                self.written += 1
                self._put(ALL[chance.choice(KEYS, 50, replace=False)])
                if self.written % 100 == 0:
                    sidecar = self.delivery.updates().mark()
                    least = self.last.copy()
                    self.least[self.delivery.publish_delta(self._arrays(), sidecar=sidecar).version] = least
        except Exception as error:
            self.failed.append(error)
            raise

    def close(self):
        self._ending.set()
        self._thread.join()
        self.delivery.close()


class Process:
    """`penstock replica`, on a port of its own."""

    def __init__(self, config, name, buckets):
        self.config, self.name, self.buckets = config, name, buckets
        self.start()

    def start(self):
        command = [*COMMAND, "replica", "--config", str(self.config), "--listen", "127.0.0.1:0", "--name", self.name]
        self.process = subprocess.Popen(
            [*command, "--buckets", self.buckets], stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}
        )
        self.said, self.url = [], None
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def _read(self, process):
        for line in process.stderr:
            self.said.append(line)
            if found := re.search(r"listening on (\S+:\d+)", line):
                self.url = "grpc://" + found[1]

    def awaited(self):
        """Returns as soon as it says that it is ready."""
        reached(lambda: self.url is not None or self.process.poll() is not None)
        assert self.process.poll() is None, "".join(self.said)
        with Client(self.url, timeout_s=5) as client:
            reached(lambda: is_ready(client))

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WAIT_S) == 0, "".join(self.said)

    def close(self):
        if self.process.poll() is None:
            self.kill()
        self.process.stderr.close()


def is_ready(client):
    try:
        return client.ready()
    except Unreachable:
        return False


class Askers:
    """Look up random keys all the time, and check every row."""

    def __init__(self, client, trainer):
        self.client, self.trainer, self.wrong, self.asked, self.slowest = client, trainer, [], 0, 0.0
        self.versions = set()
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(ASKERS)]
        for thread in self._threads:
            thread.start()

    def _run(self, number):
        chance = np.random.default_rng(number)
        while not self._ending.is_set():
            keys = ALL[chance.integers(0, KEYS, 300)]
            started = time.monotonic()
            try:
                answer = self.client.answer("item", keys)
            except PenstockError as error:
                self.wrong.append(error)
                return
            self.slowest = max(self.slowest, time.monotonic() - started)
            self.asked += 1
            self._check(keys, answer)

    def _check(self, keys, answer):
        sequences = answer.rows[:, 1].astype(np.int64)
        known = [version for version in self.trainer.least if version <= answer.version]
        # A version may be served before its publisher has come back to tell what it has: then the one before counts.
        least = self.trainer.least[max(known)][keys // SPREAD]
        self.versions.add(answer.version)
        if not answer.found.all():
            self.wrong.append("a key was not found")
        elif not np.array_equal(answer.rows, rows_of(keys, sequences)):
            self.wrong.append("a row of another key, or a torn one")
        elif (sequences < least).any():
            self.wrong.append(f"a row older than version {answer.version}")
        elif (sequences > self.trainer.written).any():
            self.wrong.append("a row that nobody wrote")

    def asked_on(self, lookups=20):
        """Returns after so many more lookups."""
        before = self.asked
        reached(lambda: self.asked >= before + lookups or self.wrong)
        assert not self.wrong

    def end(self):
        self._ending.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def fleet(folder, **ranges):
    """Processes with these buckets, and those who ask them."""
    config = folder / "penstock.toml"
    config.write_text(CONFIG.format(folder=folder))
    with ExitStack() as closing:
        trainer = Trainer(config)
        closing.callback(trainer.close)
        processes = started(closing, config, **ranges)
        client = closing.enter_context(Client.from_config(config))
        askers = Askers(client, trainer)
        closing.callback(askers.end)
        askers.asked_on()
        yield closing, config, processes, askers
        askers.asked_on()
        askers.end()
        assert not askers.wrong
        assert not trainer.failed
        assert len(askers.versions) > 1


def started(closing, config, **ranges):
    found = {name: Process(config, name, buckets) for name, buckets in ranges.items()}
    for process in found.values():
        closing.callback(process.close)
    for process in found.values():
        process.awaited()
    return found


def test_no_lookup_fails_while_replicas_are_killed_one_after_the_other(tmp_path):
    ranges = {"low-a": "0-7", "low-b": "0-7", "high-a": "8-15", "high-b": "8-15"}
    with fleet(tmp_path, **ranges) as (_, _, processes, askers):
        until, kills = time.monotonic() + SECONDS, 0
        for process in itertools.cycle(processes.values()):
            if time.monotonic() > until and kills >= LEAST_KILLS:
                break
            process.kill()
            kills += 1
            process.start()
            process.awaited()
            assert not askers.wrong
        counters = askers.client.counters
    print(f"{kills} kills, {askers.asked} lookups, the slowest {askers.slowest:.2f} s, {counters}")
    assert counters.failures > 0


def test_no_lookup_fails_from_two_shards_to_three_and_back(tmp_path):
    two, three = {"two-0": "0-7", "two-1": "8-15"}, {"three-0": "0-5", "three-1": "6-10", "three-2": "11-15"}
    with fleet(tmp_path, **two) as (closing, config, first, askers):
        leaving = first
        for ranges in (three, two):
            joining = started(closing, config, **ranges)
            for process in leaving.values():
                process.end()
                askers.asked_on()
            leaving = joining
        assert {h.replica for h in askers.client.replicas().values() if h is not None} >= set(two)
