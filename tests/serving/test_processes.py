"""Replicas as processes of their own: asked over the network, killed, started again, drained; and one that begins from S3."""

import os
import re
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import waiting
from command_shell import COMMAND

from penstock.pipeline.config import load_config
from penstock.pipeline.core.errors import Unreachable
from penstock.pipeline.environment import open_environment
from penstock.publishers import FRESH, Delivery
from penstock.serving import Client, Replica

START_S = 120.0
reached = partial(waiting.reached, seconds=START_S)
DIM = 4
CONFIG = """
[store]
{store}
[log]
url = "file://{folder}/log"
partitions = 3
[models.shop]
buckets = 16
[replica]
refresh = "50ms"
drain_grace = "200ms"
"""


def written_config(folder, store):
    config = folder / "penstock.toml"
    config.write_text(CONFIG.format(folder=folder, store=store))
    return config


def rows(keys, value):
    return np.full((len(keys), DIM), value, np.float32)


KEYS = np.arange(200)


class Trainer:
    """What a trainer does, in this process."""

    def __init__(self, config):
        self.delivery = Delivery.open(config, publisher="trainer", resume=FRESH, model="shop")
        self.have = {int(key): 1.0 for key in KEYS}
        self.put(1.0, KEYS)
        self.delivery.publish_snapshot(self.arrays(), dense={"w": np.ones(3, np.float32)}, trained_through="2026-11-01T10:00:00Z")

    def arrays(self):
        keys = np.array(list(self.have))
        return {"item": (keys, np.repeat(np.array(list(self.have.values()), np.float32)[:, None], DIM, axis=1))}

    def put(self, value, keys):
        self.delivery.updates().put("item", keys, rows(keys, value), trained_through="2026-11-01T10:00:00Z")
        self.delivery.updates().flush()
        self.have.update({int(key): value for key in keys})

    def delta(self):
        sidecar = self.delivery.updates().mark()
        return self.delivery.publish_delta(self.arrays(), sidecar=sidecar)


@pytest.fixture
def trainer(tmp_path):
    found = Trainer(written_config(tmp_path, f'url = "file://{tmp_path}/store"'))
    yield found
    found.delivery.close()


@contextmanager
def process(config, *options):
    """`penstock replica` beside this process; gives the process and its address once it listens."""
    command = [*COMMAND, "replica", "--config", str(config), "--model", "shop", "--listen", "127.0.0.1:0", *options]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"})
    try:
        yield started, address_of(started)
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()


def address_of(started):
    said, listening = [], []

    def read():
        for line in started.stderr:
            said.append(line)
            if found := re.search(r"listening on (\S+:\d+)", line):
                listening.append("grpc://" + found[1])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    until = time.monotonic() + START_S
    while not listening:
        assert started.poll() is None, "".join(said)
        assert time.monotonic() < until, "".join(said)
        time.sleep(0.02)
    return listening[0]


def served(client):
    found, there = client.lookup("item", np.arange(300))
    return {int(key): float(row[0]) for key, row, here in zip(np.arange(300), found, there, strict=True) if here}


def test_a_replica_that_is_killed_comes_back_with_the_same_digest(tmp_path, trainer):
    config = tmp_path / "penstock.toml"
    with process(config, "--name", "one") as (first, address):
        with Client(address) as client:
            assert served(client) == trainer.have
            trainer.put(2.0, KEYS[:50])
            reached(lambda: served(client) == trainer.have)
            version = trainer.delta().version
            trainer.put(3.0, np.arange(190, 240))
            reached(lambda: client.status().version == version and served(client) == trainer.have)
            before = client.status()
            assert client.lookup("item", np.array([195]), version=version)[0][0, 0] == 1.0
            assert client.dense()[1]["w"].tolist() == [1.0, 1.0, 1.0]
        first.send_signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
    with process(config, "--name", "one") as (second, address), Client(address) as client:
        reached(lambda: served(client) == trainer.have)
        after = client.status()
        assert (after.digest, after.table_digests, after.version) == (before.digest, before.table_digests, version)
        assert (after.timeline, after.dense) == (before.timeline, before.dense)
        assert [p.digests for p in after.partitions] == [p.digests for p in before.partitions]
        second.send_signal(signal.SIGTERM)
        assert second.wait(120) == 0


def test_clients_go_on_while_replicas_are_killed(tmp_path, trainer):
    config = tmp_path / "penstock.toml"
    with (
        process(config, "--name", "one") as (first, one),
        process(config, "--name", "two") as (_, two),
        Client([one, two], timeout_s=30) as client,
    ):
        assert served(client) == trainer.have
        first.send_signal(signal.SIGKILL)
        first.wait()
        for value in (2.0, 3.0):
            trainer.put(value, KEYS[::7])
            reached(lambda: served(client) == trainer.have)
        reached(lambda: client.urls == [two, one])


def test_those_who_ask_while_a_replica_drains_are_answered_or_told(tmp_path, trainer):
    with process(tmp_path / "penstock.toml") as (started, address):
        answers = []

        def ask():
            with Client(address, timeout_s=5) as client:
                while True:
                    answers.append(client.lookup("item", KEYS)[1].all())

        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(ask)
            reached(lambda: len(answers) > 5)
            started.send_signal(signal.SIGTERM)
            assert started.wait(120) == 0
            with pytest.raises(Unreachable):
                asking.result()
        assert all(answers)


def test_a_replica_of_half_the_buckets_as_a_process(tmp_path, trainer):
    with process(tmp_path / "penstock.toml", "--buckets", "0-7") as (_, address), Client(address) as client:
        status = client.status()
        assert status.buckets == (0, 8)
        assert 0 < status.tables["item"].rows < 200
        assert len(status.partitions) == 2


def test_a_bootstrap_from_s3(tmp_path, s3_server, s3_bucket):
    store = f'url = "s3://{s3_bucket}/models"\nendpoint = "{s3_server}"'
    config = written_config(tmp_path, store)
    trainer = Trainer(config)
    try:
        trainer.put(2.0, KEYS[:20])
        trainer.delta()
        with open_environment(load_config(config), "shop") as env:
            whole = Replica(env, name="whole")
            half = Replica(env, name="half", buckets=range(8, 16))
            for replica in (whole, half):
                for _ in range(20):
                    replica.step(0.0)
            held = [int(key) for key in KEYS if half.follower.holding.holds(np.array([key]))[0]]
            assert 0 < len(held) < len(KEYS)
            answer = half.lookup("item", np.array(held))
            assert answer.rows[:, 0].tolist() == [trainer.have[key] for key in held]
            assert whole.lookup("item", KEYS).rows[:, 0].tolist() == [trainer.have[int(key)] for key in KEYS]
            assert np.array_equal(half.follower.tables["item"].digests[8:16], whole.follower.tables["item"].digests[8:16])
            assert whole.dense.tensors["w"].tolist() == [1.0, 1.0, 1.0]
    finally:
        trainer.delivery.close()
