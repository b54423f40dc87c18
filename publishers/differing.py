"""What makes one table of runs into another: the rows that differ, and tombstones of the keys that are gone. Both are encoded
already, so bytes are compared, and nothing goes through a codec."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.pipeline.ports.store import ObjectStore
from penstock.slicer.layers import Layers
from penstock.slicer.names import Names
from penstock.slicer.ordering import Ordered, ordered
from penstock.slicer.slicing import slice_rows

from .commits import Collected

BLOCK_BYTES = 32 << 20
WRITE_AT_BYTES = 64 << 20
"""What differs is written once this much has come together."""


def difference(base: Layers, new: Layers, store: ObjectStore, prefix: str) -> Collected:
    """The runs under `prefix` that turn `base` into `new`, and the digests of what they write. `Refused`: a text in `new` has the
    hash of another one in `base`."""
    layout, found = base.layout, Collected(base.layout.buckets)
    keys: list[NDArray[np.int64]] = []
    rows: list[NDArray[np.uint8]] = []
    gone: list[NDArray[np.int64]] = []
    names: list[pa.LargeBinaryArray] = []
    base_names, new_names = Names(base), Names.among(new)

    def write(at_least: int) -> None:
        if sum(part.nbytes for parts in (keys, rows, gone) for part in parts) >= at_least:
            written = slice_rows(
                np.concatenate([np.empty(0, np.int64), *keys]),
                np.concatenate([np.empty((0, layout.width), np.uint8), *rows]),
                np.concatenate([np.empty(0, np.int64), *gone]),
                layout, store, prefix, number=len(found.runs), names=pa.concat_arrays(names) if names else None,
            )  # fmt: skip
            found.add(written.runs, written.interval)
            for parts in (keys, rows, gone, names):
                parts.clear()

    for some, data in new.merged(budget=BLOCK_BYTES):
        asked = _asked(base, some)
        which, positions = base.resolve(asked)
        old = base.rows_of(which, positions, np.zeros(data.size, np.uint8)).reshape(data.shape)
        differs = (which < 0) | (data != old).any(axis=1)
        if new_names is not None:
            here = new_names.of(asked)
            differs |= ~base_names.known(asked, here)
            names.append(here.filter(pa.array(differs)))
        picked = np.flatnonzero(differs)
        keys.append(some[picked])
        rows.append(data[picked])
        write(WRITE_AT_BYTES)
    for some in base.merged_keys(budget=BLOCK_BYTES):
        gone.append(some[new.resolve(_asked(new, some))[0] < 0])
        write(WRITE_AT_BYTES)
    write(1)
    return found


def _asked(layers: Layers, keys: NDArray[np.int64]) -> Ordered:
    return ordered(keys, layers.layout.buckets, name=f"table {layers.layout.table}")
