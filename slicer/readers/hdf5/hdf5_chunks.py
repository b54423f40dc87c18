"""A tensor in chunks, as HDF5 stores tables that can grow or are compressed: read chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from ..checkpoint import Array, TensorInfo
from ..files.mapped_file import MappedFile
from ..tensors.elements import bytes_of, check_buffer, check_range, convert_into, storage_dtype
from .hdf5_dataset import Chunked
from .hdf5_filters import unfiltered

_STEP_BYTES = 1 << 20
_MAX_BAND_BYTES = 64 << 20
_KEPT_BYTES = 8 << 20


class RecentChunks:
    """The chunks of one band (those that share their rows) of one tensor, as far as they fit: what a range that ascends needs
    again. One for all tensors of a file."""

    __slots__ = ("_band", "_chunks")

    def __init__(self) -> None:
        self._band: tuple[str, int] = "", 0
        self._chunks: dict[int, Array] = {}

    def get(self, tensor: str, band: int, number: int) -> Array | None:
        return self._chunks.get(number) if self._band == (tensor, band) else None

    def put(self, tensor: str, band: int, number: int, chunk: Array) -> None:
        if self._band != (tensor, band):
            self._band, self._chunks = (tensor, band), {}
        if (len(self._chunks) + 1) * chunk.nbytes <= _KEPT_BYTES:
            self._chunks[number] = chunk


@dataclass(frozen=True, slots=True)
class ChunkedTensor:
    """Takes one chunk (at most `MAX_CHUNK_BYTES`) of memory as stored and one as read, besides `recent`; with conversion and
    in `blocks`, a band of at most 64 MiB."""

    info: TensorInfo
    file: MappedFile
    layout: Chunked
    big_endian: bool
    recent: RecentChunks

    def rows(self, start: int, stop: int) -> Array:
        check_range(self.info.shape, start, stop, self.info.name)
        return self._box((start,) + (0,) * (len(self.info.shape) - 1), (stop - start, *self.info.shape[1:]))

    def read(self) -> Array:
        return self._box((0,) * len(self.info.shape), self.info.shape)

    def read_into(self, start: int, out: Array) -> None:
        check_buffer(self.info.shape, start, out, self.info.name)
        if out.dtype == storage_dtype(self.info.dtype):
            self._fill((start,) + (0,) * (out.ndim - 1), out)
            return
        each = self._aligned(self._step_bytes * len(out) // max(1, out.nbytes))
        at = 0
        while at < len(out):
            # The first step goes to the next chunk's beginning, and so the others are whole chunks.
            stop = min(len(out), at + each - (start + at) % each)
            convert_into(self.rows(start + at, start + stop), self.info.dtype, out[at:stop])
            at = stop

    def blocks(self, limit_bytes: int) -> Iterator[Array]:
        shape, width = self.info.shape, storage_dtype(self.info.dtype).itemsize
        each, step = max(1, limit_bytes // width), max(limit_bytes, self._step_bytes) // width
        # As many of the last dimensions as fit into a step are taken whole; the one before them in parts.
        whole, elements = len(shape), 1
        while whole > 0 and elements * shape[whole - 1] <= step:
            whole -= 1
            elements *= shape[whole]
        if whole == 0:
            boxes: Iterator[tuple[tuple[int, ...], tuple[int, ...]]] = iter([((0,) * len(shape), shape)])
        else:
            boxes = self._boxes(whole - 1, max(1, step // elements))
        for start, size in boxes:
            flat = self._box(start, size).reshape(-1)
            for at in range(0, flat.size, each):
                yield flat[at : at + each]

    def _boxes(self, axis: int, step: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Start and size of boxes in C order: single in the dimensions before `axis`, `step` long in it, whole behind."""
        shape = self.info.shape
        step = self._aligned(step) if axis == 0 else step
        for before in np.ndindex(shape[:axis]):
            for at in range(0, shape[axis], step):
                behind = shape[axis + 1 :]
                yield (*before, at, *(0 for _ in behind)), (*(1 for _ in before), min(step, shape[axis] - at), *behind)

    @property
    def _step_bytes(self) -> int:
        """What is read at once: a band where that is bearable."""
        band = self.info.nbytes // max(1, self.info.shape[0]) * self.layout.chunk[0]
        return max(_STEP_BYTES, band) if band <= _MAX_BAND_BYTES else _STEP_BYTES

    def _aligned(self, rows: int) -> int:
        """About so many rows, at least one, as whole bands where one is not larger than that."""
        return max(1, rows - rows % self.layout.chunk[0] or rows)

    def _box(self, start: tuple[int, ...], size: tuple[int, ...]) -> Array:
        found = np.empty(size, storage_dtype(self.info.dtype))
        self._fill(start, found)
        return found

    def _fill(self, start: tuple[int, ...], out: Array) -> None:
        """Fills `out` with the elements from `start` on, in every dimension."""
        chunk, grid = self.layout.chunk, self._grid
        ranges = [range(at // each, -(-(at + n) // each)) for at, n, each in zip(start, out.shape, chunk, strict=True)]
        if not out.size:
            return
        for place in product(*ranges):
            number = 0
            for index, size in zip(place, grid, strict=True):
                number = number * size + index
            source, target = [], []
            for index, each, at, n in zip(place, chunk, start, out.shape, strict=True):
                first, last = max(at, index * each), min(at + n, (index + 1) * each)
                source.append(slice(first - index * each, last - index * each))
                target.append(slice(first - at, last - at))
            out[tuple(target)] = self._chunk(number)[tuple(source)]

    @property
    def _grid(self) -> tuple[int, ...]:
        return tuple(-(-size // each) for size, each in zip(self.info.shape, self.layout.chunk, strict=True))

    def _chunk(self, number: int) -> Array:
        layout, what = self.layout, f"{self.file}: dataset {self.info.name!r}"
        band = number // math.prod(self._grid[1:])
        known = self.recent.get(self.info.name, band, number)
        if known is not None:
            return known
        stored = np.empty(int(layout.sizes[number]), np.uint8)
        self.file.read_into(int(layout.offsets[number]), bytes_of(stored), what)
        dtype = storage_dtype(self.info.dtype)
        data = unfiltered(
            stored, layout.filters, skipped=int(layout.skipped[number]), width=dtype.itemsize,
            nbytes=math.prod(layout.chunk) * dtype.itemsize, what=what,
        )  # fmt: skip
        found: Array = data.view(dtype.newbyteorder(">") if self.big_endian else dtype).reshape(layout.chunk)
        self.recent.put(self.info.name, band, number, found)
        return found
