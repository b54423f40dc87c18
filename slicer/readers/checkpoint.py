"""What every checkpoint reader offers, whatever the format: names, shapes, and rows by range.

Knows no format, no table of the config, and no codec.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, runtime_checkable

import pyarrow as pa
from numpy.typing import NDArray

Role = Literal["dense", "embedding", "optimizer", "other"]
Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor. `dtype` is numpy's name for it, or one that numpy lacks, such as "bfloat16", or "string" for texts of any
    length; `nbytes` is the size of its elements in C order, wherever they lie in the file. `role` is a guess by name, shape and
    dtype, where the format does not say."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    nbytes: int


class TensorSource(Protocol):
    """Where the elements of one tensor come from. Not for two threads at once.

    Elements of a dtype that numpy lacks are given as their bits: see `elements.storage_dtype` and `elements.widened`."""

    @property
    def info(self) -> TensorInfo: ...

    def rows(self, start: int, stop: int) -> Array:
        """The range [start, stop) of the first dimension, little-endian and in C order: a read-only view of a mapping of the
        file where its layout allows that, else a copy. `InvalidInput` for rows that the tensor does not have."""
        ...

    def read_into(self, start: int, out: Array) -> None:
        """Fills `out` (C order, [n, *shape[1:]]) with the rows from `start`. Its dtype is the tensor's own (or storage dtype),
        float32 for any float (a float64 beyond it turns into infinity), or one that holds every value of the tensor's."""
        ...

    def read(self) -> Array:
        """All of it, little-endian, as `rows`."""
        ...

    def blocks(self, limit_bytes: int) -> Iterator[Array]:
        """All elements in C order, little-endian, as flat arrays of at most `limit_bytes`; one is valid until the next."""
        ...


@runtime_checkable
class TextSource(Protocol):
    """A tensor of dtype "string" in one dimension. As `blocks`, each text is its length (uint64, little-endian) and its bytes."""

    @property
    def info(self) -> TensorInfo: ...

    def texts(self, start: int, stop: int) -> pa.LargeBinaryArray:
        """The elements [start, stop), without nulls. `InvalidInput` for elements that the tensor does not have."""
        ...

    def blocks(self, limit_bytes: int) -> Iterator[Array]: ...


class Checkpoint(Protocol):
    """An opened checkpoint. Reading takes no more memory than what is returned, plus at most a few MiB.

    `NotFound` for a tensor that is not in it; `Corrupt` when the file turns out to break its format."""

    @property
    def format(self) -> str: ...

    @property
    def partial(self) -> bool:
        """Whether its tables hold only the rows that changed since another checkpoint. For such a table, `<table>/keys` and
        `<table>/rows` are what was written, and `<table>/deleted`, where there is one, the keys that went."""
        ...

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """In the order of the file."""
        ...

    def info(self, name: str) -> TensorInfo: ...

    def rows(self, name: str, start: int, stop: int) -> Array:
        """See `TensorSource.rows`."""
        ...

    def read_rows_into(self, name: str, start: int, out: Array) -> None:
        """The streaming path: see `TensorSource.read_into`. Ascending ranges are the cheap order in every format."""
        ...

    def read(self, name: str) -> Array: ...

    def texts(self, name: str, start: int, stop: int) -> pa.LargeBinaryArray:
        """See `TextSource.texts`; tensors of fixed-width text are given that way as well. `InvalidInput`: it is no text."""
        ...

    def blocks(self, name: str, *, limit_bytes: int = 1 << 20) -> Iterator[Array]: ...

    def close(self) -> None:
        """Ends reading; views that were handed out stay valid."""
        ...

    def __enter__(self) -> Checkpoint: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
