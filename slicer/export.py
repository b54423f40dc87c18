"""Writes one table as a parquet file, for people and tools. Knows no versions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.spelling import shown

from .layers import Block
from .run_layout import TableLayout

NamesOf = Callable[[NDArray[np.int64]], pa.LargeBinaryArray]
"""The texts that keys stand for, null where that is not known."""


def write_parquet(output: Path, layout: TableLayout, blocks: Iterable[Block], *, names_of: NamesOf | None = None) -> int:
    """Columns `key` int64, `name` large_string where `names_of` is given, and `row` fixed_size_list<float>[dim], in the order of
    the blocks; returns the rows. Names that are no UTF-8 have escapes."""
    decode = codec(layout.codec).decode
    rows_type = pa.list_(pa.field("element", pa.float32(), nullable=False), layout.dim)
    name = [] if names_of is None else [pa.field("name", pa.large_string())]
    schema = pa.schema([pa.field("key", pa.int64(), nullable=False), *name, pa.field("row", rows_type, nullable=False)])
    count = 0
    with replaced(output) as file, pq.ParquetWriter(file, schema) as writer:
        for keys, rows in blocks:
            values = pa.array(np.ascontiguousarray(decode(rows, layout.dim)).reshape(-1))
            lists = pa.FixedSizeListArray.from_arrays(values, type=rows_type)
            names = [] if names_of is None else [_characters(names_of(keys))]
            writer.write_batch(pa.record_batch([pa.array(keys), *names, lists], schema=schema))
            count += len(keys)
    return count


def _characters(names: pa.LargeBinaryArray) -> pa.LargeStringArray:
    try:
        return names.cast(pa.large_string())
    except pa.ArrowInvalid:
        return pa.array([None if name is None else shown(name) for name in names.to_pylist()], pa.large_string())


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
