"""What a version writes to some buckets of a table, read part by part. Knows no table, no partition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.manifest import TableChange
from penstock.pipeline.ports.store import ObjectStore
from penstock.slicer.runs import Run

PART_BYTES = 32 << 20


class Part(NamedTuple):
    """int64[n] keys, and their rows (uint8[n, width]), or None: tombstones."""

    keys: NDArray[np.int64]
    rows: NDArray[np.uint8] | None

    def where(self, mask: NDArray[np.bool_]) -> Part:
        return Part(self.keys[mask], None if self.rows is None else self.rows[mask])

    def split(self, width: int) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
        """Keys put, their rows, keys deleted."""
        nothing = np.empty(0, np.int64)
        if self.rows is None:
            return nothing, np.empty((0, width), np.uint8), self.keys
        return self.keys, self.rows, nothing


def parts(store: ObjectStore, change: TableChange, held: range, *, buckets: int) -> Iterator[Part]:
    """The change in the buckets held, in bounded memory."""
    for info in change.runs:
        with Run.open(store, info, buckets=buckets) as run:
            low, high = int(run.offsets[held.start]), int(run.offsets[held.stop])
            step = max(1, PART_BYTES // (run.layout.frame.width + 8))
            for start in range(low, high, step):
                stop = min(high, start + step)
                yield Part(run.keys_at(start, stop), None if info.kind == "tombstones" else run.rows_at(start, stop))
