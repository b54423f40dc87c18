"""An inference node that keeps some rows in process, against asking a replica for all of them over Arrow Flight: requests of
150,000 keys by Zipf's law among a million rows of 32 floats, the replica in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.examples.retail.staging import START_S, awaited, open_stage
from penstock.pipeline.catalog import leases
from penstock.pipeline.config import load_config
from penstock.pipeline.core.times import WallTime
from penstock.pipeline.environment import open_environment
from penstock.publishers import FRESH, Delivery
from penstock.serving import Client
from penstock.serving.inference import InferenceNode
from penstock.serving.inference.hot_table import HOT_OVERHEAD

from .figures import Figure, alternating, median_ratio, seconds
from .tables import DIM, scratch_folder

ROWS, BATCH = 1_000_000, 150_000
EXPONENT = 1.2
ROUNDS, LEARNED = 40, 20
SHARES = (0.01, 0.1)
"""Of the rows that may be hot; the near cache has half as many bytes."""


def run() -> list[Figure]:
    with scratch_folder() as folder, ExitStack() as closing:
        figures = []
        stage = closing.enter_context(open_stage(folder, _config(folder, hot_bytes=0)))
        with Delivery.open(stage.config, publisher="bench", resume=FRESH) as delivery:
            rows = np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)
            delivery.publish_snapshot({"item": (np.arange(ROWS), rows)}, trained_through="2026-01-01T00:00:00Z")
        stage.start("replica", "--name", "bench", "--listen", "127.0.0.1:0")
        with open_environment(load_config(stage.config), "bench") as env:
            awaited(
                "the replica",
                lambda: any(found.ready for found in leases.presences(env.catalog, now=env.clock())) or None,
                within_s=START_S,
            )
        for share in SHARES:
            stage.config.write_text(_config(folder, hot_bytes=round(share * ROWS * (4 * DIM + HOT_OVERHEAD))))
            figures += _against_the_cluster(stage.config, share)
        return figures


def _config(folder: Path, *, hot_bytes: int) -> str:
    store, log = json.dumps((folder / "store").as_uri()), json.dumps((folder / "log").as_uri())
    return (
        f"[store]\nurl = {store}\n[log]\nurl = {log}\npartitions = 4\n"
        '[models.bench.tables.item]\nkeys = "keys"\nrows = "rows"\n'
        f'[inference]\nhot_bytes = {hot_bytes}\nnear_bytes = {hot_bytes // 2}\nrecount = "10d"\nnear_expiry = "10m"\n'
    )


def _drawn(rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Hot keys lie anywhere."""
    while True:
        ranks = rng.zipf(EXPONENT, BATCH).astype(np.uint64)
        yield (ranks * np.uint64(0x9E3779B97F4A7C15) % np.uint64(ROWS)).astype(np.int64)


def _against_the_cluster(path: Path, share: float) -> list[Figure]:
    config, requests = load_config(path), _drawn(np.random.default_rng(1))
    with ExitStack() as closing:
        env = closing.enter_context(open_environment(config, "bench"))
        client = closing.enter_context(Client.from_config(config, "bench"))
        node = closing.enter_context(InferenceNode(env, client))
        node.start()
        awaited("the log", lambda: node.status().trusts or None, within_s=START_S)
        for _ in range(LEARNED):
            node.inputs({"item": next(requests)})
        node.recount()
        awaited("the hot rows", _chosen(node), within_s=START_S)
        for _ in range(LEARNED):
            node.inputs({"item": next(requests)})
        before, keys = node.sources, next(requests)

        def draw() -> None:
            nonlocal keys
            keys = next(requests)

        ours, theirs = alternating(ROUNDS, lambda: node.inputs({"item": keys}), lambda: client.lookup("item", keys), tidy=draw)
        hot, near, asked = (getattr(node.sources, name) - getattr(before, name) for name in ("hot", "near", "cluster"))
        hottest = node.edition.table("item").members.keys
        draw_hot = np.random.default_rng(2)
        all_hot = [draw_hot.choice(hottest, BATCH) for _ in range(ROUNDS)]
        within = [seconds(lambda some=some: node.inputs({"item": some})) for some in all_hot]  # type: ignore[misc]
    what = f"{share:.0%} of {ROWS:,} rows hot"
    return [
        *_figures(what, ours, theirs, hot=hot, near=near, asked=asked),
        _figure(f"{what}, and no others asked for", 50, within, theirs, median_ratio(within, theirs)),
    ]


def _chosen(node: InferenceNode) -> Callable[[], bool | None]:
    until = WallTime(node.env.clock() + 1_000_000)

    def look() -> bool | None:
        status = node.status()
        return (node.env.clock() > until and status.wanted == 0 and status.tables["item"].rows > 0) or None

    return look


def _figures(what: str, ours: list[float], theirs: list[float], *, hot: int, near: int, asked: int) -> list[Figure]:
    total = hot + near + asked
    peer = f"hot {hot / total:.0%}, near {near / total:.0%}"
    return [
        Figure(f"{what}: keys answered in process", 100 * (hot + near) / total, "%", peer),
        _figure(what, 50, ours, theirs, median_ratio(ours, theirs)),
        _figure(what, 99, ours, theirs, None),
    ]


def _figure(what: str, percent: int, ours: list[float], theirs: list[float], ratio: float | None) -> Figure:
    mine, peer = (float(np.percentile(taken, percent)) * 1e3 for taken in (ours, theirs))
    return Figure(f"{what}: {BATCH:,} keys, p{percent}", mine, "ms", f"the replica for all: {peer:.1f} ms", ratio)
