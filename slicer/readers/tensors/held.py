"""A tensor that a checkpoint's header holds itself, such as a number in a pickle. Knows no format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..checkpoint import Array, TensorInfo
from .elements import check_buffer, check_range, convert_into


@dataclass(frozen=True, slots=True)
class HeldTensor:
    """`values` is little-endian and in C order."""

    info: TensorInfo
    values: Array

    def rows(self, start: int, stop: int) -> Array:
        check_range(self.info.shape, start, stop, self.info.name)
        return self.values[start:stop]

    def read(self) -> Array:
        return self.values

    def read_into(self, start: int, out: Array) -> None:
        check_buffer(self.info.shape, start, out, self.info.name)
        convert_into(self.values[start : start + len(out)], self.info.dtype, out)

    def blocks(self, limit_bytes: int) -> Iterator[Array]:
        flat = self.values.reshape(-1)
        each = max(1, limit_bytes // flat.dtype.itemsize)
        for at in range(0, flat.size, each):
            yield flat[at : at + each]
