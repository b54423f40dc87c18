"""Lookups of 150,000 keys among 10 million rows of 32 floats, against a prefetched gather of the same rows, the places known."""

from __future__ import annotations

import threading
import time

import numpy as np

from penstock.pipeline.core.ids import Partition
from penstock.serving.bags import Bags
from penstock.serving.index import Index
from penstock.serving.memory import frozen
from penstock.serving.slab import Slab
from penstock.serving.table import Table
from penstock.serving.writes import place_rows

from .figures import Figure, alternating, median_ratio, seconds
from .looking_up import ROUNDS, Asking, Times, Took, against_gather, percentile
from .served import BATCH, PARTITIONS, ROWS, in_bucket_order, keys_of, load, new_table, partition_of
from .tables import DIM

BAG = 50
WRITE, WRITTEN_A_SECOND = 500, 100_000


def run() -> list[Figure]:
    figures, table = [_index()], new_table()
    load(table, in_bucket_order(ROWS))
    for name in ("zipf", "uniform"):
        figures += against_gather(Asking(table, ROWS, name))
    figures.append(_pooled(Asking(table, ROWS, "uniform")))
    figures += [_at_a_label(table), *_while_written(table), _memory(table)]
    return figures


def _index() -> Figure:
    """Of 10 million keys in the order of a snapshot, each with a row that stays where it is."""
    keys, rates = frozen(in_bucket_order(ROWS)), []
    retired, digests = np.empty(ROWS, np.int64), np.zeros(1, np.uint64)
    for kept in (False, True, True, True):
        index, slab = Index(), Slab(4)
        index.reserve(ROWS)
        index.claim()
        into = index.entries, index.shadow, slab.directory, slab.shift, slab.stride, slab.width, retired, digests
        took = Took.by(lambda into=into: place_rows(*into, keys, 1))  # type: ignore[call-arg, misc]
        if kept:
            rates.append(ROWS / took.core_s / 1e6)
    return Figure(f"index of {ROWS // 10**6} M keys", max(rates), "M rows/s a core", "", None, ">= 30")


def _pooled(asking: Asking) -> Figure:
    """Beside the same lookup without bags."""
    offsets = np.arange(0, BATCH, BAG)
    bags, absent = Bags(offsets, "sum"), np.zeros(DIM, np.float32)
    sums = np.empty((offsets.size, DIM), np.float32)
    plain, pooled = alternating(ROUNDS, asking.look, lambda: asking.table.add_up(asking.keys(), bags, absent, sums))
    peer = f"the rows themselves: {np.median(plain) * 1e3:.1f} ms"
    return percentile(
        f"sums over bags of {BAG} of {BATCH:,} keys, uniform", pooled, 50, peer, median_ratio(pooled, plain), "<= 1"
    )


def _at_a_label(table: Table) -> Figure:
    """A tenth of the rows was written since."""
    keys = keys_of(np.random.default_rng(1).choice(ROWS, ROWS // 10, replace=False))
    owner, labels = partition_of(keys), {}
    for p in map(Partition, range(PARTITIONS)):
        table.mark(p, "then")
        labels[p] = "then"
        own = keys[owner == p]
        table.apply(p, own, np.ones((own.size, DIM), np.float32).view(np.uint8), own[:0])
    asking = Asking(table, ROWS, "uniform")
    now, then = alternating(ROUNDS // 4, asking.look, lambda: table.lookup_at(labels, asking.keys(), asking.out))
    for p in labels:
        table.forget(p, "then")
    peer = f"now: {np.median(now) * 1e3:.1f} ms"
    return percentile("the same at a label, a tenth written since", then, 50, peer, median_ratio(then, now))


def _while_written(table: Table) -> list[Figure]:
    figures = []
    for name in ("zipf", "uniform"):
        asking = Asking(table, ROWS, name)
        quiet = Times(seconds(asking.look) for _ in range(2 * ROUNDS))
        busy, rate = _beside_a_writer(asking, WRITTEN_A_SECOND)
        peer = f"quiet: {np.percentile(quiet, 99) * 1e3:.1f} ms; {rate / 1e3:.0f} thousand rows/s written"
        ratio = float(np.percentile(busy, 99) / np.percentile(quiet, 99))
        figures.append(percentile(f"while 100,000 rows/s are written, {name}", busy, 99, peer, ratio, "ratio <= 1.5"))
    busy, rate = _beside_a_writer(Asking(table, ROWS, "uniform"), None)
    return [*figures, percentile("beside a writer without a rest, uniform", busy, 99, f"it wrote {rate / 1e6:.2f} M rows/s")]


def _beside_a_writer(asking: Asking, rows_a_second: int | None) -> tuple[Times, float]:
    """How long lookups take, and how many rows a second are written meanwhile."""
    keys = keys_of(np.random.default_rng(2).choice(ROWS, 400_000, replace=False))
    own = keys[partition_of(keys) == 0]
    rows = np.ones((WRITE, DIM), np.float32).view(np.uint8)
    done, written = threading.Event(), [0]

    def write() -> None:
        began = time.perf_counter()
        while not done.is_set():
            low = written[0] % (own.size - WRITE)
            asking.table.apply(Partition(0), own[low : low + WRITE], rows, own[:0])
            written[0] += WRITE
            ahead = 0 if rows_a_second is None else written[0] / rows_a_second - (time.perf_counter() - began)
            if ahead > 0:
                done.wait(ahead)

    writer, times = threading.Thread(target=write), Times()
    writer.start()
    try:
        took = seconds(lambda: times.extend(seconds(asking.look) for _ in range(2 * ROUNDS)))
    finally:
        done.set()
        writer.join()
    return times, written[0] / took


def _memory(table: Table) -> Figure:
    value, plain = table.nbytes / table.row_count, DIM * 4 + 16
    return Figure("memory a row of 128 bytes", value, "bytes", "128 + 8 key + 8 slot", value / plain, "ratio <= 1.4")
