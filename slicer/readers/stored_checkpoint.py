"""A checkpoint as a set of tensor sources over opened files: what every format module gives back. Knows no format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from penstock.pipeline.core.errors import Corrupt, InvalidInput, NotFound, Refused

from .checkpoint import Array, TensorInfo, TensorSource, TextSource
from .files.mapped_file import MappedFile
from .tensors.elements import kind_of

MAX_TENSORS = 1_000_000


class StoredCheckpoint:
    """Implements `Checkpoint`. Owns `files`, of which there is at least one, and closes them."""

    __slots__ = ("_files", "_sources", "format", "partial", "tensors")

    def __init__(
        self,
        format: str,  # noqa: A002
        sources: Iterable[TensorSource | TextSource],
        files: Sequence[MappedFile],
        *,
        partial: bool = False,
    ) -> None:
        """`Refused` when two sources have one name; `Corrupt` when a name could be shown and stored nowhere."""
        self.format, self.partial = format, partial
        self._files = files
        self._sources: dict[str, TensorSource | TextSource] = {}
        for source in sources:
            name = source.info.name
            if name in self._sources:
                raise Refused(f"{files[0]}: two tensors are called {name!r}")
            if not name.isascii() and any("\ud800" <= each <= "\udfff" for each in name):
                raise Corrupt(f"{files[0]}: tensor {name!a}: a name that is no Unicode text")
            self._sources[name] = source
        self.tensors: tuple[TensorInfo, ...] = tuple(source.info for source in self._sources.values())

    def info(self, name: str) -> TensorInfo:
        return self._source(name).info

    def rows(self, name: str, start: int, stop: int) -> Array:
        return self._numbers(name).rows(start, stop)

    def read_rows_into(self, name: str, start: int, out: Array) -> None:
        self._numbers(name).read_into(start, out)

    def read(self, name: str) -> Array:
        return self._numbers(name).read()

    def texts(self, name: str, start: int, stop: int) -> pa.LargeBinaryArray:
        source = self._source(name)
        if isinstance(source, TextSource):
            return source.texts(start, stop)
        kind = kind_of(source.info.dtype)
        if len(source.info.shape) != 1 or kind not in {"S", "U"}:
            raise InvalidInput(f"tensor {name} is {source.info.dtype}{list(source.info.shape)}, no list of texts")
        values = source.rows(start, stop)
        if kind == "U" and values.nbytes:
            points = np.ascontiguousarray(values).view("<u4")
            if ((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))).any():
                raise Corrupt(f"tensor {name} holds a text that is no Unicode")
        return pa.array(values.tolist(), pa.large_string() if kind == "U" else pa.large_binary()).cast(pa.large_binary())

    def blocks(self, name: str, *, limit_bytes: int = 1 << 20) -> Iterator[Array]:
        return self._source(name).blocks(limit_bytes)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _numbers(self, name: str) -> TensorSource:
        source = self._source(name)
        if isinstance(source, TextSource):
            raise InvalidInput(f"tensor {name} holds texts of any length, which are no array of numbers")
        return source

    def _source(self, name: str) -> TensorSource | TextSource:
        try:
            return self._sources[name]
        except KeyError:
            near = ", ".join(get_close_matches(name, self._sources, 3, 0.5)) or "`penstock inspect` lists them"
            raise NotFound(f"{self._files[0]}: no tensor {name!r}", hint=f"close to it: {near}") from None
