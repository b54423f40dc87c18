"""The rows of a table at a moment, and runs of them: of the keys that are asked for, and of no others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.hashing import add_puts
from penstock.pipeline.core.history import History, table_layers
from penstock.pipeline.core.manifest import Manifest, RunInfo, TableChange
from penstock.pipeline.core.records import NO_KEYS
from penstock.pipeline.environment import Environment
from penstock.slicer.fold import Written
from penstock.slicer.layers import Layers
from penstock.slicer.names import Names
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.slicing import slice_rows

Keys = NDArray[np.int64]
CHUNK_KEYS = 1 << 20
"""Keys that are looked up and written at a time."""


@dataclass(frozen=True, slots=True)
class TableAt:
    """A table at a moment: the chain of a version, and what was written since."""

    layers: Layers
    written: Written | None

    def parts(self, keys: Keys) -> Iterator[Written]:
        """The rows of sorted distinct `keys`, in parts; those that it has none of as tombstones."""
        if self.written is not None:
            at, put = _positions(self.written.keys, keys)
            gone = _positions(self.written.tombstones, keys)[1]
            if len(at) or gone.any():
                yield Written(keys[put], self.written.rows[at], keys[gone])
                keys = keys[~(put | gone)]
        if len(keys):
            yield _found(self.layers, keys)


@dataclass(frozen=True, slots=True)
class Difference:
    """Exchanges in `digests` (uint64[buckets]) the rows of `before` for others of the same keys."""

    before: Layers
    digests: NDArray[np.uint64]

    def exchange(self, after: Written) -> None:
        before, removed = _found(self.before, np.concatenate([after.keys, after.tombstones])), np.zeros_like(self.digests)
        add_puts(removed, before.keys, before.rows)
        np.subtract(self.digests, removed, out=self.digests)
        add_puts(self.digests, after.keys, after.rows)


def write_runs(
    env: Environment,
    table: str,
    folder: str,
    keys: Keys,
    at: TableAt,
    difference: Difference | None = None,
    names: Names | None = None,
) -> TableChange:
    """Runs below `folder` of sorted distinct `keys` as they were `at` a moment; what that changes goes into `difference`."""
    layout, runs, interval = TableLayout.of(env.schema, table), list[RunInfo](), np.zeros(env.schema.buckets, np.uint64)
    chunks = (keys[low : low + CHUNK_KEYS] for low in range(0, len(keys), CHUNK_KEYS))
    for number, found in enumerate(part for chunk in chunks for part in at.parts(chunk)):
        known = None if names is None else names.of_keys(found.keys)
        sliced = slice_rows(
            found.keys, found.rows, found.tombstones, layout, env.catalog.store, folder, number=number, names=known
        )
        runs += sliced.runs
        interval += sliced.interval
        if difference is not None:
            difference.exchange(found)
    return TableChange(runs=tuple(runs), interval=DigestVector.of(interval))


def chain_layers(env: Environment, history: History, version: Manifest, table: str) -> AbstractContextManager[Layers]:
    """The chain of one table of a version, for point reads and streams."""
    runs = table_layers(history.chain(version.version), table)
    return Layers.open(env.catalog.store, TableLayout.of(env.schema, table), runs)


def _found(layers: Layers, keys: Keys) -> Written:
    keys, rows, there = layers.gather(keys)
    if there.all():
        return Written(keys, rows, NO_KEYS)
    return Written(keys[there], rows[there], keys[~there])


def _positions(sorted_keys: Keys, wanted: Keys) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Where the wanted keys stand among the sorted ones: positions of those that do, and which do."""
    if not len(sorted_keys):
        return np.empty(0, np.intp), np.zeros(len(wanted), np.bool_)
    at = np.minimum(np.searchsorted(sorted_keys, wanted), len(sorted_keys) - 1)
    hit = sorted_keys[at] == wanted
    return at[hit], hit
