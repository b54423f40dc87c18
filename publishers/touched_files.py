"""Files that say which keys changed, for checkpoints whose trainer keeps no sidecar."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock.pipeline.core.errors import NotFound, Refused
from penstock.pipeline.core.text_keys import hash_texts
from penstock.slicer.readers import Checkpoint, TensorInfo
from penstock.slicer.readers.numpy_files import MAGIC as NPY_MAGIC
from penstock.slicer.readers.numpy_files import open_npy, open_npz
from penstock.slicer.row_source import Keys

_HINT = "an .npz with an array a table, an .npy, or a parquet file with columns `key` and `table`"


def read_touched(path: Path) -> dict[str, Keys]:
    """int64[n] keys of each table of a file, sorted, each once: an .npz with an array a table, a parquet file with columns `key`
    and `table`, or either kind without names, where there is one table (""). Texts count as their hashes."""
    try:
        with path.open("rb") as file:
            if path.suffix == ".parquet":
                loaded = _parquet(pq.read_table(file))
                return {table: np.unique(_keys(found, table, path)) for table, found in loaded.items()}
            is_npy = file.read(len(NPY_MAGIC)) == NPY_MAGIC
        with (open_npy if is_npy else open_npz)(path) as arrays:
            return {"" if is_npy else each.name: np.unique(_array(arrays, each, path)) for each in arrays.tensors}
    except FileNotFoundError:
        raise NotFound(f"no file {path}") from None
    except (ValueError, OSError, pa.ArrowException) as error:
        raise Refused(f"{path} is no file of touched keys: {error}", hint=_HINT) from None


def _array(arrays: Checkpoint, info: TensorInfo, path: Path) -> Keys:
    if info.dtype[1:2] in {"S", "U"} and len(info.shape) == 1:
        return hash_texts(arrays.texts(info.name, 0, info.shape[0]))
    if not info.dtype.startswith(("int", "uint")) or len(info.shape) != 1:
        raise Refused(f"{path}: array {info.name!r} is {info.dtype}{list(info.shape)}, no list of integers or texts", hint=_HINT)
    keys: Keys = arrays.read(info.name).astype(np.int64)
    return keys


def _keys(found: pa.Array, table: str, path: Path) -> Keys:
    if pa.types.is_integer(found.type):
        keys: Keys = found.to_numpy().astype(np.int64)
        return keys
    if pa.types.is_large_binary(found.type):
        return hash_texts(found)
    raise Refused(f"{path}: keys of table {table!r} are {found.type}, neither integers nor texts")


def _parquet(read: pa.Table) -> dict[str, pa.Array]:
    if "key" not in read.column_names:
        raise ValueError("it has no column `key`")
    keys = _texts(read["key"].combine_chunks())
    if keys.null_count:
        raise ValueError("a key is null")
    if "table" not in read.column_names:
        return {"": keys}
    tables = read["table"].combine_chunks().cast(pa.large_string())
    if tables.null_count:
        raise ValueError("a table is null")
    return {name: keys.filter(pc.equal(tables, name)) for name in tables.unique().to_pylist()}


def _texts(values: pa.Array) -> pa.Array:
    """Texts of any kind as their bytes; other values as they are."""
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return values.cast(pa.large_binary()) if any(kind(values.type) for kind in kinds) else values
