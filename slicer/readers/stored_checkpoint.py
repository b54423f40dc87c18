"""A checkpoint as a set of tensor sources over opened files: what every format module gives back. Knows no format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from types import TracebackType
from typing import Self

from penstock.pipeline.core.errors import NotFound, Refused

from .checkpoint import Array, TensorInfo, TensorSource
from .mapped_file import MappedFile

MAX_TENSORS = 1_000_000


class StoredCheckpoint:
    """Implements `Checkpoint`. Owns `files` and closes them."""

    __slots__ = ("_files", "_sources", "format", "tensors")

    def __init__(self, format: str, sources: Iterable[TensorSource], files: Sequence[MappedFile]) -> None:  # noqa: A002
        """`Refused` when two sources have one name."""
        self.format = format
        self._files = files
        self._sources: dict[str, TensorSource] = {}
        for source in sources:
            if source.info.name in self._sources:
                raise Refused(f"{files[0]}: two tensors are called {source.info.name!r}")
            self._sources[source.info.name] = source
        self.tensors: tuple[TensorInfo, ...] = tuple(source.info for source in self._sources.values())

    def info(self, name: str) -> TensorInfo:
        return self._source(name).info

    def rows(self, name: str, start: int, stop: int) -> Array:
        return self._source(name).rows(start, stop)

    def read_rows_into(self, name: str, start: int, out: Array) -> None:
        self._source(name).read_into(start, out)

    def read(self, name: str) -> Array:
        return self._source(name).read()

    def blocks(self, name: str, *, limit_bytes: int = 1 << 20) -> Iterator[Array]:
        return self._source(name).blocks(limit_bytes)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _source(self, name: str) -> TensorSource:
        try:
            return self._sources[name]
        except KeyError:
            near = ", ".join(get_close_matches(name, self._sources, 3, 0.5)) or "`penstock inspect` lists them"
            raise NotFound(f"{self._files[0]}: no tensor {name!r}", hint=f"close to it: {near}") from None
