"""What a record that could be decoded must keep to besides, so that a reader can take it. Pure."""

from __future__ import annotations

import numpy as np

from .dense import announcement_of
from .errors import Corrupt, InvalidInput
from .hashing import buckets_of, partitions_of
from .records import Record, RecordKind
from .schema import ModelSchema


def check_record(record: Record, schema: ModelSchema, name: str) -> None:
    """`Corrupt` names the rule that the record breaks: a table that there is, its width of rows, keys of the record's own
    partition, a marker's state, an announcement. `name` says where it was found."""
    if record.kind == RecordKind.ROWS:
        _check_rows(record, schema, name)
    elif record.kind == RecordKind.MARKER:
        try:
            _ = record.state
        except InvalidInput as error:
            raise Corrupt(f"{name}: {error}") from None
    elif record.kind == RecordKind.DENSE:
        announcement_of(record, name)


def _check_rows(record: Record, schema: ModelSchema, name: str) -> None:
    table = schema.tables.get(record.table)
    if table is None:
        raise Corrupt(f"{name}: table {record.table!r} is not in the schema")
    if len(record.rows) and record.rows.shape[1] != table.width:
        raise Corrupt(f"{name}: rows of {record.rows.shape[1]} bytes, table {record.table} has {table.width}")
    buckets = buckets_of(record.keys, schema.buckets)
    partitions = partitions_of(buckets, bucket_count=schema.buckets, partition_count=schema.partitions)
    strange = np.flatnonzero(partitions != record.partition)
    if len(strange):
        raise Corrupt(f"{name}: key {record.keys[strange[0]]} of table {record.table} belongs to another partition")
