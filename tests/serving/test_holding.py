"""Which part of a model a replica holds."""

import msgspec

from penstock.pipeline.core.schema import ModelSchema, TableSchema
from penstock.pipeline.core.times import WallTime
from penstock.serving.holding import Holding

TABLE = TableSchema(dim=2, codec="float32", width=8)
SCHEMA = ModelSchema(
    model="m", id="00" * 16, buckets=4, partitions=1, log="log", created_at=WallTime(0), tables={"a": TABLE},
)  # fmt: skip


def test_a_schema_that_was_read_before_another_takes_no_table_away():
    grown = msgspec.structs.replace(SCHEMA, tables={"a": TABLE, "b": TABLE})
    holding = Holding(schema=SCHEMA, buckets=range(4), image_bytes=0, max_labels=4)
    assert holding.grow(grown, {0: ["one"]})
    assert not holding.grow(SCHEMA, {0: ["one"]})
    assert holding.schema.names() == ["a", "b"]
    assert set(holding.tables) == {"a", "b"}
