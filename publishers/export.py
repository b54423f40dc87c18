"""Exports a version: one table as parquet for people and tools, or a whole checkpoint for a trainer to restart from.

A checkpoint is laid out as the config reads it (row numbers or keys), so that it can be published again as it is, and comes
with the sidecar of its state: a publisher that resumes from that goes on right behind the version.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.config import TableConfig
from penstock.pipeline.core.checkpoint import Sidecar
from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.errors import InvalidInput, Refused
from penstock.pipeline.core.history import table_layers
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.times import format_time
from penstock.pipeline.environment import Environment
from penstock.slicer.dense import read_dense
from penstock.slicer.export import replaced, write_parquet
from penstock.slicer.layers import Layers
from penstock.slicer.run_layout import TableLayout

Format = Literal["npz", "safetensors"]
SPARSE = 4
"""A table whose keys are row numbers is refused as a tensor when its highest key is beyond this many times its rows."""


@contextmanager
def opened_table(env: Environment, version: Manifest, table: str) -> Iterator[Layers]:
    """One table of a trunk version, ready to be streamed."""
    layout = TableLayout.of(env.schema, table)
    runs = table_layers(env.catalog.history().chain(version.version), table)
    with Layers.open(env.catalog.store, layout, runs) as layers:
        yield layers


def export_table(env: Environment, version: Manifest, table: str, output: Path) -> int:
    """Writes columns `key` int64 and `row` fixed_size_list<float>[dim] as parquet, by bucket; returns the rows."""
    with opened_table(env, version, table) as layers:
        return write_parquet(output, layers.layout, layers.merged())


def export_checkpoint(env: Environment, version: Manifest, output: Path, file_format: Format, *, step: int = 0) -> dict[str, int]:
    """Writes every table and the dense slice as one checkpoint, and `<output>.penstock.json` beside it; returns rows per table.

    Memory: one table. `Refused` for a table of row numbers with keys that are negative or far apart."""
    arrays: dict[str, NDArray[np.generic]] = {}
    counts = {}
    for table in sorted(env.schema.tables):
        keys, rows = read_table(env, version, table)
        counts[table] = len(keys)
        settings = env.model.tables.get(table, TableConfig(keys=f"{table}/keys", rows=f"{table}/rows"))
        if settings.tensor is not None:
            arrays[settings.tensor] = _by_number(keys, rows, table)
        else:
            assert settings.keys is not None
            assert settings.rows is not None
            order = np.argsort(keys)
            arrays[settings.keys], arrays[settings.rows] = keys[order], rows[order]
    if version.dense is not None:
        arrays.update(read_dense(env.catalog.store, version.dense))
    _write(arrays, output, file_format)
    with replaced(output.with_name(output.name + ".penstock.json")) as file:
        file.write(sidecar_of_version(env, version, step=step).encode())
    return counts


def sidecar_of_version(env: Environment, version: Manifest, *, step: int = 0) -> Sidecar:
    """The sidecar by which a publisher resumes from a committed version."""
    return Sidecar(
        model=env.catalog.model, state=str(version.state), step=step, trained_through=format_time(version.trained_through),
        positions={str(p): position.offset for p, position in enumerate(version.positions.partitions)}, timeline=version.timeline,
    )  # fmt: skip


def read_table(env: Environment, version: Manifest, table: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """int64[n] keys and float32[n, dim] rows of a table, in the order of the buckets."""
    dim, decode = env.schema.table(table).dim, codec(env.schema.table(table).codec).decode
    with opened_table(env, version, table) as layers:
        keys = np.empty(layers.count(), np.int64)
        rows, at = np.empty((len(keys), dim), np.float32), 0
        for some, data in layers.merged():
            keys[at : at + len(some)], rows[at : at + len(some)] = some, decode(data, dim)
            at += len(some)
    return keys, rows


def _by_number(keys: NDArray[np.int64], rows: NDArray[np.float32], table: str) -> NDArray[np.float32]:
    """A tensor in which each row stands at its key; rows that were deleted are zeros."""
    if len(keys) and (keys.min() < 0 or keys.max() >= SPARSE * len(keys) + 1024):
        raise Refused(
            f"table {table}: keys from {keys.min()} to {keys.max()} are no row numbers of {len(keys)} rows",
            hint="export it with --table T as parquet, or declare keys and rows in the config",
        )
    tensor = np.zeros((int(keys.max()) + 1 if len(keys) else 0, rows.shape[1]), np.float32)
    tensor[keys] = rows
    return tensor


def _write(arrays: dict[str, NDArray[np.generic]], output: Path, file_format: Format) -> None:
    with replaced(output) as file:
        if file_format == "npz":
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
        elif file_format == "safetensors":
            _write_safetensors(arrays, file)
        else:
            raise InvalidInput(f"format {file_format!r}: npz or safetensors")


def _write_safetensors(arrays: dict[str, NDArray[np.generic]], file: IO[bytes]) -> None:
    """Header, then the arrays as they are: nothing is copied into one buffer first."""
    names = {"float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL"}
    header, at = {}, 0
    ordered: Sequence[tuple[str, NDArray[np.generic]]] = sorted(arrays.items())
    for name, array in ordered:
        header[name] = {"dtype": names[str(array.dtype)], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, array in ordered:
        file.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
