"""The realtime tier on a real Kafka broker, by `penstock bench realtime`: latency beside a plain client's, with lookups and
without; what a publisher sends; what a replica that is behind takes in, beside a Redis. On files where no broker can be had."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from penstock.pipeline.cli.bench_pacing import Plan
from penstock.pipeline.cli.bench_probes import Load
from penstock.pipeline.cli.bench_realtime import Burst, RealtimeFigures, measure
from penstock.pipeline.config import Config, LogConfig, RealtimeConfig, StoreConfig

from .figures import Figure
from .servers import kafka, mset_rows_per_s
from .tables import DIM, scratch_folder

LOAD = Load(rate=50_000, dim=DIM, batch=250, rows=2_000_000, buckets=256, partitions=8)
SECONDS, WARMUP_S = 60.0, 5.0
SHORT_S = 15.0
LOOKUP_KEYS, BURST_ROWS, REDIS_ROWS = 150_000, 8_000_000, 1_000_000


def run() -> list[Figure]:
    with scratch_folder() as folder, kafka(folder / "kafka") as servers:
        url = f"{folder.as_uri()}/log" if servers is None else f"kafka://{servers}"
        where = "files" if servers is None else "Kafka"
        calm = _measured(folder, url, "block", seconds=SECONDS, burst_rows=BURST_ROWS)
        busy = _measured(folder, url, "block", seconds=SHORT_S, lookup_keys=LOOKUP_KEYS)
        ranked = _measured(folder, url, "priority", seconds=SHORT_S, burst_rows=BURST_ROWS)
        figures = [*_latency(calm, where), *_with_lookups(busy, where)]
        for overflow, found in (("block", calm.burst), ("priority", ranked.burst)):
            figures += _published(overflow, found, where)
        return [*figures, *_caught_up(folder, calm.burst, where)]


def _measured(
    folder: Path, url: str, overflow: str, *, seconds: float, lookup_keys: int = 0, burst_rows: int = 0
) -> RealtimeFigures:
    config = Config(
        store=StoreConfig(url=f"{folder.as_uri()}/store"), log=LogConfig(url=url, partitions=LOAD.partitions),
        realtime=RealtimeConfig(overflow=overflow),  # type: ignore[arg-type]
    )  # fmt: skip
    plan = Plan(load=LOAD, seconds=seconds, warmup_s=WARMUP_S, lookup_keys=lookup_keys, burst_rows=burst_rows)
    return measure(config, f"bench-{overflow}-{lookup_keys}", plan, lambda doing: print(f"  {doing}", file=sys.stderr))


def _latency(found: RealtimeFigures, where: str) -> list[Figure]:
    figures = []
    for name, target in (("p50", "<= 3 ms, ratio <= 1.5"), ("p99", "<= 20 ms")):
        peer = "" if found.raw is None else f"a plain client: {getattr(found.raw, name):.2f} ms"
        what = f"put → readable in another process ({where}), {name}"
        figures.append(Figure(what, getattr(found.readable, name), "ms", peer, found.ratio.get(name), target))
    return figures


def _with_lookups(found: RealtimeFigures, where: str) -> list[Figure]:
    assert found.lookups is not None
    peer = f"their own p50: {found.lookups.p50:.1f} ms"
    what = f"the same beside lookups of {LOOKUP_KEYS:,} keys ({where}), p99"
    return [Figure(what, found.readable.p99, "ms", peer, None, "<= 50 ms")]


def _published(overflow: str, found: Burst | None, where: str) -> list[Figure]:
    assert found is not None
    peer = f"{found.rows_shed:,} of {found.rows:,} rows shed"
    sent = found.published_rows_per_s / 1e6
    return [
        Figure(f'published ({where}), overflow "{overflow}"', sent, "M rows/s", peer, None, ">= 0.5 M rows/s"),
        Figure(f"put, {found.batch:,} rows a batch", found.put_us, "us a row", "", None, "<= 1 us"),
    ]


def _caught_up(folder: Path, found: Burst | None, where: str) -> list[Figure]:
    assert found is not None
    rng = np.random.default_rng(3)
    theirs = mset_rows_per_s(folder, rng.permutation(REDIS_ROWS), rng.standard_normal((REDIS_ROWS, DIM), dtype=np.float32))
    peer = "no redis-server is installed" if theirs is None else f"Redis MSET pipeline: {theirs / 1e6:.2f} M rows/s"
    figures = []
    for name, rows_per_s in (
        ("sent as fast as they went", found.caught_up_rows_per_s),
        (f"sent at {LOAD.rate:,} a second", found.caught_up_small_rows_per_s),
    ):
        what = f"a replica that catches up ({where}) on rows {name}, digests kept"
        ratio = None if theirs is None else rows_per_s / theirs
        figures.append(Figure(what, rows_per_s / 1e6, "M rows/s", peer, ratio, ">= 1.4 M rows/s, ratio >= 3"))
    return figures
