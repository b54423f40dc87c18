"""A chain of versions into tables: all that is held when a replica begins, one partition when that is loaded anew.

An empty table takes the layers as they are, the oldest first: its index finds what a later one writes again, so nothing has to be
merged. Other threads read ahead meanwhile, in bounded memory. Rows that stay in mapped files are served from there at once;
`bring_in` copies them later, or never.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from penstock.pipeline.core.history import History, table_layers
from penstock.pipeline.core.ids import Partition
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.ports.store import ObjectStore
from penstock.slicer.layers import Layers
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.runs import Run

from .changes import Part
from .holding import Holding
from .table import Table
from .tiers import Budget

CHUNK_BYTES = 8 << 20
READERS, AHEAD = 4, 8
"""Threads that read, and chunks that are read or under way."""
PAGE = 4096
STAY_BYTES = 64 << 20
"""Fewer of rows are copied at once."""
GROUP_ROWS = 1 << 18
"""About so many rows of a partition are in memory twice while it is loaded anew."""


class Chunk(NamedTuple):
    """Positions [low, high) of a run, all of one partition if they are tombstones."""

    run: Run
    partition: Partition
    low: int
    high: int

    def read(self) -> Part:
        keys = self.run.keys_at(self.low, self.high)
        if self.run.layout.kind == "tombstones":
            return Part(keys, None)
        rows = self.run.rows_at(self.low, self.high)
        if self.run.is_local:
            rows.reshape(-1)[::PAGE].max()  # of a mapped file, what is touched is read
        return Part(keys, rows)


def load_all(store: ObjectStore, holding: Holding, history: History, version: Manifest, budget: Budget) -> None:
    """Fills tables that are empty. The rows of a large first layer stay in its files, where these are mapped. Errors as of
    `Run.open`, and `StorageFull` where the budget does not do."""
    every = holding.tables.values()
    for name, table in holding.tables.items():
        runs = table_layers(history.chain(version.version), name)
        with Layers.open(store, TableLayout.of(holding.schema, name), runs) as layers:
            oldest_first = layers.runs[::-1]
            # Later layers write most of the oldest one's keys again.
            first = oldest_first[: len(runs[0]) if runs else 0]
            keys = sum(_held(run, holding.buckets) for run in first)
            nbytes, can_stay = keys * table.width, table.can_borrow and all(run.is_local for run in first)
            stay = can_stay and (nbytes >= STAY_BYTES or not budget.fits(nbytes, every))
            if not stay:
                budget.check(name, nbytes, every)
            table.reserve(keys, rows=0 if stay else keys)
            with ThreadPoolExecutor(1, thread_name_prefix="claim") as claiming:
                claiming.submit(table.claim)
                for chunk, part in _read_ahead(_chunks(oldest_first, holding)):
                    if part.rows is None:
                        table.correct(chunk.partition, *part.split(table.width))
                    elif stay and any(chunk.run is run for run in first):
                        table.load_lent(part.keys, part.rows)
                    else:
                        table.load(part.keys, part.rows)


def _held(run: Run, buckets: range) -> int:
    return int(run.offsets[buckets.stop] - run.offsets[buckets.start])


def _chunks(runs: Sequence[Run], holding: Holding) -> Iterator[Chunk]:
    for run in runs:
        step = CHUNK_BYTES // (run.layout.frame.width + 8)
        tombstones = run.layout.kind == "tombstones"
        for partition in holding.partitions() if tombstones else [Partition(0)]:
            held = holding.part(partition) if tombstones else holding.buckets
            start, stop = int(run.offsets[held.start]), int(run.offsets[held.stop])
            for low in range(start, stop, step):
                yield Chunk(run, partition, low, min(low + step, stop))


def _read_ahead(chunks: Iterator[Chunk]) -> Iterator[tuple[Chunk, Part]]:
    """The chunks in their order, each with what was read."""
    under_way: deque[tuple[Chunk, Future[Part]]] = deque()
    with ThreadPoolExecutor(READERS, thread_name_prefix="bootstrap") as threads:
        try:
            for chunk in chunks:
                under_way.append((chunk, threads.submit(chunk.read)))
                if len(under_way) == AHEAD:
                    first, found = under_way.popleft()
                    yield first, found.result()
            while under_way:
                first, found = under_way.popleft()
                yield first, found.result()
        finally:
            threads.shutdown(cancel_futures=True)


def load_part(store: ObjectStore, holding: Holding, history: History, version: Manifest, partition: Partition) -> tuple[int, int]:
    """Makes the rows of a partition those of a version; rows that are so already are not touched. Returns how many it
    has, and the bytes of these with their keys."""
    count = nbytes = 0
    for name, table in holding.tables.items():
        runs = table_layers(history.chain(version.version), name)
        with Layers.open(store, TableLayout.of(holding.schema, name), runs) as layers:
            for group in groups(layers.runs, holding.part(partition), rows=GROUP_ROWS):
                rows = _replace(table, layers, group)
                count, nbytes = count + rows, nbytes + rows * (8 + table.width)
    return count, nbytes


def _replace(table: Table, layers: Layers, buckets: range) -> int:
    found = list(layers.merged(buckets))
    keys = np.concatenate([np.empty(0, np.int64), *(some for some, _ in found)])
    table.replace_buckets(buckets, keys, np.concatenate([np.empty((0, table.width), np.uint8), *(rows for _, rows in found)]))
    return len(keys)


def groups(runs: Sequence[Run], buckets: range, *, rows: int) -> Iterator[range]:
    """Buckets that follow each other and hold about so many rows in these runs; all of them, those that hold nothing as well."""
    held = sum((np.diff(run.offsets[buckets.start : buckets.stop + 1]) for run in runs), np.zeros(len(buckets), np.int64))
    first, found = buckets.start, 0
    for bucket, more in zip(buckets, held.tolist(), strict=True):
        if found and found + more > rows:
            yield range(first, bucket)
            first, found = bucket, 0
        found += more
    if first < buckets.stop:
        yield range(first, buckets.stop)
