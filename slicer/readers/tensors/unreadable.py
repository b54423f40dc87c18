"""A tensor that is in a checkpoint and cannot be read: the others can, so it is listed, and refused when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from penstock.pipeline.core.errors import Unsupported

from ..checkpoint import Array, TensorInfo


@dataclass(frozen=True, slots=True)
class UnreadableTensor:
    """`reason` ends the sentence "tensor x …". `info.dtype` is the format's own word."""

    info: TensorInfo
    reason: str

    def rows(self, start: int, stop: int) -> Array:
        raise self._error()

    def read(self) -> Array:
        raise self._error()

    def read_into(self, start: int, out: Array) -> None:
        raise self._error()

    def blocks(self, limit_bytes: int) -> Iterator[Array]:
        raise self._error()

    def _error(self) -> Unsupported:
        return Unsupported(f"tensor {self.info.name} {self.reason}")
