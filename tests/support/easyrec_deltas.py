"""Writes what TorchEasyRec dumps of an interval: parquet files of touched rows, one for each rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("global_step", pa.int64()),
        ("rank", pa.int32()),
        ("world_size", pa.int32()),
        ("feature_name", pa.string()),
        ("table_fqn", pa.string()),
        ("key_id", pa.int64()),
        ("embedding", pa.list_(pa.float32())),
        ("source", pa.string()),
    ]
)
Row = tuple[str, int, Sequence[float]]
"""Its table, key and vector."""


def batch(rows: Sequence[Row], *, step: int = 7, rank: int = 0, ranks: int = 1, schema: pa.Schema = SCHEMA) -> pa.Table:
    """Rows as TorchEasyRec spells them."""
    columns: Mapping[str, list[object]] = {
        "global_step": [step] * len(rows),
        "rank": [rank] * len(rows),
        "world_size": [ranks] * len(rows),
        "feature_name": ["user_id,item_id"] * len(rows),
        "table_fqn": [table for table, _, _ in rows],
        "key_id": [key for _, key, _ in rows],
        "embedding": [vector for _, _, vector in rows],
        "source": ["model_delta_tracker"] * len(rows),
    }
    return pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names}, schema)


def write_step(folder: Path, ranks: Sequence[Sequence[Row]], *, step: int = 7, group_rows: int = 1 << 20) -> Path:
    """The file of a run of one rank, or the folder of the ranks' files; row groups of at most `group_rows`."""
    if len(ranks) == 1:
        path = folder / f"delta_embedding_step_{step}.parquet"
        pq.write_table(batch(ranks[0], step=step), path, row_group_size=group_rows)
        return path
    path = folder / f"step_{step}"
    path.mkdir()
    for rank, rows in enumerate(ranks):
        name = f"delta_embedding_step_{step}_rank_{rank}_of_{len(ranks)}.parquet"
        pq.write_table(batch(rows, step=step, rank=rank, ranks=len(ranks)), path / name, row_group_size=group_rows)
    return path
