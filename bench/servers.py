"""Servers for benches: a Kafka broker as the tests start one, and a Redis that is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from servers.kafka import KafkaUnavailable, running_kafka

START_S = 20.0
COMMAND = (sys.executable, "-c", "from penstock.pipeline.cli.main import main; main()")
"""Penstock's own, in a process of its own."""
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
    with _redis(folder) as connection:
        return None if connection is None else _piped(connection, _commands(keys, rows), len(keys))


class RedisRows:
    """Rows (float32[n, dim]) in a Redis, each the value of its key (int64), all of which are there."""

    def __init__(self, connection: socket.socket, dim: int) -> None:
        self._connection, self._width = connection, 4 * dim

    def rows(self, keys: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32[n, dim] of int64[n] keys, by pipelined `MGET`; values have one length, so they are cut out by numpy."""
        lead, end = len(b"$%d\r\n" % self._width), len(b"\r\n")
        out = np.empty((keys.size, self._width), np.uint8)
        sending = threading.Thread(target=self._connection.sendall, args=(_mget(keys),))
        sending.start()
        for at in range(0, keys.size, ROWS_A_COMMAND):
            some = out[at : at + ROWS_A_COMMAND]
            head = len(b"*%d\r\n" % len(some))
            said = self._received(head + len(some) * (lead + self._width + end))
            some[:] = said[head:].reshape(len(some), -1)[:, lead:-end]
        sending.join()
        return out.view(np.float32)

    def _received(self, count: int) -> NDArray[np.uint8]:
        said = np.empty(count, np.uint8)
        view, done = memoryview(said), 0  # type: ignore[arg-type]
        while done < count:
            done += self._connection.recv_into(view[done:])
        return said


@contextmanager
def redis_rows(folder: Path, keys: NDArray[np.int64], rows: NDArray[np.float32]) -> Iterator[RedisRows | None]:
    """A Redis with these rows, asked over a unix socket; None where there is no redis-server."""
    with _redis(folder) as connection:
        if connection is not None:
            _piped(connection, _commands(keys, rows), len(keys))
        yield None if connection is None else RedisRows(connection, rows.shape[1])


@contextmanager
def _redis(folder: Path) -> Iterator[socket.socket | None]:
    if shutil.which("redis-server") is None:
        yield None
        return
    path = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with _connected(path) as connection:
            yield connection
    finally:
        server.terminate()
        server.wait()


def _mget(keys: NDArray[np.int64]) -> bytes:
    words = np.empty(keys.size, [("lead", "V4"), ("key", "V8"), ("end", "V2")])
    words["lead"], words["key"], words["end"] = np.void(b"$8\r\n"), keys.view("V8"), np.void(b"\r\n")
    parts = [words[at : at + ROWS_A_COMMAND] for at in range(0, keys.size, ROWS_A_COMMAND)]
    return b"".join(b"*%d\r\n$4\r\nMGET\r\n" % (1 + len(part)) + part.tobytes() for part in parts)


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
