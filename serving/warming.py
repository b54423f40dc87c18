"""Compiles what a table runs before the replica that has it counts as ready: on a machine where nothing is cached yet, a first
delta or lookup would wait for seconds otherwise. Does with a few rows what following, adopting and serving do with many."""

from __future__ import annotations

import numpy as np

from penstock.pipeline.core.hashing import bucket_range, buckets_of, partitions_of
from penstock.pipeline.core.ids import Partition
from penstock.pipeline.core.schema import ModelSchema, TableSchema

from .bags import Bags
from .table import Table

ROWS = 4
IMAGE_BYTES = 1 << 20


def warm(schema: ModelSchema) -> None:
    """Every kind of table that the schema has, once."""
    for kind in {(table.codec, table.dim, table.width) for table in schema.tables.values()}:
        _exercise(schema, TableSchema(codec=kind[0], dim=kind[1], width=kind[2]))


def _exercise(schema: ModelSchema, kind: TableSchema) -> None:
    everything = range(schema.buckets)
    table = Table(
        codec=kind.codec, dim=kind.dim, width=kind.width, bucket_count=schema.buckets, partition_count=schema.partitions,
        held=everything, image_bytes=IMAGE_BYTES,
    )  # fmt: skip
    keys = np.arange(1 << 12, dtype=np.int64)
    where = partitions_of(buckets_of(keys, schema.buckets), bucket_count=schema.buckets, partition_count=schema.partitions)
    partition = Partition(int(where[0]))
    keys = keys[where == partition][:ROWS]
    rows, nothing = np.zeros((len(keys), kind.width), np.uint8), keys[:0]
    table.load(keys, rows)
    labels = dict.fromkeys(map(Partition, range(schema.partitions)), "before")
    for each, label in labels.items():
        table.mark(each, label)
    table.apply(partition, keys, rows, nothing)
    table.apply(partition, nothing, rows[:0], keys[:1])
    written = table.written_since(partition, "before")
    if written is not None:
        table.interval(written)
    table.correct(partition, keys, rows, nothing)
    table.lookup(keys)
    table.lookup_at(labels, keys)
    absent = np.zeros(kind.dim, np.float32)
    table.add_up(keys, Bags(np.zeros(1, np.int64), "sum"), absent, np.empty((1, kind.dim), np.float32))
    if table.can_borrow:
        table.load_lent(keys, rows)
        table.bring_in(ROWS)
    own = bucket_range(partition, bucket_count=schema.buckets, partition_count=schema.partitions)
    table.replace_buckets(own, keys, rows)
    table.scan(own)
