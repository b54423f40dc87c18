"""Which keys of a lookup are pooled into one row. Light: an inference service imports it without the replica."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import InvalidInput

Pooling = Literal["sum", "mean"]


@dataclass(frozen=True, slots=True)
class Bags:
    """As in torch's `EmbeddingBag`: bag i has the keys from offsets[i] (int64[bags]) up to offsets[i + 1], the last one up to the
    end. A bag may be empty: zeros. An unknown key counts as what the table gives for it, in the mean too."""

    offsets: NDArray[np.int64]
    pooling: Pooling

    def check(self, table: str, keys: int) -> None:
        """`InvalidInput` unless they share out exactly so many keys."""
        offsets = self.offsets
        if offsets.dtype != np.int64 or offsets.ndim != 1:
            raise InvalidInput(f"table {table}: offsets are {offsets.dtype}{list(offsets.shape)}, need int64[bags]")
        if not offsets.size:
            if keys:
                raise InvalidInput(f"table {table}: {keys} keys and no bag")
            return
        if offsets[0] != 0:
            raise InvalidInput(f"table {table}: the first bag begins at key {offsets[0]}, need 0")
        if (backwards := np.flatnonzero(offsets[1:] < offsets[:-1])).size:
            raise InvalidInput(f"table {table}: bag {backwards[0] + 1} begins before bag {backwards[0]}")
        if offsets[-1] > keys:
            raise InvalidInput(f"table {table}: the last bag begins at key {offsets[-1]} of {keys}")
