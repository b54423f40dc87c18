"""Writes a run in one pass, its rows from wherever they are. Knows neither checkpoints nor versions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.hashing import add_tombstones
from penstock.pipeline.core.manifest import RunInfo
from penstock.pipeline.ports.store import ObjectStore

from . import packing
from .blocks import Buffers, streaming
from .encoding import EncodedRows
from .ordering import Ordered
from .run_layout import Kind, RunLayout, TableLayout, planned, run_key

STRETCH = 1 << 19
"""Bytes that are gathered, checked and hashed at once: they stay in the cache between the steps."""


def write_rows(
    store: ObjectStore, prefix: str, number: int, layout: TableLayout, ordered: Ordered, rows: EncodedRows,
    *, digests: NDArray[np.uint64], buffers: Buffers,
) -> RunInfo:  # fmt: skip
    """A run of rows; adds their hashes to `digests` (uint64[buckets])."""
    run = _planned(layout, "rows", ordered)
    own = np.zeros(layout.buckets, np.uint64)
    key, width = run_key(prefix, layout.table, "rows", number), layout.width
    step = max(1, STRETCH // width)
    with streaming(store, key, run.frame.size, buffers) as stream:
        stream.append(run.frame.head)
        stream.append(ordered.keys.view(np.uint8))
        stream.append(bytes(run.frame.rows_at - stream.position))
        low = 0
        while low < run.rows:
            room = stream.room()
            high = min(run.rows, low + step, low + len(room) // width)
            rows.encode(low, high, room)
            packing.add_puts(ordered.keys[low:high], room, width, own)
            stream.advance((high - low) * width)
            low = high
        stream.append(bytes(run.frame.tail_at - stream.position) + run.frame.tail)
    digests += own
    return _info(key, run, own)


def write_tombstones(
    store: ObjectStore, prefix: str, number: int, layout: TableLayout, ordered: Ordered,
    *, digests: NDArray[np.uint64], buffers: Buffers,
) -> RunInfo:  # fmt: skip
    """A run of keys; adds the hashes of their deletion to `digests` (uint64[buckets])."""
    run = _planned(layout, "tombstones", ordered)
    own = np.zeros(layout.buckets, np.uint64)
    add_tombstones(own, ordered.keys)
    key = run_key(prefix, layout.table, "tombstones", number)
    with streaming(store, key, run.frame.size, buffers) as stream:
        stream.append(run.frame.head)
        stream.append(ordered.keys.view(np.uint8))
        stream.append(bytes(run.frame.tail_at - stream.position) + run.frame.tail)
    digests += own
    return _info(key, run, own)


def digest_hex(digests: NDArray[np.uint64]) -> str:
    """16 hex digits: the sum over all buckets, which is the digest of a run as a whole."""
    return f"{int(digests.sum(dtype=np.uint64)):016x}"


def _planned(layout: TableLayout, kind: Kind, ordered: Ordered) -> RunLayout:
    return planned(layout, kind, ordered.offsets, int(ordered.keys.min()), int(ordered.keys.max()))


def _info(key: str, run: RunLayout, digests: NDArray[np.uint64]) -> RunInfo:
    return RunInfo(path=key, kind=run.kind, rows=run.rows, bytes=run.frame.size, digest=digest_hex(digests))
