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

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.pipeline.core.errors import InvalidInput, Refused
from penstock.pipeline.core.manifest import RunInfo
from penstock.pipeline.core.text_keys import hash_texts
from penstock.pipeline.ports.store import ObjectStore

from . import encoding, packing
from .blocks import Buffers
from .layers import Layers
from .names import NamesFile, same_hash, same_key, write_names
from .ordering import MAX_KEYS, Ordered, ordered
from .row_source import RowSource
from .run_layout import TableLayout
from .run_writing import write_rows, write_tombstones

P = TypeVar("P")
R = TypeVar("R")
BUDGET = 128 << 20
THREADS = 2
"""Stretches of rows that are worked on at a time; they share the budget."""
SAMPLE = 4096
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
    """Rows of a source from number `start`: int64[n] keys, float32[n, dim] values, and n names where keys have them."""

    start: int
    keys: NDArray[np.int64]
    values: NDArray[np.float32]
    names: pa.LargeBinaryArray | None

    def ordered(self, layout: TableLayout) -> Ordered:
        """The keys in the order of a run. `Refused` for one that is there twice, with the texts that it stands for."""
        name = f"table {layout.table}"
        if self.names is None:
            return ordered(self.keys, layout.buckets, name=name)
        try:
            return ordered(self.keys, layout.buckets, name=name)
        except Refused as error:
            raise same_key(self.names, self.keys, layout.table, error) from None

    def names_in(self, order: Ordered) -> pa.LargeBinaryArray | None:
        return None if self.names is None else self.names.take(pa.array(order.order))


def slice_table(
    source: RowSource, layout: TableLayout, store: ObjectStore, prefix: str,
    *, start: int = 0, stop: int | None = None, budget: int = BUDGET,
) -> SlicedTable:  # fmt: skip
    """Rows [start, stop) of `source` as runs under `prefix`, named by their first row, each with its names where keys are texts.

    `Refused`, naming the key: a value that is not finite or does not fit the codec, a key that is there twice, or two texts
    with one hash. Runs written before that stay behind for whoever owns the prefix.
    """
    stop = source.rows if stop is None else stop
    check_source(source, layout, start, stop)
    digests, runs = np.zeros(layout.buckets, np.uint64), []
    free = deque(Buffers() for _ in range(THREADS))

    def write(part: Part) -> tuple[RunInfo, NDArray[np.uint64]]:
        found = part.ordered(layout)
        rows, own, buffers = encoding.of_values(layout, found, part.values), np.zeros_like(digests), free.popleft()
        try:
            info = write_rows(store, prefix, part.start, layout, found, rows, digests=own, buffers=buffers)
        finally:
            free.append(buffers)
        return _named(store, prefix, part.start, layout, info, part.names_in(found)), own

    parts = stretches(source, start, stop, rows_at_once(source, layout, budget))
    for info, own in in_step(write, parts):
        runs.append(info)
        digests += own
    if len(runs) > 1 and source.keys(start, start) is not None:
        check_distinct(store, runs, layout, budget=budget)
    return SlicedTable(tuple(runs), digests)


def slice_rows(
    keys: NDArray[np.int64], rows: NDArray[np.uint8], tombstones: NDArray[np.int64],
    layout: TableLayout, store: ObjectStore, prefix: str, *, number: int = 0, names: pa.LargeBinaryArray | None = None,
) -> SlicedDelta:  # fmt: skip
    """Rows in memory (uint8[n, width], encoded) and tombstones (int64[m]) as at most one run of each, named by `number`; `names`
    (n, null where not known) stand beside the rows, where rows without one are a run of their own.
    `Refused` for a key that is there twice, be it as a row and as a tombstone, and for float32 that are not finite."""
    name = f"table {layout.table}"
    if rows.shape != (len(keys), layout.width) or rows.dtype != np.uint8:
        raise InvalidInput(f"{name}: rows are {rows.dtype}{list(rows.shape)}, not uint8[{len(keys)}, {layout.width}]")
    put, deleted = (ordered(some, layout.buckets, name=name) for some in (keys, tombstones))
    both = np.intersect1d(keys, tombstones, assume_unique=True) if len(tombstones) else tombstones
    if len(both):
        raise Refused(f"{name}: key {both[0]} is there twice, as a row and as a tombstone")
    if names is not None and names.null_count:
        known = names.is_valid().to_numpy(zero_copy_only=False)
        have = slice_rows(
            keys[known], rows[known], tombstones, layout, store, prefix, number=number, names=names.drop_null(),
        )  # fmt: skip
        rest = slice_rows(keys[~known], rows[~known], tombstones[:0], layout, store, f"{prefix}/unnamed", number=number)
        return SlicedDelta(have.runs + rest.runs, have.interval + rest.interval)
    interval, buffers, runs = np.zeros(layout.buckets, np.uint64), Buffers(), []
    if len(keys):
        encoded = encoding.of_encoded(layout, put, np.ascontiguousarray(rows))
        info = write_rows(store, prefix, number, layout, put, encoded, digests=interval, buffers=buffers)
        runs.append(_named(store, prefix, number, layout, info, None if names is None else names.take(pa.array(put.order))))
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
                raise _there_twice(layers, int(keys[twice[0]]))


def _there_twice(layers: Layers, key: int) -> Refused:
    table, wanted = layers.layout.table, np.array([key], np.int64)
    holding = [(run, at) for run in layers.named().runs for at in [run.find(wanted)[0]] if at[0] >= 0]
    if len(holding) < 2:
        return Refused(f"table {table}: key {key} is there twice")
    return same_hash(table, key, (NamesFile(run).checked(at, wanted)[0].as_py() for run, at in holding))


def _named(
    store: ObjectStore, prefix: str, number: int, layout: TableLayout, info: RunInfo, names: pa.LargeBinaryArray | None
) -> RunInfo:
    """The run with its names, which are written beside it."""
    if names is None:
        return info
    return msgspec.structs.replace(info, names=write_names(store, prefix, number, layout.table, names))


def check_source(source: RowSource, layout: TableLayout, start: int, stop: int) -> None:
    if source.dim != layout.dim:
        raise Refused(f"table {layout.table}: rows of {source.dim} values, the table has {layout.dim}")
    if not 0 <= start <= stop <= source.rows:
        raise InvalidInput(f"table {layout.table}: rows {start} to {stop} of {source.rows}")


def rows_at_once(source: RowSource, layout: TableLayout, budget: int) -> int:
    """Names count by the mean of the first ones, as they are and as they are sorted."""
    names = source.names(0, min(source.rows, SAMPLE))
    a_name = 0 if names is None else 2 * -(-names.nbytes // max(1, len(names)))
    return max(1, min(MAX_KEYS, budget // THREADS // (4 * layout.dim + KEY_BYTES + a_name)))


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
    names, values = source.names(start, start + len(out)), source.read(start, out)
    keys = source.keys(start, start + len(out)) if names is None else hash_texts(names)
    if not np.may_share_memory(values, out):
        packing.touch(packing.flat(values))
    return Part(start, np.arange(start, start + len(out)) if keys is None else keys, values, names)
