"""Slices a table into runs: one pass over it, one budget of memory. Knows neither checkpoint formats nor versions.

Each run is half a budget's worth of rows in the order of a run, so nothing is ever sorted as a whole: who reads a range of
buckets takes one stretch of every run. Row ranges can be sliced by different processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import InvalidInput, Refused
from penstock.pipeline.core.manifest import RunInfo
from penstock.pipeline.ports.store import ObjectStore

from . import encoding, packing
from .blocks import Buffers
from .layers import Layers
from .ordering import MAX_KEYS, ordered
from .row_source import RowSource
from .run_layout import TableLayout
from .run_writing import write_rows, write_tombstones

P = TypeVar("P")
R = TypeVar("R")
BUDGET = 128 << 20
THREADS = 2
"""Stretches of rows that are worked on at a time; they share the budget."""
KEY_BYTES = 24
"""What sorting holds a row: its key twice, its place, its bucket."""


@dataclass(frozen=True, slots=True)
class SlicedTable:
    """A table, or a range of its rows, as runs; `digests` (uint64[buckets]) of the rows in them."""

    runs: tuple[RunInfo, ...]
    digests: NDArray[np.uint64]

    @property
    def rows(self) -> int:
        return sum(run.rows for run in self.runs)

    @property
    def bytes(self) -> int:
        return sum(run.bytes for run in self.runs)


@dataclass(frozen=True, slots=True)
class SlicedDelta:
    """Rows and tombstones as runs; `interval` (uint64[buckets]) is the digest of what they write."""

    runs: tuple[RunInfo, ...]
    interval: NDArray[np.uint64]

    @property
    def rows(self) -> int:
        return sum(run.rows for run in self.runs if run.kind == "rows")

    @property
    def tombstones(self) -> int:
        return sum(run.rows for run in self.runs if run.kind == "tombstones")

    @property
    def bytes(self) -> int:
        return sum(run.bytes for run in self.runs)


class Part(NamedTuple):
    """Rows of a source from number `start`: int64[n] keys, float32[n, dim] values."""

    start: int
    keys: NDArray[np.int64]
    values: NDArray[np.float32]


def slice_table(
    source: RowSource, layout: TableLayout, store: ObjectStore, prefix: str,
    *, start: int = 0, stop: int | None = None, budget: int = BUDGET,
) -> SlicedTable:  # fmt: skip
    """Rows [start, stop) of `source` as runs under `prefix`, named by their first row.

    `Refused`, naming the key: a value that is not finite or does not fit the codec, or a key that is there twice. Runs
    written before that stay behind for whoever owns the prefix.
    """
    stop = source.rows if stop is None else stop
    check_source(source, layout, start, stop)
    digests, runs = np.zeros(layout.buckets, np.uint64), []
    free = deque(Buffers() for _ in range(THREADS))

    def write(part: Part) -> tuple[RunInfo, NDArray[np.uint64]]:
        found = ordered(part.keys, layout.buckets, name=f"table {layout.table}")
        rows, own, buffers = encoding.of_values(layout, found, part.values), np.zeros_like(digests), free.popleft()
        try:
            return write_rows(store, prefix, part.start, layout, found, rows, digests=own, buffers=buffers), own
        finally:
            free.append(buffers)

    parts = stretches(source, start, stop, rows_at_once(layout, budget))
    for info, own in in_step(write, parts):
        runs.append(info)
        digests += own
    if len(runs) > 1 and source.keys(start, start) is not None:
        check_distinct(store, runs, layout, budget=budget)
    return SlicedTable(tuple(runs), digests)


def slice_rows(
    keys: NDArray[np.int64], rows: NDArray[np.uint8], tombstones: NDArray[np.int64],
    layout: TableLayout, store: ObjectStore, prefix: str, *, number: int = 0,
) -> SlicedDelta:  # fmt: skip
    """Rows in memory (uint8[n, width], encoded) and tombstones (int64[m]) as at most one run of each, named by `number`.
    `Refused` for a key that is there twice, be it as a row and as a tombstone, and for float32 that are not finite."""
    name = f"table {layout.table}"
    if rows.shape != (len(keys), layout.width) or rows.dtype != np.uint8:
        raise InvalidInput(f"{name}: rows are {rows.dtype}{list(rows.shape)}, not uint8[{len(keys)}, {layout.width}]")
    put, deleted = (ordered(some, layout.buckets, name=name) for some in (keys, tombstones))
    both = np.intersect1d(keys, tombstones, assume_unique=True) if len(tombstones) else tombstones
    if len(both):
        raise Refused(f"{name}: key {both[0]} is there twice, as a row and as a tombstone")
    interval, buffers, runs = np.zeros(layout.buckets, np.uint64), Buffers(), []
    if len(keys):
        encoded = encoding.of_encoded(layout, put, np.ascontiguousarray(rows))
        runs.append(write_rows(store, prefix, number, layout, put, encoded, digests=interval, buffers=buffers))
    if len(tombstones):
        runs.append(write_tombstones(store, prefix, number, layout, deleted, digests=interval, buffers=buffers))
    return SlicedDelta(tuple(runs), interval)


def check_distinct(store: ObjectStore, runs: Sequence[RunInfo], layout: TableLayout, *, budget: int = BUDGET) -> None:
    """`Refused` names a key that stands in two of `runs`, as parts of one table that were sliced apart must not have."""
    with Layers.open(store, layout, [runs]) as layers:
        for stretch in layers.stretches(range(layout.buckets), bytes_a_row=16, budget=budget):
            keys = np.sort(np.concatenate(stretch.keys()))
            twice = np.flatnonzero(keys[1:] == keys[:-1])
            if len(twice):
                raise Refused(f"table {layout.table}: key {keys[twice[0]]} is there twice")


def check_source(source: RowSource, layout: TableLayout, start: int, stop: int) -> None:
    if source.dim != layout.dim:
        raise Refused(f"table {layout.table}: rows of {source.dim} values, the table has {layout.dim}")
    if not 0 <= start <= stop <= source.rows:
        raise InvalidInput(f"table {layout.table}: rows {start} to {stop} of {source.rows}")


def rows_at_once(layout: TableLayout, budget: int) -> int:
    return max(1, min(MAX_KEYS, budget // THREADS // (4 * layout.dim + KEY_BYTES)))


def stretches(source: RowSource, start: int, stop: int, step: int) -> Generator[Part, None, None]:
    """Rows [start, stop), `step` at a time. A part stays as it is while `THREADS - 1` more are asked for. What is mapped is
    brought into memory one stretch ahead."""
    buffers = [np.empty((min(step, stop - start), source.dim), np.float32) for _ in range(THREADS)]
    with ThreadPoolExecutor(1, thread_name_prefix="reading") as reader:
        ahead = reader.submit(_read, source, start, buffers[0])
        for number, low in enumerate(range(start, stop, step)):
            part, left = ahead.result(), stop - low - step
            mapped = not np.may_share_memory(part.values, buffers[number % THREADS])
            following = buffers[(number + 1) % THREADS][: max(left, 0)]
            if mapped and left > 0:
                ahead = reader.submit(_read, source, low + step, following)
            yield part
            if not mapped and left > 0:
                ahead = reader.submit(_read, source, low + step, following)


def in_step(work: Callable[[P], R], parts: Generator[P, None, None]) -> Iterator[R]:
    """The results of `work` in the order of `parts`, `THREADS` under way at a time, so that one fills the pauses of another."""
    running: deque[Future[R]] = deque()
    with closing(parts), ThreadPoolExecutor(THREADS, thread_name_prefix="slicing") as threads:
        for part in parts:
            running.append(threads.submit(work, part))
            if len(running) == THREADS:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _read(source: RowSource, start: int, out: NDArray[np.float32]) -> Part:
    keys, values = source.keys(start, start + len(out)), source.read(start, out)
    if not np.may_share_memory(values, out):
        packing.touch(packing.flat(values))
    return Part(start, np.arange(start, start + len(out)) if keys is None else keys, values)
