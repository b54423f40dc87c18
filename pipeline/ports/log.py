"""The update log port: partitions of records that are appended, read by offset, and cut off at the front.

Offsets of a partition grow by one a record. A log knows nothing of what a record means: payloads are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from ..core.ids import Offset, Partition
from ..core.times import WallTime


class LogEntry(NamedTuple):
    """One record as it was read; `payload` may be a view into a larger buffer and is valid as long as it is held."""

    offset: Offset
    appended_at: WallTime
    payload: bytes | memoryview


class Pending(Protocol):
    """An append under way."""

    def done(self) -> bool:
        """True once `result` would return or raise without waiting."""

    def result(self, timeout_s: float) -> Offset:
        """The record's offset once it is durable. `OutcomeUnknown`: it may be in the log, or get there later."""


class UpdateLog(Protocol):
    """Errors: `PositionGone` (an offset below `begin` or above `end`), `OutcomeUnknown`, `Unreachable`, `StorageFull`,
    `InvalidInput` (payload larger than `max_record_bytes`), `Corrupt` (the log's own framing)."""

    @property
    def url(self) -> str: ...

    @property
    def identity(self) -> str:
        """Names this log and no other, also after it was deleted and made again under the same name."""

    @property
    def partitions(self) -> int: ...

    @property
    def max_record_bytes(self) -> int: ...

    def append(self, partition: Partition, payload: bytes) -> Pending:
        """Queues one record behind those that this object queued before for the partition, and keeps that order."""

    def flush(self, timeout_s: float) -> None:
        """Waits until all that was queued is durable or has failed; failures are reported by their `Pending`. `PositionGone` when
        this is not the log any more that was opened, whatever was acknowledged."""

    def begin(self, partition: Partition) -> Offset:
        """The oldest offset that can still be read."""

    def end(self, partition: Partition) -> Offset:
        """The offset that the next record will get."""

    def poll(
        self, wanted: Mapping[Partition, Offset], *, timeout_s: float, max_bytes: int = 8 << 20
    ) -> Mapping[Partition, Sequence[LogEntry]]:
        """Records of each partition from its offset on, as many as are there and fit; waits up to `timeout_s` for the first."""

    def truncate(self, partition: Partition, before: Offset) -> None:
        """Gives up records below `before`; `begin` never moves past it, and may stay below it (whole segments)."""

    def close(self) -> None: ...
