"""Rows as a run holds them: taken in the run's order, encoded and checked, a stretch at a time. Knows no files.

Values that are NaN or infinite, or that the codec cannot hold, are refused with the key of their row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.errors import Refused

from . import packing
from .ordering import Ordered
from .run_layout import TableLayout


class EncodedRows(Protocol):
    def encode(self, low: int, high: int, target: NDArray[np.uint8]) -> None:
        """Rows [low, high), in the order of the run, into the first bytes of `target`."""


@dataclass(frozen=True, slots=True)
class Floats:
    """Rows that are stored as they are: `values` are the bytes of float32 rows, in the order they came in."""

    layout: TableLayout
    ordered: Ordered
    values: NDArray[np.uint8]

    def encode(self, low: int, high: int, target: NDArray[np.uint8]) -> None:
        bad = packing.gather_finite(self.values, self.ordered.order[low:high], self.layout.width, target)
        if bad >= 0:
            raise Refused(f"table {self.layout.table}: key {self.ordered.keys[low + bad]}: holds a NaN or an infinity")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows that are encoded already: `values` are their bytes, in the order they came in."""

    layout: TableLayout
    ordered: Ordered
    values: NDArray[np.uint8]

    def encode(self, low: int, high: int, target: NDArray[np.uint8]) -> None:
        packing.gather(self.values, self.ordered.order[low:high], self.layout.width, target)


@dataclass(frozen=True, slots=True)
class Quantized:
    """Rows that go through the table's codec: `values` are the bytes of float32 rows, in the order they came in."""

    layout: TableLayout
    ordered: Ordered
    values: NDArray[np.uint8]

    def encode(self, low: int, high: int, target: NDArray[np.uint8]) -> None:
        layout, keys = self.layout, self.ordered.keys
        rows = np.empty((high - low, layout.dim), np.float32)
        packing.gather(self.values, self.ordered.order[low:high], 4 * layout.dim, packing.flat(rows))
        found = codec(layout.codec).encode(rows, row_name=lambda i: f"table {layout.table}: key {keys[low + i]}")
        target[: (high - low) * layout.width] = packing.flat(found)


def of_values(layout: TableLayout, ordered: Ordered, values: NDArray[np.float32]) -> EncodedRows:
    """`values`: float32[n, dim] in C order."""
    kind = Floats if layout.codec == "float32" else Quantized
    return kind(layout, ordered, packing.flat(values))


def of_encoded(layout: TableLayout, ordered: Ordered, rows: NDArray[np.uint8]) -> EncodedRows:
    """`rows`: uint8[n, width] in C order, as the table's codec has encoded them."""
    kind = Floats if layout.codec == "float32" else Encoded
    return kind(layout, ordered, packing.flat(rows))
