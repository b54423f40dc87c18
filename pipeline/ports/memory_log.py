"""The update log in memory, for tests and the simulation: every append is acknowledged at once, nothing runs beside it.

It keeps no files and starts no threads; threads may share it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Condition

from ..core.ids import Offset, Partition
from ..core.times import WallTime
from .log import LogEntry
from .log_checks import DEFAULT_RECORD_BYTES, ENTRY_BYTES, above_end, below_begin, checked_partition, checked_payload, in_turn
from .wall_clock import system_clock


@dataclass(frozen=True, slots=True)
class Appended:
    """The `Pending` of a record that is there already."""

    offset: Offset

    def done(self) -> bool:
        return True

    def result(self, timeout_s: float) -> Offset:
        return self.offset


class MemoryLog:
    """`identity` may be given, so that a simulation is the same every time."""

    def __init__(
        self,
        partitions: int,
        *,
        identity: str | None = None,
        max_record_bytes: int = DEFAULT_RECORD_BYTES,
        clock: Callable[[], WallTime] = system_clock,
    ) -> None:
        self._identity = identity or uuid.uuid4().hex
        self._max_record_bytes = max_record_bytes
        self._clock = clock
        self._grown = Condition()
        self._turn = 0
        self._begins = [Offset(0)] * partitions
        self._records: list[list[LogEntry]] = [[] for _ in range(partitions)]

    @property
    def url(self) -> str:
        return f"memory://{self._identity}"

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def partitions(self) -> int:
        return len(self._records)

    @property
    def max_record_bytes(self) -> int:
        return self._max_record_bytes

    def append(self, partition: Partition, payload: bytes) -> Appended:
        checked_partition(self, partition)
        checked_payload(self, payload)
        with self._grown:
            offset = self._end(partition)
            self._records[partition].append(LogEntry(offset, self._clock(), bytes(payload)))
            self._grown.notify_all()
        return Appended(offset)

    def flush(self, timeout_s: float) -> None:
        """Nothing is ever under way."""

    def begin(self, partition: Partition) -> Offset:
        return self._begins[checked_partition(self, partition)]

    def end(self, partition: Partition) -> Offset:
        checked_partition(self, partition)
        with self._grown:
            return self._end(partition)

    def poll(
        self, wanted: Mapping[Partition, Offset], *, timeout_s: float, max_bytes: int = 8 << 20
    ) -> Mapping[Partition, Sequence[LogEntry]]:
        deadline = time.monotonic() + timeout_s
        with self._grown:
            while not (found := self._read(wanted, max_bytes)):
                if not self._grown.wait(max(0.0, deadline - time.monotonic())):
                    return self._read(wanted, max_bytes)
        return found

    def truncate(self, partition: Partition, before: Offset) -> None:
        checked_partition(self, partition)
        with self._grown:
            begin, end = self._begins[partition], self._end(partition)
            if before > end:
                raise above_end(self.url, partition, before, end)
            if before > begin:
                del self._records[partition][: before - begin]
                self._begins[partition] = before

    def close(self) -> None:
        """Nothing to give back; the records stay."""

    def _end(self, partition: Partition) -> Offset:
        return Offset(self._begins[partition] + len(self._records[partition]))

    def _read(self, wanted: Mapping[Partition, Offset], max_bytes: int) -> dict[Partition, list[LogEntry]]:
        found: dict[Partition, list[LogEntry]] = {}
        room = max_bytes
        self._turn += 1
        for partition in in_turn(wanted, self._turn):
            offset = wanted[partition]
            begin, end = self._begins[checked_partition(self, partition)], self._end(partition)
            if offset < begin:
                raise below_begin(self.url, partition, offset, begin)
            if offset > end:
                raise above_end(self.url, partition, offset, end)
            for entry in self._records[partition][offset - begin :]:
                room -= ENTRY_BYTES + len(entry.payload)
                if found and room < 0:
                    return found
                found.setdefault(partition, []).append(entry)
        return found
