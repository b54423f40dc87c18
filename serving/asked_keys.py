"""Keys as a caller of the client gives them: numbers, or texts, which are hashed here. Light: only texts load a compiler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.pipeline.core.errors import InvalidInput

Asked: TypeAlias = NDArray[np.generic] | Sequence[int] | Sequence[str] | Sequence[bytes] | pa.Array | pa.ChunkedArray


class AskedKeys(NamedTuple):
    """int64[n], and whether they are the hashes of texts."""

    keys: NDArray[np.int64]
    hashed: bool


def asked_keys(table: str, given: Asked) -> AskedKeys:
    """Integers or texts in numpy, Arrow or a list. `InvalidInput`: they are neither, or not in one dimension."""
    if _are_texts(given):
        from penstock.pipeline.core.text_keys import hash_texts

        return AskedKeys(hash_texts(given), True)
    numbers = given.to_numpy(zero_copy_only=False) if isinstance(given, pa.Array) else np.asarray(given)
    if numbers.ndim != 1:
        raise InvalidInput(f"table {table}: keys of shape {numbers.shape}, one dimension is needed")
    if numbers.size and numbers.dtype.kind not in "iu":
        raise InvalidInput(f"table {table}: keys are {numbers.dtype}, integers or texts are needed")
    return AskedKeys(np.ascontiguousarray(numbers, np.int64), False)


def _are_texts(given: Asked) -> bool:
    if isinstance(given, pa.Array | pa.ChunkedArray):
        return not pa.types.is_integer(given.type)
    if isinstance(given, np.ndarray):
        return given.dtype.kind in "SUO"
    return bool(given) and isinstance(given[0], str | bytes)
