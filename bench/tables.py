"""Tables for benches: raw files of float32 rows that are mapped, as a checkpoint's tensors are."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.slicer.run_layout import TableLayout

DIM = 32
LAYOUT = TableLayout(table="bench", codec="float32", dim=DIM, width=4 * DIM, buckets=256)
GIB_ROWS = (1 << 30) // (4 * DIM)
_PART = 1 << 18


@dataclass(frozen=True, slots=True)
class MappedRows:
    """A `RowSource` over a file of rows; the row number is the key."""

    values: NDArray[np.float32]

    @classmethod
    def of(cls, path: Path) -> MappedRows:
        return cls(np.memmap(path, np.float32, "r").reshape(-1, DIM))

    @property
    def rows(self) -> int:
        return len(self.values)

    @property
    def dim(self) -> int:
        return DIM

    def keys(self, start: int, stop: int) -> None:
        return None

    def names(self, start: int, stop: int) -> None:
        return None

    def read(self, start: int, out: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(self.values[start : start + len(out)])


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """On the disk that TMPDIR names."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        yield Path(folder)


def write_table(path: Path, rows: int, *, seed: int = 0) -> None:
    """Random rows; every part of a file has other values, at the price of one part's random numbers."""
    part = np.random.default_rng(seed).standard_normal((min(rows, _PART), DIM), dtype=np.float32)
    with path.open("wb") as file:
        for low in range(0, rows, _PART):
            part[:, 0] = np.float32(low)
            file.write(part[: rows - low].data)


def write_changed(path: Path, whole: Path, *, share: float, seed: int = 1) -> NDArray[np.int64]:
    """A copy of a table in which this share of the rows differs; which ones."""
    values = np.array(MappedRows.of(whole).values)
    changed = np.sort(np.random.default_rng(seed).choice(len(values), round(share * len(values)), replace=False))
    values[changed, 1] += 1
    path.write_bytes(values.data)
    return changed
