"""Keys and what follows from a key alone: the hash of a string, and bits that look random but are everybody's same."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.int64]


def key_of(code: str) -> int:
    """The int64 key of a string: the first 8 bytes of its BLAKE2b hash, little-endian, signed."""
    return int.from_bytes(hashlib.blake2b(code.encode(), digest_size=8).digest(), "little", signed=True)


def scattered(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea, Flood) of each word, uint64 of any shape."""
    z = (words + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def fraction(words: NDArray[np.uint64]) -> NDArray[np.float32]:
    """uint64 -> float32 in [0, 1), by the upper 24 bits, all of which a float32 holds."""
    return (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
