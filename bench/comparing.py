"""Comparing a checkpoint of 1 GiB with the runs of the one before, against reading both files."""

from __future__ import annotations

import shutil
import statistics
import subprocess

from penstock.pipeline.ports.local_store import LocalStore
from penstock.slicer.comparison import compare
from penstock.slicer.layers import Layers
from penstock.slicer.slicing import slice_table

from .figures import Figure, alternating, median_ratio
from .tables import GIB_ROWS, LAYOUT, MappedRows, scratch_folder, write_changed, write_table

ROUNDS = 7
SHARE = 0.0308


def run() -> list[Figure]:
    with scratch_folder() as folder:
        old, new, store = folder / "old", folder / "new", LocalStore(folder / "store")
        write_table(old, GIB_ROWS)
        changed = write_changed(new, old, share=SHARE)
        base = slice_table(MappedRows.of(old), LAYOUT, store, "base")
        old.unlink()
        files = [*(folder / "store" / run.path for run in base.runs), new]

        def read() -> None:
            with open("/dev/null", "wb") as nowhere:
                subprocess.run(["cat", *files], check=True, stdout=nowhere)

        def compare_them() -> None:
            with Layers.open(store, LAYOUT, [base.runs]) as layers:
                found = compare(layers, MappedRows.of(new), store, "delta", base_digests=base.digests)
            if found.changes.rows != len(changed):
                raise AssertionError(f"{found.changes.rows} rows differ, {len(changed)} were changed")

        read()
        compare_them()
        shutil.rmtree(folder / "store" / "delta")
        reads, compares = alternating(ROUNDS, read, compare_them)
    peer = f"cat of both, warm: {statistics.median(reads):.3f} s"
    ratio = median_ratio(compares, reads)
    return [Figure("compare 2 x 1 GiB, 3.08 % differ", statistics.median(compares), "s", peer, ratio, "ratio <= 2")]
