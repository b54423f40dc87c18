"""Loading and updating a serving table of 32 floats a row, with digests, against plain copies by numpy of the same rows."""

from __future__ import annotations

import os
import statistics

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.ids import Partition
from penstock.serving.table import Table

from .figures import Figure, alternating, median_ratio, seconds
from .served import PARTITIONS, ROWS, in_bucket_order, keys_of, load, new_table, partition_of, parts
from .tables import DIM

WRITE, WRITES, GROWN = 500, 1600, 4_000_000


def run() -> list[Figure]:
    keys, table = in_bucket_order(ROWS), new_table()
    load(new_table(), keys[:10_000])
    return [*_loading(table, keys), *_updating(table), _growing(keys[:GROWN])]


def _loading(table: Table, keys: NDArray[np.int64]) -> list[Figure]:
    target = np.empty((ROWS, 4 * DIM), np.uint8)

    def copy() -> None:
        low = 0
        for part, rows in parts(keys):
            target[low : low + part.size] = rows
            low += part.size

    theirs = seconds(copy)
    before = os.times().user
    ours = seconds(lambda: load(table, keys))
    own = os.times().user - before
    peer = f"copy of the same rows: {ROWS / theirs / 1e6:.1f} M rows/s"
    return [
        Figure("load 10 M rows, with index and digests", ROWS / ours / 1e6, "M rows/s", peer, theirs / ours),
        Figure("the same, without the system's time for fresh memory", ROWS / own / 1e6, "M rows/s a core"),
    ]


def _updating(table: Table) -> list[Figure]:
    """Rows that are there already, `WRITE` a write, as records bring them; and with a label, which keeps what they replace."""
    rng, plain = np.random.default_rng(2), np.ones((ROWS, DIM), np.float32)
    numbers = rng.choice(ROWS, WRITE * WRITES, replace=False)
    owner = partition_of(keys_of(numbers))
    writes = [
        (Partition(p), part)
        for p in range(PARTITIONS)
        for part in np.array_split(numbers[owner == p], WRITES // PARTITIONS)
    ]  # fmt: skip
    rows = rng.standard_normal((2 * WRITE, DIM), dtype=np.float32)
    nothing = np.empty(0, np.int64)

    def scatter() -> None:
        for _, part in writes:
            plain[part] = rows[: part.size]

    def apply() -> None:
        for partition, part in writes:
            table.apply(partition, keys_of(part), rows[: part.size].view(np.uint8), nothing)

    apply()
    theirs, ours = alternating(5, scatter, apply)
    peer = f"numpy, places known: {numbers.size / statistics.median(theirs) / 1e6:.1f} M rows/s"
    figures = [_rate("replace rows, 500 a write, with digests", numbers.size, ours, peer, median_ratio(theirs, ours))]
    marked = []
    for label in range(3):
        for p in map(Partition, range(PARTITIONS)):
            table.forget(p, label - 1)
            table.mark(p, label)
        marked.append(seconds(apply))
    return [*figures, _rate("the same, each row for the first time since a label", numbers.size, marked, "")]


def _growing(keys: NDArray[np.int64]) -> Figure:
    """A table that grows from nothing, and takes no write longer than others."""
    table, mixed = new_table(), np.random.default_rng(3).permutation(keys)
    rows = np.ones((WRITE, DIM), np.float32).view(np.uint8)
    own = mixed[partition_of(mixed) == 0]
    nothing, times = own[:0], []
    for low in range(0, own.size - WRITE, WRITE):
        part = own[low : low + WRITE]
        times.append(seconds(lambda part=part: table.apply(Partition(0), part, rows, nothing)))  # type: ignore[misc]
    peer = f"p50 {np.median(times) * 1e3:.2f} ms, p99 {np.percentile(times, 99) * 1e3:.2f} ms"
    return Figure(f"longest write of 500 rows, growing to {own.size:,}", max(times) * 1e3, "ms", peer)


def _rate(what: str, rows: int, times: list[float], peer: str, ratio: float | None = None) -> Figure:
    return Figure(what, rows / statistics.median(times) / 1e6, "M rows/s", peer, ratio)
