"""Lookups of 150,000 keys among 10 million rows of 32 floats, against a gather by numpy from a plain array, the places known."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.ids import Partition
from penstock.serving.table import Table

from .figures import Figure, median_ratio, seconds
from .served import BATCH, PARTITIONS, ROWS, drawn, in_bucket_order, keys_of, load, new_table, partition_of
from .tables import DIM

ROUNDS = 60
Times = list[float]


def run() -> list[Figure]:
    table, rng = new_table(), np.random.default_rng(1)
    load(table, in_bucket_order(ROWS))
    plain = np.ones((ROWS, DIM), np.float32)
    figures = [figure for name in ("uniform", "zipf") for figure in _against_gather(table, plain, name, rng)]
    return [*figures, _at_a_label(table, rng), _while_written(table, rng), _memory(table)]


def _against_gather(table: Table, plain: NDArray[np.float32], name: str, rng: np.random.Generator) -> list[Figure]:
    out = np.empty((BATCH, DIM), np.float32)
    ours, theirs = Times(), Times()
    for _ in range(ROUNDS):
        numbers = drawn(name, rng)
        keys = keys_of(numbers)
        theirs.append(seconds(lambda numbers=numbers: np.take(plain, numbers, axis=0, out=out, mode="clip")))  # type: ignore[misc]
        ours.append(seconds(lambda keys=keys: table.lookup(keys, out)))  # type: ignore[misc]
    what = f"lookup of {BATCH:,} keys, {name}"
    return [
        _p(what, ours, 50, f"np.take, places known: {np.median(theirs) * 1e3:.1f} ms", median_ratio(ours, theirs), "ratio <= 2"),
        _p(what, ours, 99, f"np.take: {np.percentile(theirs, 99) * 1e3:.1f} ms"),
    ]


def _at_a_label(table: Table, rng: np.random.Generator) -> Figure:
    """A tenth of the rows was written since."""
    keys = keys_of(rng.choice(ROWS, ROWS // 10, replace=False))
    owner, labels = partition_of(keys), {}
    for p in map(Partition, range(PARTITIONS)):
        table.mark(p, "then")
        labels[p] = "then"
        own = keys[owner == p]
        table.apply(p, own, np.ones((own.size, DIM), np.float32).view(np.uint8), own[:0])
    out = np.empty((BATCH, DIM), np.float32)
    asked = [keys_of(drawn("uniform", rng)) for _ in range(ROUNDS // 4)]
    now = [seconds(lambda some=some: table.lookup(some, out)) for some in asked]  # type: ignore[misc]
    then = [seconds(lambda some=some: table.lookup_at(labels, some, out)) for some in asked]  # type: ignore[misc]
    for p in labels:
        table.forget(p, "then")
    return _p(
        "the same at a label, a tenth written since", then, 50, f"now: {np.median(now) * 1e3:.1f} ms", median_ratio(then, now)
    )


def _while_written(table: Table, rng: np.random.Generator) -> Figure:
    """Beside a writer that does not rest."""
    keys = keys_of(rng.choice(ROWS, 400_000, replace=False))
    own = keys[partition_of(keys) == 0]
    rows = np.ones((500, DIM), np.float32).view(np.uint8)
    done, written = threading.Event(), [0]

    def write() -> None:
        while not done.is_set():
            for low in range(0, own.size - 500, 500):
                table.apply(Partition(0), own[low : low + 500], rows, own[:0])
                written[0] += 500

    out, times = np.empty((BATCH, DIM), np.float32), Times()
    writer = threading.Thread(target=write)
    writer.start()
    try:
        took = seconds(lambda: times.extend(_lookups(table, rng, out)))
    finally:
        done.set()
        writer.join()
    return _p("the same beside a writer, uniform", times, 99, f"it wrote {written[0] / took / 1e6:.2f} M rows/s meanwhile")


def _lookups(table: Table, rng: np.random.Generator, out: NDArray[np.float32]) -> Times:
    asked = [keys_of(drawn("uniform", rng)) for _ in range(ROUNDS)]
    return [seconds(lambda some=some: table.lookup(some, out)) for some in asked]  # type: ignore[misc]


def _memory(table: Table) -> Figure:
    value, plain = table.nbytes / table.row_count, DIM * 4 + 16
    return Figure("memory a row of 128 bytes", value, "bytes", "128 + 8 key + 8 slot", value / plain, "ratio <= 1.4")


def _p(what: str, times: Times, percent: int, peer: str, ratio: float | None = None, target: str = "") -> Figure:
    return Figure(f"{what}, p{percent}", float(np.percentile(times, percent)) * 1e3, "ms", peer, ratio, target)
