"""Names: the texts that the keys of a run stand for, in a file beside it. Knows no versions; readers of rows never come here.

A file of names is Parquet with one column, `name`, a text for every row of its run and in the run's order: where a key stands in
the run is where its name stands here. A name is right when its hash is its key, so no digest of it is needed.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt, Refused
from penstock.pipeline.core.manifest import NamesInfo
from penstock.pipeline.core.spelling import shown
from penstock.pipeline.core.text_keys import hash_texts
from penstock.pipeline.ports.local_files import translated
from penstock.pipeline.ports.store import ObjectStore

from .mapping import mapped
from .ordering import Ordered, ordered

if TYPE_CHECKING:
    from .layers import Layers
    from .runs import Run

MAX_NAME_BYTES = 4096
GROUP_ROWS = 4096
"""Names of a row group: what is read and unpacked for one that is wanted."""
VERIFY_ROWS = 16 * GROUP_ROWS
SCHEMA = pa.schema([pa.field("name", pa.large_binary(), nullable=False)])


def write_names(store: ObjectStore, prefix: str, number: int, table: str, names: pa.LargeBinaryArray) -> NamesInfo:
    """The names of the run of rows `number` under `prefix`, in the order of the run. `Refused` for one that is too long."""
    longest = int(pc.max(pc.binary_length(names)).as_py())
    if longest > MAX_NAME_BYTES:
        raise Refused(f"table {table}: a key of {longest} bytes, at most {MAX_NAME_BYTES}")
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table([names], schema=SCHEMA), sink, row_group_size=GROUP_ROWS, compression="zstd", use_dictionary=False,
        write_statistics=False, column_encoding={"name": "DELTA_LENGTH_BYTE_ARRAY"},
    )  # fmt: skip
    data = sink.getvalue()
    path = f"{prefix}/{table}-{number:012d}.names.parquet"
    with store.upload(path, size_hint=data.size) as upload:
        upload.write(memoryview(data))
    return NamesInfo(path=path, bytes=data.size)


def same_hash(table: str, key: int, names: Iterable[bytes]) -> Refused:
    """Why a key must not be there: `names` are those that stand for it, two at least, which may be the same."""
    one, *others = dict.fromkeys(names)
    if not others:
        return Refused(f"table {table}: {shown(one)!r} is there twice")
    return Refused(
        f"table {table}: {shown(one)!r} and {shown(others[0])!r} are two keys with one hash, {key}", hint="rename one of the two"
    )


def same_key(names: pa.LargeBinaryArray, keys: NDArray[np.int64], table: str, otherwise: Refused) -> Refused:
    """Why `keys` (int64[n]) are refused, of which one is there twice: says so by their `names`."""
    order = np.argsort(keys, kind="stable")
    rising = keys[order]
    twice = np.flatnonzero(rising[1:] == rising[:-1])
    if not len(twice):
        return otherwise
    key = int(rising[twice[0]])
    return same_hash(table, key, (names[int(at)].as_py() for at in np.flatnonzero(keys == key)))


class NamesFile:
    """The names of one run. Safe to read from several threads."""

    def __init__(self, run: Run) -> None:
        """Reads the end of the file. `Corrupt`: it is not what was written, `NotFound`: it is not there."""
        assert run.info.names is not None
        self._store, self._info, self._rows = run.store, run.info.names, run.info.rows
        self._metadata = None
        size = self._store.size(self._info.path)
        if size != self._info.bytes:
            raise Corrupt(f"{self._info.path}: {size} bytes, {self._info.bytes} were written")
        with self._opened() as file:
            self._metadata = file.metadata
            groups = [self._metadata.row_group(i).num_rows for i in range(self._metadata.num_row_groups)]
            if file.schema_arrow != SCHEMA:
                raise Corrupt(f"{self._info.path}: columns {file.schema_arrow.names} are not those of a file of names")
        expected = [GROUP_ROWS] * (self._rows // GROUP_ROWS) + [self._rows % GROUP_ROWS] * (self._rows % GROUP_ROWS > 0)
        if groups != expected:
            raise Corrupt(f"{self._info.path}: {sum(groups)} names, not in groups of {GROUP_ROWS}, for {self._rows} rows")

    def take(self, positions: NDArray[np.int64]) -> pa.LargeBinaryArray:
        """The names at rising positions."""
        groups, local = np.unique(positions // GROUP_ROWS, return_inverse=True)
        try:
            with self._opened() as file:
                found = file.read_row_groups(groups.tolist(), use_threads=False).column(0)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise Corrupt(f"{self._info.path}: not the names that were written: {error}") from None
        whole = pa.concat_arrays([pa.array([], pa.large_binary()), *found.chunks])
        if len(whole) != np.minimum(self._rows - groups * GROUP_ROWS, GROUP_ROWS).sum():
            raise Corrupt(f"{self._info.path}: {len(whole)} names in {len(groups)} groups, not as many as there are rows")
        wanted = local * GROUP_ROWS + positions % GROUP_ROWS
        low, high = int(wanted[0]), int(wanted[-1]) + 1
        return whole.slice(low, high - low) if high - low == len(wanted) else whole.take(pa.array(wanted))

    def checked(self, positions: NDArray[np.int64], keys: NDArray[np.int64]) -> pa.LargeBinaryArray:
        """As `take`; `Corrupt` when one is not the name of its key (int64[n])."""
        names = self.take(positions)
        wrong = np.flatnonzero(hash_texts(names) != keys)
        if len(wrong):
            at = int(positions[wrong[0]])
            raise Corrupt(f"{self._info.path}: the name at position {at} is not that of key {keys[wrong[0]]}")
        return names

    def verify(self, run: Run) -> None:
        """Reads every name. `Corrupt`: the file is not what was written, or has a name that is not that of its key."""
        for low in range(0, self._rows, VERIFY_ROWS):
            high = min(low + VERIFY_ROWS, self._rows)
            self.checked(np.arange(low, high), run.keys_at(low, high))

    def _opened(self) -> pq.ParquetFile:
        path = self._store.local_path(self._info.path)
        try:
            with translated(self._info.path):
                source = _Remote(self._store, self._info) if path is None else pa.BufferReader(pa.py_buffer(mapped(path)))
            return pq.ParquetFile(source, metadata=self._metadata, pre_buffer=path is None)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise Corrupt(f"{self._info.path}: no file of names: {error}") from None


class Names:
    """The names of the keys of a table as layers. Safe to read from several threads.

    A name never changes: the newest run that has the key, and names, is asked. Of keys that were deleted it is known as long as
    the run is there."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers.named()
        self._files: dict[int, NamesFile] = {}

    @classmethod
    def among(cls, layers: Layers) -> Names | None:
        """None where no run has names, as of a table whose keys are numbers."""
        found = cls(layers)
        return found if found._layers.runs else None

    def of(self, asked: Ordered) -> pa.LargeBinaryArray:
        """The name of each key, in their order; null where it is not known."""
        which, positions = self._layers.resolve(asked)
        parts, index, count = [pa.array([], pa.large_binary())], np.full(len(which), -1, np.int64), 0
        for number in np.unique(which[which >= 0]).tolist():
            at = np.flatnonzero(which == number)
            parts.append(self._file(number).checked(positions[at], asked.keys[at]))
            index[at] = np.arange(count, count + len(at))
            count += len(at)
        return pa.concat_arrays(parts).take(pa.array(index, mask=index < 0))

    def of_keys(self, keys: NDArray[np.int64]) -> pa.LargeBinaryArray:
        """As `of`, of distinct keys in any order."""
        asked = ordered(keys, self._layers.layout.buckets, name=self._layers.layout.table)
        back = np.empty(len(keys), np.int64)
        back[asked.order] = np.arange(len(keys))
        return self.of(asked).take(pa.array(back))

    def known(self, asked: Ordered, names: pa.LargeBinaryArray) -> NDArray[np.bool_]:
        """bool[n]: which of the keys have a name. `Refused` when it is another one than in `names`: two texts with one hash."""
        found = self.of(asked)
        other = np.flatnonzero(pc.fill_null(pc.not_equal(found, names), False).to_numpy(zero_copy_only=False))
        if len(other):
            at = int(other[0])
            raise same_hash(self._layers.layout.table, int(asked.keys[at]), (found[at].as_py(), names[at].as_py()))
        valid: NDArray[np.bool_] = found.is_valid().to_numpy(zero_copy_only=False)
        return valid

    def check(self, keys: NDArray[np.int64], names: pa.LargeBinaryArray) -> None:
        """As `known`, of distinct keys in any order."""
        asked = ordered(keys, self._layers.layout.buckets, name=self._layers.layout.table)
        self.known(asked, names.take(pa.array(asked.order)))

    def _file(self, number: int) -> NamesFile:
        found = self._files.get(number)
        if found is None:
            found = self._files[number] = NamesFile(self._layers.runs[number])
        return found


class _Remote(io.RawIOBase):
    """An object of a store as a file, a range request a read."""

    def __init__(self, store: ObjectStore, info: NamesInfo) -> None:
        self._store, self._info, self._at = store, info, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._info.bytes}[whence]
        return self._at

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        length = min(len(buffer), max(0, self._info.bytes - self._at))
        buffer[:length] = self._store.get_range(self._info.path, self._at, length) if length else b""
        self._at += length
        return length
