"""A delta of 3.08 % of a million rows against MERGE of delta-rs, and against the same rows of a table ten times as large."""

from __future__ import annotations

import statistics
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from numpy.typing import NDArray

from penstock.pipeline.ports.local_store import LocalStore
from penstock.slicer.slicing import slice_rows

from .figures import Figure, alternating, median_ratio
from .tables import DIM, LAYOUT, MappedRows, scratch_folder, write_table

ROWS, SHARE = 1_000_000, 0.0308
ROUNDS = 20
_number = count()


def run() -> list[Figure]:
    with scratch_folder() as folder:
        small, large = folder / "small", folder / "large"
        write_table(small, ROWS)
        write_table(large, 10 * ROWS)
        return [_against_merge(folder, small), _against_size(folder, small, large)]


def _touched(rows: int) -> NDArray[np.int64]:
    return np.random.default_rng(2).choice(rows, round(SHARE * ROWS), replace=False)


def _slice_touched(folder: Path, source: MappedRows, keys: NDArray[np.int64]) -> None:
    """As a delta does it: the touched rows out of the checkpoint, into a durable run."""
    rows = np.ascontiguousarray(source.values[keys])
    slice_rows(keys, rows.view(np.uint8), keys[:0], LAYOUT, LocalStore(folder / "store"), f"delta-{next(_number)}")


def _against_merge(folder: Path, table: Path) -> Figure:
    source = MappedRows.of(table)
    keys = _touched(ROWS)
    schema = pa.schema([pa.field("key", pa.int64()), pa.field("row", pa.list_(pa.float32()))])

    def rows_of(some: NDArray[np.int64]) -> pa.Table:
        values = pa.array(source.values[some].reshape(-1))
        offsets = pa.array(np.arange(0, len(values) + 1, DIM, dtype=np.int32))
        return pa.table([pa.array(some), pa.ListArray.from_arrays(offsets, values)], schema=schema)

    write_deltalake(str(folder / "peer"), rows_of(np.arange(ROWS)))
    changes = rows_of(keys)

    def merge() -> None:
        merging = DeltaTable(str(folder / "peer")).merge(changes, "t.key = s.key", source_alias="s", target_alias="t")
        merging.when_matched_update_all().when_not_matched_insert_all().execute()

    _slice_touched(folder, source, keys)
    merges, slices = alternating(5, merge, lambda: _slice_touched(folder, source, keys))
    peer = f"delta-rs MERGE: {statistics.median(merges):.2f} s"
    ratio = median_ratio(slices, merges)
    return Figure("delta of 30,800 of 1 M rows, durable", statistics.median(slices), "s", peer, ratio, "ratio <= 0.05")


def _against_size(folder: Path, small: Path, large: Path) -> Figure:
    sources = [MappedRows.of(path) for path in (small, large)]
    # Touched rows lie in the page cache of a checkpoint that was just written.
    for source in sources:
        source.values[:, 0].sum()
    keys = _touched(ROWS)
    works = [partial(_slice_touched, folder, source, keys * every) for source, every in zip(sources, (1, 10), strict=True)]
    of_small, of_large = (statistics.median(times) for times in alternating(ROUNDS, *works))
    peer = f"of 1 M rows: {of_small * 1e3:.1f} ms"
    return Figure("delta of 30,800 of 10 M rows, durable", of_large * 1e3, "ms", peer, of_large / of_small, "ratio <= 1.25")
