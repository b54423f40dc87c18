"""A client and several replicas, each a process: two shards against one replica with all; what second tries do for a slow one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.publishers import FRESH, Delivery
from penstock.serving import Client

from .figures import Figure, alternating, median_ratio, seconds
from .servers import COMMAND
from .tables import DIM, scratch_folder

ROWS, BATCH, FEW = 1_000_000, 150_000, 500
ROUNDS, LOOKUPS = 20, 1500
STOPPED_S, GOING_S = 0.05, 0.4
START_S = 300.0
CONFIG = """
[store]
url = "file://{folder}/store"
[log]
url = "file://{folder}/log"
partitions = 4
[models.bench]
buckets = 256
"""


def run() -> list[Figure]:
    with scratch_folder() as folder, ExitStack() as closing:
        config = folder / "penstock.toml"
        config.write_text(CONFIG.format(folder=folder))
        _publish(config)
        names = {"all": "0-255", "low": "0-127", "high": "128-255", "other": "0-255"}
        fleet = {name: closing.enter_context(replica(config, name, buckets)) for name, buckets in names.items()}
        urls = {name: url for name, (_, url) in fleet.items()}
        return [*_shards(urls), *_hedging(urls, fleet["other"][0])]


def _shards(urls: dict[str, str]) -> list[Figure]:
    rng = np.random.default_rng(0)
    with Client(urls["all"]) as whole, Client([urls["low"], urls["high"]]) as shards:
        asked = iter([rng.integers(0, ROWS, BATCH) for _ in range(2 * ROUNDS + 4)])
        alternating(2, lambda: whole.lookup("item", next(asked)), lambda: shards.lookup("item", next(asked)))
        theirs, ours = alternating(ROUNDS, lambda: whole.lookup("item", next(asked)), lambda: shards.lookup("item", next(asked)))
    rates = [BATCH / np.median(times) / 1e6 for times in (ours, theirs)]
    peer = f"one replica with all: {rates[1]:.2f} M keys/s"
    ratio = 1 / median_ratio(ours, theirs)
    return [Figure(f"{BATCH:,} keys of two shards", float(rates[0]), "M keys/s", peer, ratio)]


def _hedging(urls: dict[str, str], process: subprocess.Popen[str]) -> list[Figure]:
    """Two replicas with all, one of which stands still now and then."""
    pair, ending = [urls["all"], urls["other"]], threading.Event()

    def disturb() -> None:
        while not ending.wait(GOING_S):
            process.send_signal(signal.SIGSTOP)
            ending.wait(STOPPED_S)
            process.send_signal(signal.SIGCONT)

    with Client(pair, hedge_share=0.0) as plain, Client(pair) as hedged:
        quiet = _times(hedged)
        _times(plain)
        disturbing = threading.Thread(target=disturb)
        disturbing.start()
        try:
            before = hedged.counters
            theirs, ours = _taking_turns(plain, hedged)
            again = hedged.counters.hedges - before.hedges
        finally:
            ending.set()
            disturbing.join()
    share = 100 * again / len(ours)
    name = f"{FEW} keys, one of two replicas stands still for {STOPPED_S * 1e3:.0f} ms now and then"
    figures = []
    for percent in (50, 99, 99.9):
        mine, other = (float(np.percentile(times, percent)) * 1e3 for times in (ours, theirs))
        peer = f"without second tries: {other:.2f} ms"
        figures.append(Figure(f"{name}, p{percent:g}", mine, "ms", peer, mine / other))
    calm = float(np.percentile(quiet, 99)) * 1e3
    return [
        *figures,
        Figure("second tries in a hundred lookups", share, "", f"the budget is 5; p99 when both go on: {calm:.2f} ms"),
    ]


def _taking_turns(one: Client, other: Client) -> tuple[list[float], list[float]]:
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(2 * LOOKUPS):
        times[number % 2].append(seconds(lambda at=number % 2: (one, other)[at].lookup("item", KEYS)))  # type: ignore[misc]
    return times


KEYS: NDArray[np.int64] = np.random.default_rng(1).integers(0, ROWS, FEW)


def _times(client: Client) -> list[float]:
    return [seconds(lambda: client.lookup("item", KEYS)) for _ in range(300)]


def _publish(config: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)
    with Delivery.open(config, publisher="trainer", resume=FRESH, model="bench") as delivery:
        delivery.publish_snapshot({"item": (np.arange(ROWS), rows)}, trained_through="2026-11-01T10:00:00Z")


@contextmanager
def replica(config: Path, name: str, buckets: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`penstock replica` in a process; gives its URL once it is ready."""
    command = [*COMMAND, "replica", "--config", str(config), "--listen", "127.0.0.1:0", "--name", name, "--buckets", buckets]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"})
    try:
        yield process, _url(process)
    finally:
        process.kill()
        process.communicate()


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"listening on (\S+:\d+)", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            url = f"grpc://{found[1]}"
            break
    else:
        raise RuntimeError("a replica ended before it listened")
    until = time.monotonic() + START_S
    with Client(url) as client:
        while not client.ready():
            if time.monotonic() > until:
                raise RuntimeError("a replica does not become ready")
            time.sleep(0.05)
    return url
