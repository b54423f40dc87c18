"""Where the rows of a table come from: a checkpoint's tensors, or arrays in memory. The port that slicing reads through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Refused
from penstock.pipeline.core.text_keys import hash_texts

Keys = NDArray[np.int64]
Rows = NDArray[np.float32]


class RowSource(Protocol):
    """A table of `rows` rows of `dim` values. It is read front to back, a stretch at a time, from one thread at a time."""

    @property
    def rows(self) -> int: ...

    @property
    def dim(self) -> int: ...

    def keys(self, start: int, stop: int) -> NDArray[np.int64] | None:
        """int64[stop - start]; None where the row number is the key."""

    def names(self, start: int, stop: int) -> pa.LargeBinaryArray | None:
        """The texts that `keys` are the hashes of; None where keys are numbers."""

    def read(self, start: int, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rows from `start`, as many as `out` (float32[n, dim], C order) has: a view where they can be mapped as they
        are, which stays as it is while it is referred to; else `out`, filled."""


@dataclass(frozen=True, slots=True)
class ArraySource:
    """A table in memory: `values` float32[n, dim], `row_keys` int64[n], or None where the row number is the key; `row_names` are
    the texts that the keys are the hashes of, where they are."""

    values: NDArray[np.float32]
    row_keys: NDArray[np.int64] | None = None
    row_names: pa.LargeBinaryArray | None = None

    @classmethod
    def named(cls, values: NDArray[np.float32], names: pa.LargeBinaryArray) -> ArraySource:
        return cls(values, hash_texts(names), names)

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype != np.float32:
            raise Refused(f"rows are {self.values.dtype}{list(self.values.shape)}, not float32[rows, dim]")
        if self.row_keys is not None and (self.row_keys.dtype != np.int64 or self.row_keys.shape != self.values.shape[:1]):
            raise Refused(f"keys are {self.row_keys.dtype}{list(self.row_keys.shape)}, not int64[{len(self.values)}]")

    @property
    def rows(self) -> int:
        return len(self.values)

    @property
    def dim(self) -> int:
        return int(self.values.shape[1])

    def keys(self, start: int, stop: int) -> NDArray[np.int64] | None:
        return None if self.row_keys is None else self.row_keys[start:stop]

    def names(self, start: int, stop: int) -> pa.LargeBinaryArray | None:
        return None if self.row_names is None else self.row_names.slice(start, stop - start)

    def read(self, start: int, out: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(self.values[start : start + len(out)])
