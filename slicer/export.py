"""Writes one table as a parquet file, for people and tools. Knows no versions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.pipeline.core.codecs import codec

from .layers import Block
from .run_layout import TableLayout


def write_parquet(output: Path, layout: TableLayout, blocks: Iterable[Block]) -> int:
    """Columns `key` int64 and `row` fixed_size_list<float>[dim], in the order of the blocks; returns the rows."""
    decode = codec(layout.codec).decode
    rows_type = pa.list_(pa.field("element", pa.float32(), nullable=False), layout.dim)
    schema = pa.schema([pa.field("key", pa.int64(), nullable=False), pa.field("row", rows_type, nullable=False)])
    count = 0
    with replaced(output) as file, pq.ParquetWriter(file, schema) as writer:
        for keys, rows in blocks:
            values = pa.array(np.ascontiguousarray(decode(rows, layout.dim)).reshape(-1))
            lists = pa.FixedSizeListArray.from_arrays(values, type=rows_type)
            writer.write_batch(pa.record_batch([pa.array(keys), lists], schema=schema))
            count += len(keys)
    return count


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
