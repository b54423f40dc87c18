"""A tensor that lies in pieces: parts of a dump one behind the other, or the chunks that ranks saved. Knows no format.

Pieces are checked to tile the tensor before anything is read: no hole, no overlap, none that sticks out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt

from ..checkpoint import Array, Role, TensorInfo, TensorSource
from ..roles import role_of
from .elements import check_buffer, check_range, storage_dtype, tensor_bytes

MAX_PIECES = 65_536
_SCRATCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """`offsets` is where its first element lies in the whole tensor; its shape is that of its source."""

    offsets: tuple[int, ...]
    source: TensorSource

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.source.info.shape


@dataclass(frozen=True, slots=True)
class JoinedTensor:
    """`pieces` are not empty, lie in ascending order, and tile the tensor: `tiled` and `concatenated` see to that."""

    info: TensorInfo
    pieces: tuple[Piece, ...]
    _bounds: NDArray[np.int64] = field(repr=False)
    """int64[2, pieces]: the first row of each, and the one behind its last; a tensor without dimensions has one row."""

    def rows(self, start: int, stop: int) -> Array:
        check_range(self.info.shape, start, stop, self.info.name)
        touched = self._touched(start, stop)
        if len(touched) == 1 and self._is_full(piece := touched[0]):
            return piece.source.rows(start - piece.offsets[0], stop - piece.offsets[0])
        found = np.empty((stop - start, *self.info.shape[1:]), storage_dtype(self.info.dtype))
        self._fill(start, found, touched)
        return found

    def read(self) -> Array:
        if len(self.pieces) == 1:
            return self.pieces[0].source.read()
        return self.rows(0, self.info.shape[0])

    def read_into(self, start: int, out: Array) -> None:
        check_buffer(self.info.shape, start, out, self.info.name)
        self._fill(start, out, self._touched(start, start + len(out)))

    def blocks(self, limit_bytes: int) -> Iterator[Array]:
        if all(map(self._is_full, self.pieces)):
            for piece in self.pieces:
                yield from piece.source.blocks(limit_bytes)
            return
        dtype = storage_dtype(self.info.dtype)
        each = max(1, limit_bytes // dtype.itemsize)
        rows, *row = self.info.shape
        buffer = np.empty((max(1, min(rows, each // math.prod(row))), *row), dtype)
        for at in range(0, rows, len(buffer)):
            block = buffer[: rows - at]
            self._fill(at, block, self._touched(at, at + len(block)))
            flat = block.reshape(-1)
            for part in range(0, flat.size, each):
                yield flat[part : part + each]

    def _touched(self, start: int, stop: int) -> list[Piece]:
        first, behind = self._bounds
        return [self.pieces[i] for i in np.flatnonzero((first < stop) & (behind > start))] if start < stop else []

    def _is_full(self, piece: Piece) -> bool:
        return piece.sizes[1:] == self.info.shape[1:]

    def _fill(self, start: int, out: Array, touched: Sequence[Piece]) -> None:
        for piece in touched:
            first = max(start, piece.offsets[0])
            behind = min(start + len(out), piece.offsets[0] + piece.sizes[0])
            part = out[first - start : behind - start]
            if self._is_full(piece):
                piece.source.read_into(first - piece.offsets[0], part)
            else:
                columns = tuple(slice(at, at + size) for at, size in zip(piece.offsets[1:], piece.sizes[1:], strict=True))
                _fill_narrow(piece, first - piece.offsets[0], part[:, *columns])


def tiled(info: TensorInfo, pieces: Iterable[Piece], where: str) -> JoinedTensor:
    """The tensor that `pieces` make up, in any order and in any number of dimensions. Of pieces with the same place, as
    replicas save them, one counts. `where` names the file or folder; `Corrupt` says which piece breaks the rule."""
    what = f"{where}: tensor {info.name}"
    places: dict[tuple[tuple[int, ...], tuple[int, ...]], Piece] = {}
    for piece in pieces:
        _check_piece(info, piece, what)
        if 0 not in piece.sizes:
            places.setdefault((piece.offsets, piece.sizes), piece)
        if len(places) > MAX_PIECES:
            raise Corrupt(f"{what}: more than {MAX_PIECES} pieces")
    ordered = tuple(places[place] for place in sorted(places))
    _check_tiling(info, ordered, what)
    bounds = [(piece.offsets[0], piece.offsets[0] + piece.sizes[0]) if piece.sizes else (0, 1) for piece in ordered]
    return JoinedTensor(info, ordered, np.array(bounds, np.int64).reshape(-1, 2).T.copy())


def concatenated(name: str, sources: Sequence[TensorSource], where: str, *, role: Role | None = None) -> JoinedTensor:
    """`sources`, at least one, in order along the first dimension, as the one tensor `name`; they agree in dtype and in every
    other dimension, else `Corrupt`."""
    dtype, row = sources[0].info.dtype, sources[0].info.shape[1:]
    pieces: list[Piece] = []
    rows = 0
    for source in sources:
        if source.info.dtype != dtype or not source.info.shape or source.info.shape[1:] != row:
            wanted = f"{dtype}[{', '.join(map(str, ('…', *row)))}]"
            found = f"{source.info.dtype}{list(source.info.shape)}"
            raise Corrupt(f"{where}: part {len(pieces)} of tensor {name}, {source.info.name}, is {found}, not {wanted}")
        pieces.append(Piece((rows, *(0 for _ in row)), source))
        rows += source.info.shape[0]
    shape = (rows, *row)
    nbytes = tensor_bytes(shape, dtype, f"{where}: tensor {name}")
    info = TensorInfo(name=name, shape=shape, dtype=dtype, role=role or role_of(name, shape, dtype), nbytes=nbytes)
    return tiled(info, pieces, where)


def _fill_narrow(piece: Piece, row: int, out: Array) -> None:
    """Fills `out`, which is not in C order, with rows of `piece` from `row`."""
    each = max(1, _SCRATCH_BYTES // (out.dtype.itemsize * math.prod(out.shape[1:])))
    scratch = np.empty((min(each, len(out)), *out.shape[1:]), out.dtype)
    for at in range(0, len(out), len(scratch)):
        taken = scratch[: len(out) - at]
        piece.source.read_into(row + at, taken)
        out[at : at + len(taken)] = taken


def _check_piece(info: TensorInfo, piece: Piece, what: str) -> None:
    if piece.source.info.dtype != info.dtype:
        raise Corrupt(f"{what}: the piece at {list(piece.offsets)} is {piece.source.info.dtype}, the tensor {info.dtype}")
    same = len(piece.offsets) == len(piece.sizes) == len(info.shape)
    if not same or any(
        at < 0 or at + size > whole for at, size, whole in zip(piece.offsets, piece.sizes, info.shape, strict=True)
    ):
        place = f"the piece at {list(piece.offsets)} of shape {list(piece.sizes)}"
        raise Corrupt(f"{what}: {place} leaves the tensor of shape {list(info.shape)}")


def _check_tiling(info: TensorInfo, pieces: Sequence[Piece], what: str) -> None:
    """Without overlap, as many elements as the tensor has fill it."""
    begin = np.array([piece.offsets for piece in pieces], np.int64).reshape(len(pieces), len(info.shape))
    end = begin + np.array([piece.sizes for piece in pieces], np.int64).reshape(len(pieces), len(info.shape))
    for first, second in _overlaps(begin, end):
        at, other = pieces[first], pieces[second]
        pair = f"{list(at.offsets)} of shape {list(at.sizes)} and at {list(other.offsets)} of shape {list(other.sizes)}"
        raise Corrupt(f"{what}: the pieces at {pair} overlap")
    held, wanted = sum(math.prod(piece.sizes) for piece in pieces), math.prod(info.shape)
    if held != wanted:
        raise Corrupt(f"{what}: {len(pieces)} pieces hold {held} of its {wanted} elements: a piece is missing")


def _overlaps(begin: NDArray[np.int64], end: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Pairs of boxes (int64[boxes, dimensions], none of them empty) that share an element."""
    if not begin.shape[1]:
        yield from ((0, i) for i in range(1, len(begin)))
        return
    # Swept along the dimension that is cut most often, so that few boxes are met at a time.
    axis = int(np.argmax([len(np.unique(column)) for column in begin.T]))
    met = np.empty(0, np.int64)
    for i in np.argsort(begin[:, axis], kind="stable"):
        met = met[end[met, axis] > begin[i, axis]]
        for other in met[np.all((begin[met] < end[i]) & (end[met] > begin[i]), axis=1)]:
            yield int(other), int(i)
        met = np.append(met, i)
