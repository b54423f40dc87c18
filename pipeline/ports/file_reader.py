"""One partition of a file log, as its readers see it: records from an offset on, up to the tail and never beyond.

It takes no lock and changes nothing. A reader that goes on where it stopped neither lists nor seeks.
"""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock

from ..core.errors import Corrupt, Refused, Unreachable
from ..core.ids import Offset, Partition
from .file_format import HEADER, Block, Tail, segment_name
from .file_partition import FilePartition
from .file_segments import BLOCK_BYTES, Place, bases_in, indexed_places, read_block
from .log import LogEntry
from .log_checks import above_end, below_begin


class PartitionReader:
    """For any number of threads, one at a time; quick for one that reads on."""

    def __init__(self, folder: Path, *, url: str, partition: Partition, store: FilePartition, max_record_bytes: int) -> None:
        self._folder = folder
        self._url = url
        self._partition = partition
        self._store = store
        self._max_record_bytes = max_record_bytes
        self._mutex = Lock()
        self._segment: tuple[Offset, int] | None = None
        self._next: Place | None = None

    def read(self, offset: Offset, *, most_bytes: int, at_least: int) -> list[LogEntry]:
        """Records from `offset` on: as many as are acknowledged and fit, but `at_least` (0 or 1) if there is one."""
        tail = self._store.tail.read()
        if offset == tail.offset:
            return []
        if offset > tail.offset:
            raise above_end(self._url, self._partition, offset, tail.offset)
        with self._mutex:
            try:
                return self._read(offset, tail, most_bytes, at_least)
            except Corrupt as error:
                raise Corrupt(f"{self._url} partition {self._partition}: {error}") from error
            except OSError as error:
                raise Unreachable(f"{self._folder}: cannot read: {error.strerror}") from error

    def close(self) -> None:
        with self._mutex:
            if self._segment is not None:
                os.close(self._segment[1])
                self._segment = None

    def _read(self, offset: Offset, tail: Tail, most_bytes: int, at_least: int) -> list[LogEntry]:
        place = self._next if self._next is not None and self._next.offset == offset else self._sought(offset, tail)
        entries: list[LogEntry] = []
        while place.offset < tail.offset:
            try:
                place, block = self._step(place, tail, most_bytes, at_least if not entries else 0)
            except Refused:
                if entries:
                    break
                raise
            if not block.entries:
                break
            entries += block.entries
            most_bytes -= block.size
            place = Place(Offset(place.offset + len(block.entries)), place.base, place.position + block.size)
        self._next = place
        return entries

    def _step(self, place: Place, tail: Tail, most_bytes: int, at_least: int) -> tuple[Place, Block]:
        """The next block of records, and its place, which may be the start of the next segment."""
        limit = self._limit(place, tail)
        if place.position >= limit and place.base != tail.base:
            if place.offset == place.base:
                raise Corrupt(f"offset {place.offset}: segment {place.base} is empty")
            place = Place(place.offset, place.offset, 0)
            limit = self._limit(place, tail)
        block = self._block(place, limit, most_bytes, at_least)
        if at_least and not block.entries:
            raise Corrupt(f"offset {place.offset}: the record reaches over the end at {limit} of segment {place.base}")
        return place, block

    def _block(self, place: Place, limit: int, most_bytes: int, at_least: int) -> Block:
        return read_block(
            self._opened(place.base, place.offset),
            place,
            limit=limit,
            max_record_bytes=self._max_record_bytes,
            most_bytes=most_bytes,
            at_least=at_least,
        )

    def _limit(self, place: Place, tail: Tail) -> int:
        """The position behind the last acknowledged record of the segment."""
        if place.base == tail.base:
            return tail.position
        return os.fstat(self._opened(place.base, place.offset)).st_size

    def _opened(self, base: Offset, offset: Offset) -> int:
        """The descriptor of a segment; one that was deleted meanwhile can still be read to its end."""
        if self._segment is None or self._segment[0] != base:
            try:
                opened = os.open(self._folder / segment_name(base), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                if offset < (begin := bases_in(self._folder)[0]):
                    raise below_begin(self._url, self._partition, offset, begin) from None
                raise Corrupt(f"offset {offset}: segment {base} is missing") from None
            if self._segment is not None:
                os.close(self._segment[1])
            self._segment = (base, opened)
            self._store.check_not_replaced()
        return self._segment[1]

    def _sought(self, offset: Offset, tail: Tail) -> Place:
        bases = bases_in(self._folder)
        if offset < bases[0]:
            raise below_begin(self._url, self._partition, offset, bases[0])
        base = max(base for base in bases if base <= offset)
        start = Place(base, base, 0)
        limit = self._limit(start, tail)
        for hint in indexed_places(self._folder, offset, base):
            try:
                return self._walked(hint, offset, limit)
            except Corrupt:
                continue
        return self._walked(start, offset, limit)

    def _walked(self, place: Place, wanted: Offset, limit: int) -> Place:
        """The place of `wanted`, reached from an earlier one of its segment; `Corrupt` if that was none."""
        if not 0 <= place.position < limit:
            raise Corrupt(f"offset {wanted}: segment {place.base} has no position {place.position}")
        while True:
            block = self._block(place, limit, BLOCK_BYTES, 1)
            if not block.entries:
                raise Corrupt(f"offset {place.offset}: segment {place.base} ends before offset {wanted}")
            passed = block.entries[: wanted - place.offset]
            size = sum(HEADER.size + len(entry.payload) for entry in passed)
            place = Place(Offset(place.offset + len(passed)), place.base, place.position + size)
            if len(passed) < len(block.entries):
                return place
