"""Reads runs: a stretch of buckets, single keys, or everything to see whether it is what was written. Refuses whatever is
not exactly as its info and its layout say. Knows nothing of chains and versions.

Where the store is a local folder a run is mapped; elsewhere every read is one range request, and what is read follows
what is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt
from penstock.pipeline.core.hashing import add_tombstones
from penstock.pipeline.core.manifest import RunInfo
from penstock.pipeline.ports.local_files import translated
from penstock.pipeline.ports.store import ObjectStore

from . import packing
from .arrow_frame import PREFIX, schema_length
from .mapping import mapped
from .ordering import OPEN, Ordered, disordered, locate, ordered
from .run_layout import RunLayout, TableLayout, parsed
from .run_writing import digest_hex

FIRST_READ = 16 << 10
"""Enough for the head of a run with a few hundred buckets."""
MAX_HEAD = 4 << 20
VERIFY_BYTES = 8 << 20
NEAR = 64 << 10
"""Bytes between two wanted stretches that are rather read than asked for twice."""


class Run:
    """An open run. Positions count its keys from 0; arrays that it gives are read-only and outlive it."""

    def __init__(self, store: ObjectStore, info: RunInfo, layout: RunLayout, memory: NDArray[np.uint8] | None) -> None:
        self.info = info
        self.layout = layout
        self._store = store
        self._memory = memory

    @classmethod
    def open(cls, store: ObjectStore, info: RunInfo, *, buckets: int, layout: TableLayout | None = None) -> Run:
        """Reads the head. `Corrupt` names the rule that the run breaks, `NotFound` when it is not there; with `layout` a run of
        another table, codec or dim is refused too."""
        size, path = store.size(info.path), store.local_path(info.path)
        if size != info.bytes:
            raise Corrupt(f"{info.path}: {size} bytes, {info.bytes} were written")
        with translated(info.path):
            memory = None if path is None else mapped(path)
        if memory is not None and len(memory) != size:
            raise Corrupt(f"{info.path}: {len(memory)} bytes, {info.bytes} were written")
        run = parsed(_schema_message(store, info, memory), info.path)
        opened = cls(store, info, run, memory)
        opened._check_head(buckets, layout)
        return opened

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._memory = None

    @property
    def offsets(self) -> NDArray[np.int64]:
        """int64[buckets + 1]: bucket b is at positions [offsets[b], offsets[b + 1])."""
        return self.layout.offsets

    @property
    def span(self) -> tuple[int, int]:
        """The smallest and the largest key."""
        return self.layout.first, self.layout.last

    @property
    def store(self) -> ObjectStore:
        return self._store

    @property
    def is_local(self) -> bool:
        return self._memory is not None

    def keys(self, buckets: range | None = None) -> NDArray[np.int64]:
        """int64[n] of these buckets (all by default), in the order of the run."""
        return self.keys_at(*self._span(buckets))

    def rows(self, buckets: range | None = None) -> NDArray[np.uint8]:
        """uint8[n, width] of these buckets (all by default), in the order of the run."""
        return self.rows_at(*self._span(buckets))

    def keys_at(self, low: int, high: int) -> NDArray[np.int64]:
        """int64[high - low] of these positions."""
        return self._read(self.layout.frame.keys_at + 8 * low, 8 * (high - low)).view(np.int64)

    def rows_at(self, low: int, high: int) -> NDArray[np.uint8]:
        """uint8[high - low, width] of these positions."""
        width = self.layout.frame.width
        return self._read(self.layout.frame.rows_at + width * low, width * (high - low)).reshape(high - low, width)

    def find(self, keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Positions (int64[n], -1 where not found) of distinct keys in any order, and which are there."""
        asked = ordered(keys, len(self.offsets) - 1, name=self.info.path)
        which, positions = np.full(len(keys), OPEN, np.int32), np.full(len(keys), -1, np.int64)
        self.locate(asked, which, positions, 0)
        found = np.empty(len(keys), np.int64)
        found[asked.order] = positions
        return found, found >= 0

    def locate(self, asked: Ordered, which: NDArray[np.int32], positions: NDArray[np.int64], number: int) -> int:
        """As `ordering.locate` says, in this run."""
        if self._memory is not None:
            return locate(self.keys(), self.offsets, asked, which, positions, number)
        before, hits = np.append(0, np.cumsum(which == OPEN))[asked.offsets], 0
        wanted = np.flatnonzero((np.diff(before) > 0) & (np.diff(self.offsets) > 0))
        for first, last in _joined(self.offsets[wanted], self.offsets[wanted + 1], NEAR // 8):
            low, high = self.offsets[wanted[first]], self.offsets[wanted[last] + 1]
            # Buckets outside of the stretch count as empty: their keys are not looked for here.
            keys, bounds = self.keys_at(int(low), int(high)), np.clip(self.offsets, low, high)
            hits += locate(keys, bounds, asked, which, positions, number)
        return hits

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8[n, width] of the rows at rising positions."""
        width = self.layout.frame.width
        rows = np.empty((len(positions), width), np.uint8)
        if self._memory is not None:
            packing.gather(packing.flat(self.rows()), positions, width, packing.flat(rows))
            return rows
        for first, last in _joined(positions, positions + 1, max(1, NEAR // width)):
            low = int(positions[first])
            part = self.rows_at(low, int(positions[last]) + 1)
            rows[first : last + 1] = part[positions[first : last + 1] - low]
        return rows

    def verify(self) -> NDArray[np.uint64]:
        """Reads every byte: uint64[buckets] digests of the rows or tombstones, as they are. `Corrupt` for keys out of order
        or in the wrong bucket, for bytes round the columns that differ, and for a digest that the info does not state."""
        digests = np.zeros(len(self.offsets) - 1, np.uint64)
        previous: np.int64 | None = None
        first, last = 2**63 - 1, -(2**63)
        for low, high in self._steps():
            keys, bounds = self.keys_at(low, high), np.clip(self.offsets, low, high)
            at = disordered(keys, bounds)
            straddles = low not in self.offsets and previous is not None and previous >= keys[0]
            if at >= 0 or straddles:
                raise Corrupt(f"{self.info.path}: the key at position {max(at, low)} is out of order or in the wrong bucket")
            previous, first, last = keys[-1], min(first, int(keys.min())), max(last, int(keys.max()))
            if self.layout.kind == "rows":
                packing.add_puts(keys, packing.flat(self.rows_at(low, high)), self.layout.frame.width, digests)
            else:
                add_tombstones(digests, keys)
        frame = self.layout.frame
        self._check_zeros(frame.keys_at + 8 * frame.rows, frame.rows_at)
        self._check_zeros(frame.rows_at + frame.rows * frame.width, frame.tail_at)
        if self._read(frame.tail_at, len(frame.tail)).tobytes() != frame.tail:
            raise Corrupt(f"{self.info.path}: its footer is not the one that was written")
        if (first, last) != self.span:
            raise Corrupt(f"{self.info.path}: keys from {first} to {last}, its metadata says {self.span[0]} to {self.span[1]}")
        if digest_hex(digests) != self.info.digest:
            raise Corrupt(f"{self.info.path}: digest {digest_hex(digests)}, {self.info.digest} was written")
        return digests

    def _steps(self) -> Iterator[tuple[int, int]]:
        step = max(1, VERIFY_BYTES // (8 + self.layout.frame.width))
        for low in range(0, self.layout.rows, step):
            yield low, min(low + step, self.layout.rows)

    def _span(self, buckets: range | None) -> tuple[int, int]:
        if buckets is None:
            return 0, self.layout.rows
        return int(self.offsets[buckets.start]), int(self.offsets[buckets.stop])

    def _read(self, start: int, length: int) -> NDArray[np.uint8]:
        if self._memory is not None:
            return self._memory[start : start + length]
        data = self._store.get_range(self.info.path, start, length) if length else b""
        return np.frombuffer(data, np.uint8)

    def _check_head(self, buckets: int, layout: TableLayout | None) -> None:
        run, info = self.layout, self.info
        table = layout or run.table
        facts = (
            ("kind", run.kind, info.kind), ("keys", run.rows, info.rows), ("bytes", run.frame.size, info.bytes),
            ("buckets", run.table.buckets, buckets), ("table", run.table.table, table.table),
            ("codec", run.table.codec, table.codec), ("dim", run.table.dim, table.dim),
            ("bytes a row", run.frame.width, table.width if run.kind == "rows" else 0),
        )  # fmt: skip
        for what, found, expected in facts:
            if found != expected:
                raise Corrupt(f"{info.path}: {what} {found} in the file, {expected} is what it should be")
        if self._read(0, len(run.frame.head)).tobytes() != run.frame.head:
            raise Corrupt(f"{info.path}: its record batch is not described as its metadata says")

    def _check_zeros(self, start: int, stop: int) -> None:
        if self._read(start, stop - start).any():
            raise Corrupt(f"{self.info.path}: bytes {start} to {stop} are padding, and not zero")


def _schema_message(store: ObjectStore, info: RunInfo, memory: NDArray[np.uint8] | None) -> bytes:
    def read(length: int) -> bytes:
        return store.get_range(info.path, 0, length) if memory is None else memory[:length].tobytes()

    start = read(min(info.bytes, FIRST_READ))
    length = schema_length(start, info.path)
    if length > min(info.bytes, MAX_HEAD):
        raise Corrupt(f"{info.path}: a schema of {length} bytes in a file of {info.bytes}")
    end = PREFIX.size - 8 + length
    return (start if end <= len(start) else read(end))[8:end]


def _joined(starts: NDArray[np.int64], stops: NDArray[np.int64], near: int) -> Iterator[tuple[int, int]]:
    """First and last index of each group of rising stretches with at most `near` between one and the next."""
    if len(starts):
        breaks = np.flatnonzero(starts[1:] - stops[:-1] > near)
        yield from zip(np.append(0, breaks + 1).tolist(), np.append(breaks, len(starts) - 1).tolist(), strict=True)
