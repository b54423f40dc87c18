"""Tables small enough to check row by row, and the stores that runs are written to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock.pipeline.core.hashing import add_puts, add_tombstones
from penstock.pipeline.ports.local_store import LocalStore
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.pipeline.ports.store import ObjectStore
from penstock.slicer.run_layout import TableLayout

Rows = dict[int, bytes]
Digest = Callable[[Rows], NDArray[np.uint64]]


@pytest.fixture(params=["mapped", "ranged"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """A store whose objects can be mapped, and one that is read by ranges."""
    return LocalStore(tmp_path / "store") if request.param == "mapped" else MemoryStore()


@pytest.fixture
def layout() -> TableLayout:
    return TableLayout(table="customer", codec="float32", dim=4, width=16, buckets=16)


@pytest.fixture
def table_digests(layout: TableLayout) -> Digest:
    """uint64[buckets] of a table that is given as a dict from key to encoded row."""

    def digests(table: Rows) -> NDArray[np.uint64]:
        found = np.zeros(layout.buckets, np.uint64)
        keys, rows = np.array(list(table), np.int64), np.frombuffer(b"".join(table.values()), np.uint8)
        add_puts(found, keys, rows.reshape(len(table), -1) if table else np.empty((0, layout.width), np.uint8))
        return found

    return digests


@pytest.fixture
def tombstone_digests(layout: TableLayout) -> Callable[[list[int]], NDArray[np.uint64]]:
    def digests(keys: list[int]) -> NDArray[np.uint64]:
        found = np.zeros(layout.buckets, np.uint64)
        add_tombstones(found, np.array(keys, np.int64))
        return found

    return digests
