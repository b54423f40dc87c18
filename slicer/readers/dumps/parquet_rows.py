"""Rows of parquet files by their number: batches in order, and vectors out of a list column by ascending numbers.

Of a row group only the batch at hand is decoded, so a row group of any size takes a few MiB. There is no way into the middle of
one but from its beginning: ascending numbers go on where the last ones ended, others start again. Knows no meaning of a column.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt

from ..checkpoint import Array
from ..files.mapped_file import MappedFile
from ..tensors.elements import LARGEST

MAGIC = b"PAR1"
BATCH_ROWS = 4096
_READ_BYTES = 1 << 20


class ParquetRows:
    """Files read as one sequence of rows, numbered from 0 in their order. Their closing is the caller's. Checksums of pages are
    verified where there are any."""

    __slots__ = ("_ends", "_files", "_groups", "_parquets")

    def __init__(self, files: Sequence[MappedFile]) -> None:
        """`Corrupt` when a file is no parquet file."""
        self._files = tuple(files)
        self._parquets: list[pq.ParquetFile] = []
        self._groups: list[tuple[int, int]] = []
        counts: list[int] = []
        for number, file in enumerate(files):
            with as_corrupt(file):
                parquet = pq.ParquetFile(
                    _Stream(file), buffer_size=_READ_BYTES, pre_buffer=False, page_checksum_verification=True
                )
                counts += [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
            self._groups += [(number, group) for group in range(parquet.num_row_groups)]
            self._parquets.append(parquet)
            if min(counts, default=0) < 0 or sum(counts) > LARGEST:
                raise Corrupt(f"{file}: a row group of {counts[-1]} rows")
        self._ends: NDArray[np.int64] = np.cumsum(np.array(counts, np.int64))

    def schema(self, number: int) -> pa.Schema:
        """Of the file with that number."""
        with as_corrupt(self._files[number]):
            return self._parquets[number].schema_arrow

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, int, pa.RecordBatch]]:
        """All rows: the number of the file, of the first row, and at most `BATCH_ROWS` rows of these columns."""
        for group in range(len(self._groups)):
            for first, batch in self._batches_of(group, columns):
                yield self._groups[group][0], first, batch

    def from_row(self, row: int, column: str) -> Iterator[tuple[int, pa.Array]]:
        """The number of the first row of a batch, and the batch, from the row group that holds `row` on."""
        for group in range(int(np.searchsorted(self._ends, row, "right")), len(self._groups)):
            for first, batch in self._batches_of(group, [column]):
                yield first, batch.column(0)

    def same_group(self, row: int, other: int) -> bool:
        """Whether two rows lie in one row group."""
        first, second = np.searchsorted(self._ends, [row, other], "right")
        return bool(first == second)

    def _batches_of(self, group: int, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        number, within = self._groups[group]
        end = int(self._ends[group])
        first = int(self._ends[group - 1]) if group else 0
        with as_corrupt(self._files[number]):
            reader = self._parquets[number].iter_batches(
                BATCH_ROWS, row_groups=[within], columns=list(columns), use_threads=False
            )
            for batch in reader:
                if batch.schema.names != list(columns):
                    batch = batch.select(columns)  # noqa: PLW2901
                if batch.num_rows > end - first:
                    break
                yield first, batch
                first += batch.num_rows
        if first != end:
            raise Corrupt(f"{self._files[number]}: row group {within} does not hold the rows that its footer says")


class Vectors:
    """The rows of a list column, each of one width, by number. Not for two threads at once."""

    __slots__ = ("_batch", "_column", "_first", "_rows", "_stream", "_width")

    def __init__(self, rows: ParquetRows, column: str, width: int) -> None:
        """`width`: elements of each row that will be asked for; whoever makes one has checked that."""
        self._rows, self._column, self._width = rows, column, width
        self._stream: Iterator[tuple[int, pa.Array]] | None = None
        self._first, self._batch = 0, None

    def read_into(self, numbers: NDArray[np.int64], out: Array) -> None:
        """Fills `out` ([n, width]) with the rows of these numbers (int64[n], each greater than the one before)."""
        done = 0
        while done < len(numbers):
            first, batch = self._batch_with(int(numbers[done]))
            upto = int(np.searchsorted(numbers, first + len(batch)))
            within = numbers[done:upto] - first
            if within[-1] - within[0] + 1 == len(within):
                values = batch.slice(within[0], len(within))
            else:
                values = batch.take(pa.array(within))
            out[done:upto] = values.flatten().to_numpy().reshape(len(within), self._width)
            done = upto

    def _batch_with(self, row: int) -> tuple[int, pa.Array]:
        end = self._first + (0 if self._batch is None else len(self._batch))
        if self._stream is None or self._batch is None or row < self._first or not self._rows.same_group(end - 1, row):
            self._stream, self._batch = self._rows.from_row(row, self._column), None
        while self._batch is None or row >= self._first + len(self._batch):
            self._first, self._batch = next(self._stream)
        return self._first, self._batch


@contextmanager
def as_corrupt(file: MappedFile) -> Iterator[None]:
    """What the parquet library raises of a broken file, as `Corrupt`."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Corrupt(f"{file}: {str(error).partition(chr(10))[0]}") from None


class _Stream(io.RawIOBase):
    """A file as the parquet library wants one: it reads what is open here, so the file can neither be swapped nor shrink."""

    def __init__(self, file: MappedFile) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")[: max(self._file.size - self._at, 0)]
        self._file.read_into(self._at, view, "parquet data")
        self._at += len(view)
        return len(view)
