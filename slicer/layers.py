"""A table as layers of runs, oldest first: in each layer a key stands at most once, the newest layer that has a key counts,
a tombstone deletes. Streams the table as it is, or finds keys in it. Knows no versions: who opens the layers does.

Streaming goes through stretches of the common order that fit a budget: whole buckets, or parts of one that alone does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.manifest import RunInfo
from penstock.pipeline.ports.store import ObjectStore

from . import packing
from .merging import Listed, merged
from .ordering import OPEN, Ordered, ordered
from .run_layout import TableLayout
from .runs import Run
from .stretches import Stretch, stretches

BUDGET = 128 << 20
OPENERS = 8
_DELETED = -2


class Block(NamedTuple):
    """A part of a table: int64[n] keys in the order of a run, and their rows (uint8[n, width])."""

    keys: NDArray[np.int64]
    rows: NDArray[np.uint8]


class Layers:
    """Open layers; safe to read from several threads."""

    def __init__(self, layout: TableLayout, layers: Sequence[Sequence[Run]]) -> None:
        self.layout = layout
        self._layers = layers
        self.runs = tuple(run for layer in reversed(layers) for run in layer)
        """Newest first."""
        self._layer_of = [number for number in reversed(range(len(layers))) for _ in layers[number]]
        self._puts = np.array([run.layout.kind == "rows" for run in self.runs], np.bool_)

    @classmethod
    def open(cls, store: ObjectStore, layout: TableLayout, layers: Sequence[Sequence[RunInfo]]) -> Layers:
        """`layers` oldest first. Errors as of `Run.open`."""

        def opened(info: RunInfo) -> Run:
            return Run.open(store, info, buckets=layout.buckets, layout=layout)

        with ThreadPoolExecutor(OPENERS) as threads:
            return cls(layout, [list(threads.map(opened, layer)) for layer in layers])

    def __enter__(self) -> Layers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for run in self.runs:
            run.__exit__(kind, error, trace)

    def named(self) -> Layers:
        """The same runs, but for those whose keys were written without names. They stay open as long as these do."""
        return Layers(self.layout, [[run for run in layer if run.info.names is not None] for layer in self._layers])

    def stretches(self, buckets: range, *, bytes_a_row: int, budget: int) -> Iterator[Stretch]:
        """Stretches of all runs that together hold these buckets, in order; each of about `budget` bytes at most."""
        return stretches(self.runs, buckets, rows=max(1, budget // bytes_a_row))

    def merged(self, buckets: range | None = None, *, budget: int = BUDGET) -> Iterator[Block]:
        """The rows that count, in the order of a run, about `budget` bytes of memory at a time."""
        bytes_a_row = 2 * self.layout.width + 48
        for stretch in self.stretches(self._all(buckets), bytes_a_row=bytes_a_row, budget=budget):
            yield self._block(stretch)

    def merged_keys(self, buckets: range | None = None, *, budget: int = BUDGET) -> Iterator[NDArray[np.int64]]:
        """As `merged`, the keys alone."""
        for stretch in self.stretches(self._all(buckets), bytes_a_row=48, budget=budget):
            yield self._listed(stretch).keys

    def find(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """uint8[n, width] rows of `keys` in any order (zeros where there is none), and bool[n] which are there."""
        distinct, back = np.unique(keys, return_inverse=True)
        asked = ordered(distinct, self.layout.buckets, name=self.layout.table)
        which, positions = self.resolve(asked)
        rows = np.zeros((len(distinct), self.layout.width), np.uint8)
        for number in np.unique(which[which >= 0]):
            at = np.flatnonzero(which == number)
            rows[asked.order[at]] = self.runs[number].take(positions[at])
        found = np.empty(len(distinct), np.bool_)
        found[asked.order] = which >= 0
        return rows[back], found[back]

    def gather(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.bool_]]:
        """Distinct `keys` in the order of a run, with uint8[n, width] rows (of no meaning where there is none), and bool[n] which
        are there. A row is copied once if all of them are in one run."""
        asked = ordered(keys, self.layout.buckets, name=self.layout.table)
        which, positions = self.resolve(asked)
        there = which >= 0
        if len(which) and there.all() and (which == which[0]).all():
            return asked.keys, self.runs[which[0]].take(positions), there
        rows = np.empty((len(which), self.layout.width), np.uint8)
        for number in np.flatnonzero(np.bincount(which[there])):
            at = np.flatnonzero(which == number)
            rows[at] = self.runs[number].take(positions[at])
        return asked.keys, rows, there

    def resolve(self, asked: Ordered, *, below: int | None = None) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Which of `runs` holds the row of each key that counts (int32[n]; -1: none does) and at what position (int64[n]).
        With `below` only the layers before that number are asked."""
        which, positions = np.full(len(asked.keys), OPEN, np.int32), np.full(len(asked.keys), -1, np.int64)
        left = len(asked.keys)
        first, last = (int(asked.keys.min()), int(asked.keys.max())) if left else (0, 0)
        for number, run in enumerate(self.runs):
            if left and (below is None or self._layer_of[number] < below) and run.span[0] <= last and run.span[1] >= first:
                left -= run.locate(asked, which, positions, number if self._puts[number] else _DELETED)
        which[which == _DELETED] = -1
        return which, positions

    def rows_of(self, which: NDArray[np.int32], positions: NDArray[np.int64], out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The rows (bytes) that `resolve` has found for a stretch of keys in the order of a run: in `out`, or as they are
        mapped where they are next to each other. What stands where nothing was found is of no meaning."""
        width, low, high = self.layout.width, int(positions[0]), int(positions[-1]) + 1
        if high - low == len(which) and which[0] >= 0 and (which == which[0]).all():
            return packing.flat(self.runs[which[0]].rows_at(low, high))
        for number in np.unique(which[which >= 0]):
            places = np.flatnonzero(which == number)
            low, high = int(positions[places[0]]), int(positions[places[-1]]) + 1
            source = packing.flat(self.runs[number].rows_at(low, high))
            packing.scatter(source, positions[places] - low, places, width, out)
        return out

    def count(self) -> int:
        """How many rows there are; costs what the layers above the first one hold."""
        total = 0
        for number, layer in enumerate(self._layers):
            for run in layer:
                if number == 0:
                    total += run.layout.rows if run.layout.kind == "rows" else 0
                    continue
                keys = run.keys()
                which, _ = self.resolve(Ordered(keys, np.arange(len(keys), dtype=np.int32), run.offsets), below=number)
                lived = int(np.count_nonzero(which >= 0))
                total += len(keys) - lived if run.layout.kind == "rows" else -lived
        return total

    def digests(self, *, budget: int = BUDGET) -> NDArray[np.uint64]:
        """uint64[buckets] of the table; reads all of it."""
        found = np.zeros(self.layout.buckets, np.uint64)
        for keys, rows in self.merged(budget=budget):
            packing.add_puts(keys, packing.flat(rows), self.layout.width, found)
        return found

    def _all(self, buckets: range | None) -> range:
        return range(self.layout.buckets) if buckets is None else buckets

    def _listed(self, stretch: Stretch) -> Listed:
        lists = [Listed.of(run.keys_at(low, high), number, low) for number, run, low, high in stretch.parts()]
        found = merged(lists, self.layout.buckets)
        puts = self._puts[found.runs]
        return found if puts.all() else Listed(found.keys[puts], found.references[puts])

    def _block(self, stretch: Stretch) -> Block:
        parts = list(stretch.parts())
        if len(parts) == 1 and self._puts[parts[0][0]]:
            (_, run, low, high) = parts[0]
            return Block(run.keys_at(low, high), run.rows_at(low, high))
        found, width = self._listed(stretch), self.layout.width
        rows = np.empty((len(found.keys), width), np.uint8)
        runs = found.runs.astype(np.uint16 if len(self.runs) < 2**16 else np.int32)
        by_run = np.argsort(runs, kind="stable")
        ends = np.cumsum(np.bincount(runs, minlength=len(self.runs)))
        for number, run, low, high in parts:
            places = by_run[ends[number - 1] if number else 0 : ends[number]]
            if len(places):
                source = packing.flat(run.rows_at(low, high))
                packing.scatter(source, found.positions[places] - low, places, width, packing.flat(rows))
        return Block(found.keys, rows)
