"""The digest of a state as text. Apart from the kernels that compute bucket digests, so that what only shows digests does not
load a compiler."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

MAX_ROW_BYTES = 32768
"""Of an encoded row: the row hash has constants for no more."""


def digest_text(tables: Mapping[str, NDArray[np.uint64]], dense: Iterable[str] = ()) -> str:
    """One hex string for a whole state: BLAKE2b-128 over the tables' names and bucket digests, in name order, and the
    digests of the dense slice. A table in which nothing is counts as none, so that who began before its birth says the same."""
    whole = hashlib.blake2b(digest_size=16)
    for name in sorted(name for name, found in tables.items() if found.any()):
        whole.update(name.encode() + b"\0" + tables[name].astype("<u8").tobytes())
    for text in dense:
        whole.update(b"\1" + text.encode())
    return whole.hexdigest()
