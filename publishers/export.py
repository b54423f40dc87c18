"""Exports a version: one table as parquet for people and tools, or a whole checkpoint for a trainer to restart from.

A checkpoint is laid out as the config reads it (row numbers or keys), so that it can be published again as it is, and comes
with the sidecar of its state: a publisher that resumes from that goes on right behind the version.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Mapping
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
from penstock.slicer.sidecar import sidecar_path

Format = Literal["npz", "safetensors"]
Arrays = dict[str, NDArray[np.generic]]
SPARSE = 4
"""A table whose keys are row numbers is refused as a tensor when its highest key is beyond this many times its rows."""
_SAFETENSORS = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


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
    """Writes every table, in the order of its keys, and the dense slice as one checkpoint, and the sidecar of the version's state
    beside it; returns rows per table.

    Memory: the dense slice, and the keys of one table; rows lie in files next to `output` meanwhile. `Refused` for a table of
    row numbers with keys that are negative or far apart."""
    if file_format not in ("npz", "safetensors"):
        raise InvalidInput(f"format {file_format!r}: npz or safetensors")
    output.parent.mkdir(parents=True, exist_ok=True)
    arrays: Arrays = {} if version.dense is None else dict(read_dense(env.catalog.store, version.dense))
    counts, sidecar = {}, sidecar_path(output)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        for number, table in enumerate(sorted(env.schema.tables)):
            counts[table] = _gather(env, version, table, Path(scratch) / str(number), arrays)
        # A sidecar must never stand beside a checkpoint that is not its own.
        sidecar.unlink(missing_ok=True)
        with replaced(output) as file:
            (_write_npz if file_format == "npz" else _write_safetensors)(arrays, file)
    with replaced(sidecar) as file:
        file.write(sidecar_of_version(env, version, step=step).encode())
    return counts


def sidecar_of_version(env: Environment, version: Manifest, *, step: int = 0) -> Sidecar:
    """The sidecar by which a publisher resumes from a committed version."""
    return Sidecar(
        model=env.catalog.model, state=str(version.state), step=step, trained_through=format_time(version.trained_through),
        positions={str(p): position.offset for p, position in enumerate(version.positions.partitions)}, timeline=version.timeline,
    )  # fmt: skip


def _gather(env: Environment, version: Manifest, table: str, scratch: Path, arrays: Arrays) -> int:
    """Adds the tensors of a table to `arrays`, its rows as a file at `scratch`; returns how many it has."""
    settings = env.model.tables.get(table, TableConfig(keys=f"{table}/keys", rows=f"{table}/rows"))
    with opened_table(env, version, table) as layers:
        dim, decode = layers.layout.dim, codec(layers.layout.codec).decode
        keys = np.sort(np.concatenate([np.empty(0, np.int64), *layers.merged_keys()]))
        count = len(keys) if settings.tensor is None else _numbered_rows(keys, table)
        rows: NDArray[np.float32] = np.zeros((0, dim), np.float32)
        if count:
            rows = np.memmap(scratch, np.float32, "w+", shape=(count, dim))
        for some, data in layers.merged():
            rows[np.searchsorted(keys, some) if settings.tensor is None else some] = decode(data, dim)
    if settings.tensor is not None:
        arrays[settings.tensor] = rows
    else:
        assert settings.keys is not None
        assert settings.rows is not None
        arrays[settings.keys], arrays[settings.rows] = keys, rows
    return len(keys)


def _numbered_rows(keys: NDArray[np.int64], table: str) -> int:
    """How many rows a tensor has in which each stands at its key; rows that were deleted are zeros in it."""
    if not len(keys):
        return 0
    first, last = int(keys[0]), int(keys[-1])
    if first < 0 or last >= SPARSE * len(keys) + 1024:
        raise Refused(
            f"table {table}: keys from {first} to {last} are no row numbers of {len(keys)} rows",
            hint="export it with --table T as parquet, or declare keys and rows in the config",
        )
    return last + 1


def _write_npz(arrays: Mapping[str, NDArray[np.generic]], file: IO[bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write_safetensors(arrays: Mapping[str, NDArray[np.generic]], file: IO[bytes]) -> None:
    """Header, then the arrays as they are, from wherever they lie: `safetensors` itself would copy all of them first."""
    header, at = {}, 0
    # As in a dense slice: larger elements first keeps all of them aligned.
    ordered = sorted(arrays.items(), key=lambda pair: (-pair[1].itemsize, pair[0]))
    for name, array in ordered:
        kind = _SAFETENSORS[array.dtype.name]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, array in ordered:
        if array.size:
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
