"""Texts of any length whose lengths are known before they are read. Knows no format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt, InvalidInput

from ..checkpoint import Array, TensorInfo
from .elements import check_range
from .text_framing import HEAD_BYTES, framed


@dataclass(frozen=True, slots=True)
class ListedTexts:
    """Implements `TextSource`. `lengths` is in bytes, in C order; `fetch` reads the texts [start, stop) of that order."""

    info: TensorInfo
    lengths: NDArray[np.integer]
    fetch: Callable[[int, int], list[bytes]]

    def texts(self, start: int, stop: int) -> pa.LargeBinaryArray:
        if len(self.info.shape) != 1:
            raise InvalidInput(f"tensor {self.info.name} is {self.info.dtype}{list(self.info.shape)}, no list of texts")
        check_range(self.info.shape, start, stop, self.info.name)
        return self._fetched(start, stop)

    def blocks(self, limit_bytes: int) -> Iterator[Array]:
        limit, start = max(1, limit_bytes), 0
        ends = np.cumsum(self.lengths, dtype=np.int64) + HEAD_BYTES * np.arange(1, len(self.lengths) + 1)
        while start < len(ends):
            done = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + limit, "right")))
            flat = framed(self._fetched(start, stop))
            for at in range(0, flat.size, limit):
                yield flat[at : at + limit]
            start = stop

    def _fetched(self, start: int, stop: int) -> pa.LargeBinaryArray:
        found = self.fetch(start, stop)
        if [len(each) for each in found] != self.lengths[start:stop].tolist():
            raise Corrupt(f"tensor {self.info.name}: its texts differ from their lengths")
        return pa.array(found, pa.large_binary())


def texts_bytes(lengths: NDArray[np.integer]) -> int:
    """`TensorInfo.nbytes` of such texts: that of their blocks."""
    return int(lengths.sum(dtype=np.int64)) + HEAD_BYTES * len(lengths)
