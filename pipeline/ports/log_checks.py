"""What every update log refuses in the same words, and the settings that a log is born with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..core.errors import InvalidInput, PositionGone
from ..core.ids import Offset, Partition
from .log import UpdateLog

DEFAULT_RECORD_BYTES = 4 << 20
ENTRY_BYTES = 24
"""What a record counts for in a poll beside its payload, so that empty ones are bounded too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What a log is created with; an existing one that gives less is refused.

    `retention_ms` (-1: for ever), `replication_factor` and `min_insync_replicas` are Kafka's: a file log keeps records
    until they are truncated. `segment_bytes` is the file log's.
    """

    max_record_bytes: int = DEFAULT_RECORD_BYTES
    retention_ms: int = 7 * 24 * 3_600_000
    replication_factor: int = 1
    min_insync_replicas: int = 1
    segment_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for name in ("max_record_bytes", "replication_factor", "min_insync_replicas", "segment_bytes"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.retention_ms < 1 and self.retention_ms != -1:
            raise InvalidInput(f"retention_ms must be positive, or -1 for ever, not {self.retention_ms}")
        if self.min_insync_replicas > self.replication_factor:
            raise InvalidInput(
                f"min_insync_replicas {self.min_insync_replicas} exceeds replication_factor {self.replication_factor}"
            )


def checked_partition(log: UpdateLog, partition: Partition) -> Partition:
    """`partition`, if the log has it."""
    if not 0 <= partition < log.partitions:
        raise InvalidInput(f"{log.url} has partitions 0 to {log.partitions - 1}, not {partition}")
    return partition


def checked_payload(log: UpdateLog, payload: bytes) -> bytes:
    """`payload`, if it is not larger than the log takes."""
    if len(payload) > log.max_record_bytes:
        raise InvalidInput(f"{log.url} takes records of {log.max_record_bytes} bytes at most, not of {len(payload)}")
    return payload


def in_turn(wanted: Iterable[Partition], turn: int) -> list[Partition]:
    """The partitions in their order, begun with another one each turn: a full one does not keep the others waiting."""
    order = list(wanted)
    first = turn % max(1, len(order))
    return order[first:] + order[:first]


def below_begin(url: str, partition: Partition, wanted: Offset, begin: Offset) -> PositionGone:
    return PositionGone(f"{url} partition {partition}: offset {wanted} is gone, the log begins at {begin}")


def above_end(url: str, partition: Partition, wanted: Offset, end: Offset) -> PositionGone:
    return PositionGone(f"{url} partition {partition}: offset {wanted} does not exist, the log ends at {end}")


def another_log(url: str, identity: str) -> PositionGone:
    return PositionGone(f"{url} is no longer the log {identity}: it was deleted or made again")
