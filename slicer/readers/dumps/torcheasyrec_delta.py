"""The deltas that TorchEasyRec dumps while it trains: parquet files of the rows that one interval of steps has touched.

    <prefix>_step_<s>.parquet                                of a run of one rank
    step_<s>/<prefix>_step_<s>_rank_<r>_of_<w>.parquet       of each rank; one that touched nothing has no rows

    global_step int64 · rank, world_size int32 · feature_name, table_fqn string · key_id int64 · embedding list<float32>
    newer: embedding_name, embedding_role string · older: source string

A vector of zeros says that the key has gone (evicted, or no longer found). Unsigned keys are there as signed ones of the same
bits. Ranks hold different rows of a table, or (data parallel) the same: a key may come twice with one vector, never with two.
(`tzrec/utils/delta_embedding_dump.py` of alibaba/TorchEasyRec.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt, PenstockError, Refused, Unsupported

from ..checkpoint import Array, TensorInfo, TensorSource
from ..files.listing import files_in
from ..files.mapped_file import MappedFile
from ..stored_checkpoint import MAX_TENSORS, StoredCheckpoint
from ..tensors.elements import check_buffer, check_range, convert_into, tensor_bytes
from ..tensors.held import HeldTensor
from .parquet_rows import MAGIC, ParquetRows, Vectors
from .raw_tables import check_file_count, numbered

_RANKED = re.compile(r".+_rank_(?P<rank>\d{1,9})_of_(?P<ranks>\d{1,9})\.parquet")
_NUMBERS = {"global_step": pa.int64(), "rank": pa.int32(), "world_size": pa.int32(), "key_id": pa.int64()}
_COLUMNS = [*_NUMBERS, "table_fqn", "embedding"]
_COMPARED = 1 << 14


def is_torcheasyrec_delta(path: Path, head: bytes) -> bool:
    """A parquet file with these columns, or a folder of such files of the ranks of one step."""
    if head:
        return head.startswith(MAGIC) and _has_columns(path)
    ranked = [name for name in files_in(path) if _RANKED.fullmatch(name)]
    return bool(ranked) and _has_columns(path / ranked[0])


def open_torcheasyrec_delta(path: Path) -> StoredCheckpoint:
    """`<table_fqn>/keys`, `/rows` and, where keys went, `/deleted`. All files are read once for it: 24 bytes a row are held until
    then, 8 afterwards. `Refused` when files of different steps are mixed, or a key has two vectors; `Corrupt` names the rank
    that is missing; `Unsupported`: the vectors are quantised."""
    files: list[MappedFile] = []
    try:
        for each in _paths(path):
            files.append(MappedFile(each))
        rows = ParquetRows(files)
        for number, file in enumerate(files):
            _check_schema(rows.schema(number), file)
        index = _Index(files)
        for number, first, batch in rows.batches(_COLUMNS):
            index.add(number, first, batch)
        sources = [source for table in index.tables.values() for source in table.sources(rows, str(path))]
        return StoredCheckpoint("torcheasyrec delta", sources, files, partial=True)
    except BaseException:
        for file in files:
            file.close()
        raise


def _paths(path: Path) -> list[Path]:
    """The files of all ranks of the step, in the order of ranks."""
    names = files_in(path) if path.is_dir() else [path.name]
    matches = [match for name in names if (match := _RANKED.fullmatch(name))]
    if not matches:
        return [path]
    sizes = sorted({int(match["ranks"]) for match in matches})
    if len(sizes) > 1:
        raise Corrupt(f"{path}: files of runs of {sizes[0]} and of {sizes[1]} ranks are mixed")
    if not path.is_dir():
        if sizes[0] == 1:
            return [path]
        raise Refused(f"{path} is one of the {sizes[0]} ranks of a step", hint=f"name the folder: {path.parent}")
    found: dict[int, str] = {}
    for match in matches:
        other = found.setdefault(int(match["rank"]), match.string)
        if other != match.string:
            raise Refused(f"{path}: {other} and {match.string} are both of rank {match['rank']}", hint="one step a folder")
    check_file_count(len(found), path)
    return [path / name for name in numbered(found, 0, sizes[0], f"{path}, ranks")]


def _has_columns(path: Path) -> bool:
    try:
        file = MappedFile(path)
    except PenstockError:
        return False
    try:
        return set(_COLUMNS) <= set(ParquetRows([file]).schema(0).names)
    except PenstockError:
        return False
    finally:
        file.close()


def _check_schema(schema: pa.Schema, file: MappedFile) -> None:
    for name in _COLUMNS:
        if schema.get_all_field_indices(name) != [schema.get_field_index(name)]:
            raise Corrupt(f"{file}: column {name} is not there, or there twice")
    for name, kind in _NUMBERS.items():
        if schema.field(name).type != kind:
            raise Corrupt(f"{file}: column {name} is {schema.field(name).type}, not {kind}")
    table, vector = schema.field("table_fqn").type, schema.field("embedding").type
    if not (pa.types.is_string(table) or pa.types.is_large_string(table)):
        raise Corrupt(f"{file}: column table_fqn is {table}, not string")
    if vector == pa.list_(pa.uint8()):
        hint = "dump without quantisation; Penstock quantises itself, by the codec of the table"
        raise Unsupported(f"{file}: its vectors are quantised, and the file does not say how", hint=hint)
    if not pa.types.is_list(vector) or vector.value_type != pa.float32():
        raise Corrupt(f"{file}: column embedding is {vector}, not list<float32>")


class _Index:
    """What lies where, gathered in one pass over all rows."""

    def __init__(self, files: Sequence[MappedFile]) -> None:
        self.tables: dict[str, _Table] = {}
        self._files = files
        self._step: int | None = None

    def add(self, number: int, first: int, batch: pa.RecordBatch) -> None:
        file = self._files[number]
        for name in _COLUMNS:
            if batch.column(name).null_count:
                raise Corrupt(f"{file}: a null in column {name}")
        self._check_run(batch, number)
        vectors = batch.column("embedding")
        if vectors.flatten().null_count:
            raise Corrupt(f"{file}: a null in a vector")
        keys = batch.column("key_id").to_numpy()
        widths = np.diff(vectors.offsets.to_numpy())
        names = batch.column("table_fqn").dictionary_encode()
        tables = names.indices.to_numpy()
        for code, name in enumerate(self._spelled(names.dictionary, file)):
            if name not in self.tables and len(self.tables) >= MAX_TENSORS // 3:
                raise Corrupt(f"{file}: more than {len(self.tables)} tables")
            within = np.flatnonzero(tables == code)
            table = self.tables.setdefault(name, _Table(name, int(widths[within[0]])))
            odd = within[widths[within] != table.width]
            if len(odd) or not table.width:
                at = int(odd[0] if len(odd) else within[0])
                raise Corrupt(f"{file}: table {name}, key {keys[at]}: {widths[at]} elements, other rows have {table.width}")
            values = (vectors if len(within) == len(vectors) else vectors.take(pa.array(within))).flatten().to_numpy()
            table.add(keys[within], within + first, values.reshape(len(within), table.width).any(axis=1))

    def _spelled(self, names: pa.StringArray, file: MappedFile) -> list[str]:
        try:
            found: list[str] = names.to_pylist()
        except UnicodeDecodeError as error:
            raise Corrupt(f"{file}: a table_fqn is no UTF-8: {error}") from None
        return found

    def _check_run(self, batch: pa.RecordBatch, number: int) -> None:
        file = self._files[number]
        steps, ranks, sizes = (batch.column(name).to_numpy() for name in ("global_step", "rank", "world_size"))
        self._step = int(steps[0]) if self._step is None and len(steps) else self._step
        if (steps != self._step).any():
            other = steps[steps != self._step][0]
            raise Refused(f"{file}: rows of step {other} among those of step {self._step}", hint="one step at a time, in order")
        if (sizes != len(self._files)).any():
            size = sizes[sizes != len(self._files)][0]
            raise Corrupt(f"{file}: it is of a run of {size} ranks, of which {len(self._files)} are here")
        if (ranks != number).any():
            raise Corrupt(f"{file}: rows of rank {ranks[ranks != number][0]} in the file of rank {number}")


class _Table:
    """The rows of one table: keys and row numbers of those that are there, keys of those that went."""

    def __init__(self, name: str, width: int) -> None:
        self.name, self.width = name, width
        self._keys: list[NDArray[np.int64]] = []
        self._numbers: list[NDArray[np.int64]] = []
        self._deleted: list[NDArray[np.int64]] = []

    def add(self, keys: NDArray[np.int64], numbers: NDArray[np.int64], there: NDArray[np.bool_]) -> None:
        self._keys.append(keys[there])
        self._numbers.append(numbers[there])
        self._deleted.append(keys[~there])

    def sources(self, rows: ParquetRows, what: str) -> list[TensorSource]:
        keys, numbers = _joined(self._keys), _joined(self._numbers)
        deleted = np.unique(_joined(self._deleted))
        both = np.intersect1d(keys, deleted)
        if len(both):
            raise Refused(f"{what}: table {self.name}, key {both[0]} is there with a vector and as one that has gone")
        keep = self._first_of_each(keys, numbers, rows, what)
        keys, numbers = keys[keep], numbers[keep]
        found: list[TensorSource] = [HeldTensor(_keys_info(f"{self.name}/keys", len(keys)), keys)]
        name, shape = f"{self.name}/rows", (len(keys), self.width)
        info = TensorInfo(name=name, shape=shape, dtype="float32", role="embedding", nbytes=tensor_bytes(shape, "float32", name))
        found.append(_DeltaRows(info, numbers, Vectors(rows, "embedding", self.width)))
        if len(deleted):
            found.append(HeldTensor(_keys_info(f"{self.name}/deleted", len(deleted)), deleted))
        return found

    def _first_of_each(
        self, keys: NDArray[np.int64], numbers: NDArray[np.int64], rows: ParquetRows, what: str
    ) -> NDArray[np.bool_]:
        """Which rows to keep (bool[n]): the first of each key. `Refused` when another of that key has another vector."""
        keep = np.ones(len(keys), np.bool_)
        order = np.argsort(keys, kind="stable")
        ascending = keys[order]
        begins = np.flatnonzero(np.append(True, ascending[1:] != ascending[:-1])[: len(keys)])
        firsts = np.repeat(order[begins], np.diff(begins, append=len(keys)))
        again = np.flatnonzero(firsts != order)
        keep[order[again]] = False
        vectors = Vectors(rows, "embedding", self.width)
        for at in range(0, len(again), _COMPARED):
            some = again[at : at + _COMPARED]
            first, other = (_rows_of(vectors, numbers[each[some]], self.width) for each in (firsts, order))
            differing = (first.view(np.uint32) != other.view(np.uint32)).any(axis=1)
            if differing.any():
                key = keys[order[some[differing.argmax()]]]
                raise Refused(f"{what}: table {self.name}, key {key} is there twice, with different vectors")
        return keep


def _rows_of(vectors: Vectors, numbers: NDArray[np.int64], width: int) -> NDArray[np.float32]:
    """The rows of these numbers (int64[n], in any order, any of them more than once)."""
    ascending, back = np.unique(numbers, return_inverse=True)
    found = np.empty((len(ascending), width), np.float32)
    vectors.read_into(ascending, found)
    return found[back]


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    found = np.concatenate(parts)
    parts.clear()
    return found


def _keys_info(name: str, count: int) -> TensorInfo:
    return TensorInfo(name=name, shape=(count,), dtype="int64", role="other", nbytes=8 * count)


class _DeltaRows:
    """The vectors of a table. Where they lie is kept as runs of row numbers that follow each other."""

    __slots__ = ("_begins", "_numbers", "_vectors", "info")

    def __init__(self, info: TensorInfo, numbers: NDArray[np.int64], vectors: Vectors) -> None:
        self.info, self._vectors = info, vectors
        self._begins = np.flatnonzero(np.diff(numbers, prepend=-2) != 1)
        self._numbers = numbers[self._begins]

    def rows(self, start: int, stop: int) -> Array:
        check_range(self.info.shape, start, stop, self.info.name)
        found = np.empty((stop - start, *self.info.shape[1:]), np.float32)
        self.read_into(start, found)
        return found

    def read(self) -> Array:
        return self.rows(0, self.info.shape[0])

    def read_into(self, start: int, out: Array) -> None:
        check_buffer(self.info.shape, start, out, self.info.name)
        if out.dtype == np.float32:
            at = np.arange(start, start + len(out))
            run = np.searchsorted(self._begins, at, "right") - 1
            self._vectors.read_into(self._numbers[run] + (at - self._begins[run]), out)
        else:
            convert_into(self.rows(start, start + len(out)), self.info.dtype, out)

    def blocks(self, limit_bytes: int) -> Iterator[Array]:
        each = max(1, limit_bytes // (4 * self.info.shape[1]))
        for start in range(0, self.info.shape[0], each):
            flat = self.rows(start, min(start + each, self.info.shape[0])).reshape(-1)
            for at in range(0, flat.size, max(1, limit_bytes // 4)):
                yield flat[at : at + max(1, limit_bytes // 4)]
