"""A large serving table for benches, loaded as a replica loads a snapshot: in the order of buckets, part by part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.hashing import buckets_of, partitions_of
from penstock.serving.table import Table

from .tables import DIM

ROWS, BATCH = 10_000_000, 150_000
BUCKETS, PARTITIONS = 1024, 8
_SPREAD = 7919
_PART = 1 << 18


def new_table(*, dim: int = DIM, name: str = "float32") -> Table:
    """`name`: of its codec."""
    return Table(
        codec=name, dim=dim, width=codec(name).width(dim), bucket_count=BUCKETS, partition_count=PARTITIONS, held=range(BUCKETS)
    )  # fmt: skip


def keys_of(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    return numbers * _SPREAD


def in_bucket_order(rows: int) -> NDArray[np.int64]:
    keys = keys_of(np.arange(rows))
    ordered: NDArray[np.int64] = keys[np.argsort(buckets_of(keys, BUCKETS), kind="stable")]
    return ordered


def partition_of(keys: NDArray[np.int64]) -> NDArray[np.int32]:
    return partitions_of(buckets_of(keys, BUCKETS), bucket_count=BUCKETS, partition_count=PARTITIONS)


def parts(
    keys: NDArray[np.int64], *, dim: int = DIM, name: str = "float32"
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Keys and encoded rows, a part at a time. `name`: of the codec."""
    rows = codec(name).encode(np.random.default_rng(0).standard_normal((_PART, dim), dtype=np.float32))
    for low in range(0, keys.size, _PART):
        part = keys[low : low + _PART]
        yield part, rows[: part.size]


def load(table: Table, keys: NDArray[np.int64]) -> None:
    table.reserve(keys.size)
    for part, rows in parts(keys, dim=table.dim):
        table.load(part, rows)


def drawn(name: str, rng: np.random.Generator, rows: int = ROWS) -> NDArray[np.int64]:
    """`BATCH` row numbers, uniform or by Zipf's law with exponent 1.2; hot ones lie anywhere."""
    if name == "uniform":
        return rng.integers(0, rows, BATCH)
    ranks = rng.zipf(1.2, BATCH).astype(np.uint64)
    return (ranks * np.uint64(0x9E3779B97F4A7C15) % np.uint64(rows)).astype(np.int64)
