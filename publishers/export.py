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
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.pipeline.config import TableConfig
from penstock.pipeline.core.checkpoint import Sidecar
from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.errors import InvalidInput, Refused
from penstock.pipeline.core.history import table_layers
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.spelling import shown
from penstock.pipeline.core.times import format_time
from penstock.pipeline.environment import Environment
from penstock.slicer.dense import read_dense
from penstock.slicer.export import replaced, write_parquet
from penstock.slicer.layers import Layers
from penstock.slicer.names import Names
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.sidecar import sidecar_path

Format = Literal["npz", "safetensors"]
Arrays = dict[str, NDArray[np.generic]]
NAMES_AT_ONCE = 1 << 18
SPARSE = 4
"""A table whose keys are row numbers is refused as a tensor when its highest key is beyond this many times its rows."""
_SAFETENSORS = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


@contextmanager
def opened_table(env: Environment, version: Manifest, table: str) -> Iterator[Layers]:
    """One table of a trunk version, ready to be streamed: the generation that the version has."""
    layout = TableLayout.of(env.schema, version.generation(table))
    runs = table_layers(env.catalog.history().chain(version.version), layout.table)
    with Layers.open(env.catalog.store, layout, runs) as layers:
        yield layers


def export_table(env: Environment, version: Manifest, table: str, output: Path) -> int:
    """Writes columns `key` int64 and `row` fixed_size_list<float>[dim] as parquet, by bucket, and `name` between them where keys
    are strings; returns the rows."""
    with opened_table(env, version, table) as layers:
        names_of = Names(layers).of_keys if env.schema.table(layers.layout.table).keys == "string" else None
        return write_parquet(output, layers.layout, layers.merged(), names_of=names_of)


def export_checkpoint(env: Environment, version: Manifest, output: Path, file_format: Format, *, step: int = 0) -> dict[str, int]:
    """Writes every table, in the order of its keys, and the dense slice as one checkpoint, and the sidecar of the version's state
    beside it; returns rows per table.

    Memory: the dense slice, and the keys of one table; rows lie in files next to `output` meanwhile. `Refused` for a table of
    row numbers with keys that are negative or far apart, and for keys that are strings where one is not known, or not npz."""
    if file_format not in ("npz", "safetensors"):
        raise InvalidInput(f"format {file_format!r}: npz or safetensors")
    output.parent.mkdir(parents=True, exist_ok=True)
    arrays: Arrays = {} if version.dense is None else dict(read_dense(env.catalog.store, version.dense))
    counts, sidecar = {}, sidecar_path(output)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        for number, table in enumerate(name for name in env.schema.names() if name not in version.retired):
            if env.schema.table(version.generation(table)).keys == "string" and file_format != "npz":
                raise Refused(f"table {table}: its keys are strings, which {file_format} does not have", hint="say --format npz")
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
    numbered, key_name, row_name = _tensors(env.model.tables.get(table), table)
    with opened_table(env, version, table) as layers:
        dim, decode = layers.layout.dim, codec(layers.layout.codec).decode
        keys = np.sort(np.concatenate([np.empty(0, np.int64), *layers.merged_keys()]))
        count = _numbered_rows(keys, table) if numbered else len(keys)
        rows: NDArray[np.float32] = np.zeros((0, dim), np.float32)
        if count:
            rows = np.memmap(scratch, np.float32, "w+", shape=(count, dim))
        for some, data in layers.merged():
            rows[some if numbered else np.searchsorted(keys, some)] = decode(data, dim)
        if env.schema.table(layers.layout.table).keys == "string":
            arrays[key_name] = _texts(Names(layers), keys, scratch.with_name(f"{scratch.name}-keys"), table)
        elif not numbered:
            arrays[key_name] = keys
    arrays[row_name] = rows
    return len(keys)


def _texts(names: Names, keys: NDArray[np.int64], scratch: Path, table: str) -> NDArray[np.bytes_]:
    """bytes[n] of a fixed width, in a file at `scratch`: the texts that `keys` stand for."""
    found = names.of_keys(keys)
    if found.null_count:
        key = keys[found.is_null().to_numpy(zero_copy_only=False)][0]
        raise Refused(
            f"table {table}: it is not known which string key {key} stands for ({found.null_count} are not)",
            hint="the log alone has brought it; publish a checkpoint of the trainer, which has its keys",
        )
    if not len(keys):
        return np.empty(0, "S1")
    lengths = pc.binary_length(found).to_numpy()
    texts = np.memmap(scratch, f"S{max(1, lengths.max())}", "w+", shape=(len(keys),))
    for low in range(0, len(keys), NAMES_AT_ONCE):
        texts[low : low + NAMES_AT_ONCE] = found[low : low + NAMES_AT_ONCE].to_numpy(zero_copy_only=False)
    if len(cut := np.flatnonzero(np.strings.str_len(texts) != lengths)):
        raise Refused(f"table {table}: {shown(found[int(cut[0])].as_py())!r} ends with a zero byte, which npz does not keep")
    return texts


def _tensors(settings: TableConfig | None, table: str) -> tuple[bool, str, str]:
    """Whether row numbers are the keys, and the tensors that the keys and the rows are exported as: those that the table was read
    from, where it is one of each; what was in parts, or had its keys elsewhere, is exported whole."""
    keys, rows = f"{table}/keys", f"{table}/rows"
    if settings is None:
        return False, keys, rows
    if settings.tensor is None:
        one = isinstance(settings.keys, str) and isinstance(settings.rows, str) and "*" not in settings.keys + settings.rows
        return False, *((str(settings.keys), str(settings.rows)) if one else (keys, rows))
    plain = isinstance(settings.tensor, str) and "*" not in settings.tensor
    return settings.vocabulary is None, keys, str(settings.tensor) if plain else rows


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
