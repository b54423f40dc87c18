"""Lists of keys in the store, as runs without rows; and the keys of any run. Knows no checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.manifest import RunInfo
from penstock.pipeline.core.schema import ModelSchema
from penstock.pipeline.ports.store import ObjectStore
from penstock.slicer.blocks import Buffers
from penstock.slicer.ordering import ordered
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.run_writing import write_tombstones
from penstock.slicer.runs import Run

KEYS_AT_ONCE = 1 << 20


def write_keys(store: ObjectStore, schema: ModelSchema, table: str, keys: NDArray[np.int64], prefix: str) -> RunInfo:
    """Distinct keys of one table, int64[n] with n > 0 in any order, as one run under `prefix`."""
    layout = TableLayout.of(schema, table)
    found = ordered(keys, schema.buckets, name=f"table {table}")
    digests = np.zeros(schema.buckets, np.uint64)
    return write_tombstones(store, prefix, 0, layout, found, digests=digests, buffers=Buffers())


def read_keys(store: ObjectStore, schema: ModelSchema, table: str, run: RunInfo) -> Iterator[NDArray[np.int64]]:
    """The keys of a run, of whatever kind, a bounded number at a time."""
    with Run.open(store, run, buckets=schema.buckets, layout=TableLayout.of(schema, table)) as opened:
        for low in range(0, run.rows, KEYS_AT_ONCE):
            yield opened.keys_at(low, min(run.rows, low + KEYS_AT_ONCE))
