"""Rows as a run holds them: taken in the run's order, encoded and checked, a stretch at a time. Knows no files.

Values that are NaN or infinite, or that the codec cannot hold, are refused with the key of their row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.errors import Refused

from . import packing
from .ordering import Ordered
from .run_layout import TableLayout


class Changed(NamedTuple):
    """int64[k] rising places, and the rows (uint8[k, width]) that belong there."""

    places: NDArray[np.int64]
    rows: NDArray[np.uint8]


class EncodedRows(Protocol):
    def encode(self, low: int, high: int, target: NDArray[np.uint8]) -> None:
        """Rows [low, high), in the order of the run, into the first bytes of `target`."""

    def changed(self, low: int, high: int, old: NDArray[np.uint8], old_is_there: NDArray[np.bool_]) -> Changed:
        """Which of rows [low, high) are not as in `old` (bytes of as many rows); those that are not there are not."""


@dataclass(frozen=True, slots=True)
class Floats:
    """Rows that are stored as they are: `values` are the bytes of float32 rows, in the order they came in."""

    layout: TableLayout
    ordered: Ordered
    values: NDArray[np.uint8]

    def encode(self, low: int, high: int, target: NDArray[np.uint8]) -> None:
        bad = packing.gather_finite(self.values, self.ordered.order[low:high], self.layout.width, target)
        if bad >= 0:
            raise self._refusal(low + bad)

    def changed(self, low: int, high: int, old: NDArray[np.uint8], old_is_there: NDArray[np.bool_]) -> Changed:
        order, width = self.ordered.order[low:high], self.layout.width
        places = packing.differing_finite(self.values, order, old, old_is_there, width)
        if isinstance(places, int):
            raise self._refusal(low + places)
        return Changed(places, _picked(self.values, order[places], width))

    def _refusal(self, place: int) -> Refused:
        return Refused(f"table {self.layout.table}: key {self.ordered.keys[place]}: holds a NaN or an infinity")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows that are encoded already: `values` are their bytes, in the order they came in."""

    layout: TableLayout
    ordered: Ordered
    values: NDArray[np.uint8]

    def encode(self, low: int, high: int, target: NDArray[np.uint8]) -> None:
        packing.gather(self.values, self.ordered.order[low:high], self.layout.width, target)

    def changed(self, low: int, high: int, old: NDArray[np.uint8], old_is_there: NDArray[np.bool_]) -> Changed:
        return _changed(self, low, high, old, old_is_there, self.layout.width)


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

    def changed(self, low: int, high: int, old: NDArray[np.uint8], old_is_there: NDArray[np.bool_]) -> Changed:
        return _changed(self, low, high, old, old_is_there, self.layout.width)


def of_values(layout: TableLayout, ordered: Ordered, values: NDArray[np.float32]) -> EncodedRows:
    """`values`: float32[n, dim] in C order."""
    kind = Floats if layout.codec == "float32" else Quantized
    return kind(layout, ordered, packing.flat(values))


def of_encoded(layout: TableLayout, ordered: Ordered, rows: NDArray[np.uint8]) -> EncodedRows:
    """`rows`: uint8[n, width] in C order, as the table's codec has encoded them."""
    kind = Floats if layout.codec == "float32" else Encoded
    return kind(layout, ordered, packing.flat(rows))


def _changed(
    rows: EncodedRows, low: int, high: int, old: NDArray[np.uint8], old_is_there: NDArray[np.bool_], width: int
) -> Changed:
    new = np.empty((high - low) * width, np.uint8)
    rows.encode(low, high, new)
    places = packing.differing(new, old, old_is_there, width)
    return Changed(places, _picked(new, places, width))


def _picked(rows: NDArray[np.uint8], order: NDArray[np.integer], width: int) -> NDArray[np.uint8]:
    found = np.empty((len(order), width), np.uint8)
    packing.gather(rows, order, width, packing.flat(found))
    return found
