"""Compares a table with layers of runs: what has changed becomes a delta. Reads both once, in bounded memory.

The new side is taken a stretch of rows at a time, in the order of a run; then the same keys of every run of the base are in
the same order, too. A table with row numbers as keys is compared where it is. One with keys of its own that does not fit
the budget may have them in any order: it is sliced first, and compared stretch by stretch with what came out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.pipeline.core.manifest import RunInfo
from penstock.pipeline.ports.store import ObjectStore

from . import encoding, packing
from .encoding import EncodedRows
from .layers import Layers
from .names import Names
from .ordering import OPEN, Ordered, locate, ordered
from .row_source import RowSource
from .slicing import BUDGET, THREADS, SlicedDelta, check_source, in_step, rows_at_once, slice_rows, slice_table, stretches

STRETCH = 1 << 20
"""Bytes that are compared at once."""
Keys = NDArray[np.int64]


class Batch(NamedTuple):
    """A part of the new table: its keys in the order of a run, their rows, and their names where keys are texts."""

    asked: Ordered
    rows: EncodedRows
    names: pa.LargeBinaryArray | None


Batches = Generator[Batch, None, None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What makes the base into the new table, and the digests (uint64[buckets]) of both as a whole."""

    changes: SlicedDelta
    base: NDArray[np.uint64]
    state: NDArray[np.uint64]


def compare(
    base: Layers, source: RowSource, store: ObjectStore, prefix: str,
    *, base_digests: NDArray[np.uint64] | None = None, budget: int = BUDGET,
) -> Comparison:  # fmt: skip
    """Writes the rows of `source` that differ from those of `base`, and tombstones of keys that it no longer has, as runs
    under `prefix`. Without `base_digests` (uint64[buckets], of the table) the base is read once more to compute them.

    `Refused`, naming the key: a value that is not finite or does not fit the codec, a key that is there twice, or a text with
    the hash of another one, in the base or in the new table. A row whose key the base has no name for counts as changed.
    """
    check_source(source, base.layout, 0, source.rows)
    before = base.digests(budget=budget) if base_digests is None else base_digests
    changes, names = _Changes(base, store, prefix, budget // 8), Names(base)
    with _new_side(source, base, store, prefix, budget) as new:
        lived = sum(in_step(lambda batch: _compare_batch(base, names, batch, changes), new.batches))
        if lived < base.count():
            for keys in base.merged_keys(budget=budget):
                changes.delete(keys[~new.has(keys)])
    changes.write()
    return Comparison(SlicedDelta(tuple(changes.runs), changes.interval), before, before + changes.difference)


class _Changes:
    """Takes what differs, from several threads, and writes a run whenever `most` bytes have come together."""

    def __init__(self, base: Layers, store: ObjectStore, prefix: str, most: int) -> None:
        self._base = base
        self._store = store
        self._prefix = prefix
        self._most = most
        self._lock = threading.Lock()
        self._keys: list[Keys] = []
        self._rows: list[NDArray[np.uint8]] = []
        self._names: list[pa.LargeBinaryArray] = []
        self._gone: list[Keys] = []
        self._held = 0
        self.runs: list[RunInfo] = []
        self.interval = np.zeros(base.layout.buckets, np.uint64)
        self.difference = np.zeros(base.layout.buckets, np.uint64)
        """What the table digests change by."""

    def put(self, keys: Keys, rows: NDArray[np.uint8], names: pa.LargeBinaryArray | None) -> None:
        with self._lock:
            packing.add_puts(keys, packing.flat(rows), self._base.layout.width, self.difference)
            self._keys.append(keys)
            self._rows.append(rows)
            if names is not None:
                self._names.append(names)
            self._hold(keys.nbytes + rows.nbytes + (0 if names is None else names.nbytes))

    def replace(self, keys: Keys, rows: NDArray[np.uint8]) -> None:
        """These rows of the base are not in the new table."""
        before = np.zeros_like(self.difference)
        packing.add_puts(keys, packing.flat(rows), self._base.layout.width, before)
        with self._lock:
            self.difference -= before

    def delete(self, keys: Keys) -> None:
        step = max(1, self._most // self._base.layout.width)
        for low in range(0, len(keys), step):
            some = keys[low : low + step]
            self.replace(some, self._base.find(some)[0])
            with self._lock:
                self._gone.append(some)
                self._hold(some.nbytes)

    def write(self) -> None:
        """Writes what is held."""
        layout, none = self._base.layout, np.empty(0, np.int64)
        keys, gone = np.concatenate([none, *self._keys]), np.concatenate([none, *self._gone])
        rows = np.concatenate([np.empty((0, layout.width), np.uint8), *self._rows])
        names = pa.concat_arrays(self._names) if self._names else None
        written = slice_rows(keys, rows, gone, layout, self._store, self._prefix, number=len(self.runs), names=names)
        self.runs += written.runs
        self.interval += written.interval
        self._keys, self._rows, self._names, self._gone, self._held = [], [], [], [], 0

    def _hold(self, count: int) -> None:
        self._held += count
        if self._held >= self._most:
            self.write()


@dataclass(frozen=True, slots=True)
class _NewSide:
    """The new table in batches, and which of some keys (int64[n], in the order of a run) it has (bool[n])."""

    batches: Batches
    has: Callable[[Keys], NDArray[np.bool_]]


@contextmanager
def _new_side(source: RowSource, base: Layers, store: ObjectStore, prefix: str, budget: int) -> Iterator[_NewSide]:
    layout = base.layout
    by_number, step = source.keys(0, 0) is None, rows_at_once(source, layout, budget)
    if by_number or source.rows <= step:
        seen = [ordered(np.empty(0, np.int64), layout.buckets, name=layout.table)]

        def has(keys: Keys) -> NDArray[np.bool_]:
            if by_number:
                return (keys >= 0) & (keys < source.rows)
            which, positions = np.full(len(keys), OPEN, np.int32), np.empty(len(keys), np.int64)
            locate(seen[0].keys, seen[0].offsets, ordered(keys, layout.buckets, name=layout.table), which, positions, 0)
            return np.not_equal(which, OPEN)

        def batches() -> Batches:
            with closing(stretches(source, 0, source.rows, step)) as parts:
                for part in parts:
                    asked = part.ordered(layout)
                    seen[:] = [asked]
                    yield Batch(asked, encoding.of_values(layout, asked, part.values), part.names_in(asked))

        yield _NewSide(batches(), has)
        return
    try:
        sliced = slice_table(source, layout, store, f"{prefix}/staged", budget=budget)
        with Layers.open(store, layout, [sliced.runs]) as staged:
            named = Names(staged) if source.names(0, 0) is not None else None
            blocks = _blocks(staged, named, budget // THREADS)
            yield _NewSide(blocks, lambda keys: staged.resolve(ordered(keys, layout.buckets, name=layout.table))[0] >= 0)
    finally:
        for entry in list(store.list(f"{prefix}/staged/")):
            store.delete(entry.key)


def _blocks(staged: Layers, names: Names | None, budget: int) -> Batches:
    for keys, rows in staged.merged(budget=budget):
        asked = ordered(keys, staged.layout.buckets, name=f"table {staged.layout.table}")
        yield Batch(asked, encoding.of_encoded(staged.layout, asked, rows), None if names is None else names.of(asked))


def _compare_batch(base: Layers, base_names: Names, batch: Batch, changes: _Changes) -> int:
    """How many of the keys the base has, too."""
    asked, rows, names = batch
    which, positions = base.resolve(asked)
    there = which >= 0
    # A row that came without its name, by the log alone, is written again with it.
    same = there if names is None else there & base_names.known(asked, names)
    width = base.layout.width
    step = max(1, STRETCH // width)
    buffer = np.empty(step * width, np.uint8)
    for low in range(0, len(asked.keys), step):
        high = min(low + step, len(asked.keys))
        old = base.rows_of(which[low:high], positions[low:high], buffer)
        changed = rows.changed(low, high, old, same[low:high])
        if len(changed.places):
            keys = asked.keys[low:high]
            found = None if names is None else names.take(pa.array(low + changed.places))
            changes.put(keys[changed.places], changed.rows, found)
            replaced = changed.places[there[low:high][changed.places]]
            changes.replace(keys[replaced], old.reshape(-1, width)[replaced])
    return int(np.count_nonzero(there))
