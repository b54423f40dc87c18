"""Servers for benches: a Kafka broker as the tests start one, and a Redis that is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from servers.kafka import KafkaUnavailable, running_kafka

START_S = 20.0
ROWS_A_COMMAND, UNDER_WAY = 1000, 64
"""So many commands are sent ahead of their answers."""


@contextmanager
def kafka(folder: Path) -> Iterator[str | None]:
    """host:port of the broker that PENSTOCK_TEST_KAFKA names, else of one of its own; None where there can be none."""
    if named := os.environ.get("PENSTOCK_TEST_KAFKA"):
        yield named
        return
    with suppress(KafkaUnavailable), running_kafka(folder) as broker:
        yield broker.bootstrap
        return
    yield None


def mset_rows_per_s(folder: Path, keys: NDArray[np.int64], rows: NDArray[np.float32]) -> float | None:
    """Rows a second that a Redis takes by pipelined `MSET` over a unix socket, commands made from the rows as they go; None where
    there is no redis-server."""
    if shutil.which("redis-server") is None:
        return None
    path = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with _connected(path) as connection:
            return _piped(connection, _commands(keys, rows), len(keys))
    finally:
        server.terminate()
        server.wait()


def _commands(keys: NDArray[np.int64], rows: NDArray[np.float32]) -> Iterator[bytes]:
    width = 4 * rows.shape[1]
    lead, middle, end = b"$8\r\n", b"\r\n$%d\r\n" % width, b"\r\n"
    parts = [("a", lead), ("key", bytes(8)), ("b", middle), ("row", bytes(width)), ("c", end)]
    pairs = np.empty(ROWS_A_COMMAND, [(name, f"V{len(part)}") for name, part in parts])
    for name, part in parts:
        pairs[name] = np.void(part)
    for at in range(0, len(keys), ROWS_A_COMMAND):
        some = pairs[: len(keys) - at]
        some["key"] = keys[at : at + len(some)].view("V8")
        some["row"] = np.ascontiguousarray(rows[at : at + len(some)]).view(f"V{width}")[:, 0]
        yield b"*%d\r\n$4\r\nMSET\r\n" % (1 + 2 * len(some)) + some.tobytes()


def _piped(connection: socket.socket, commands: Iterator[bytes], rows: int) -> float:
    expected, answered, sent = len(b"+OK\r\n"), 0, 0
    started = time.perf_counter()
    for sent, command in enumerate(commands, 1):
        connection.sendall(command)
        while sent - answered // expected >= UNDER_WAY:
            answered += len(connection.recv(1 << 16))
    while answered < expected * sent:
        answered += len(connection.recv(1 << 16))
    return rows / (time.perf_counter() - started)


def _connected(path: Path) -> socket.socket:
    deadline = time.monotonic() + START_S
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
            return connection
        except OSError:
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
