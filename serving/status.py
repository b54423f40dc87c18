"""What a replica says of itself, to people and to machines."""

from __future__ import annotations

import msgspec

from penstock.pipeline.core.coordination import PartitionPresence
from penstock.pipeline.core.ids import State, Version
from penstock.pipeline.core.times import format_time

from .partition import Counters
from .replica import Replica


class PartitionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A partition's position, lag and freshness, and what was dropped, held and refused in it."""

    partition: int
    offset: int
    end: int
    version: int
    timeline: int
    lag_records: int
    lag_ms: float | None
    trained_through: str
    freshness_s: float | None
    alarm: str
    counters: dict[str, int]


class TableStatus(msgspec.Struct, frozen=True, kw_only=True):
    rows: int
    dim: int
    bytes: int


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`digest`: at `version`, the newest that every partition has adopted; `table_digests` the same, a table each, in hex."""

    replica: str
    model: str
    ref: str
    address: str
    ready: bool
    version: Version
    state: str
    timeline: int
    digest: str
    dense: str | None
    buckets: tuple[int, int]
    tables: dict[str, TableStatus]
    partitions: tuple[PartitionStatus, ...]
    failure: str


def status_of(replica: Replica) -> ReplicaStatus:
    now = replica.env.clock()
    presence = replica.presence(now)
    tables = replica.follower.tables
    return ReplicaStatus(
        replica=replica.name, model=replica.env.catalog.model, ref=replica.ref, address=replica.address, ready=presence.ready,
        version=presence.version, state=str(State(*presence.state)), timeline=replica.timeline, digest=presence.digest,
        dense=None if replica.dense is None else replica.dense.info.digest, buckets=presence.buckets,
        tables={
            name: TableStatus(rows=table.row_count, dim=replica.follower.schema.table(name).dim, bytes=table.nbytes)
            for name, table in tables.items()
        },
        partitions=tuple(
            _partition(found, replica.follower.partitions[found.partition].counters, now)  # type: ignore[index]
            for found in presence.partitions
        ),
        failure="" if replica.failure is None else str(replica.failure),
    )  # fmt: skip


def _partition(found: PartitionPresence, counters: Counters, now: int) -> PartitionStatus:
    learned = format_time(found.trained_through)
    return PartitionStatus(
        partition=found.partition, offset=found.offset, end=found.end, version=found.version, timeline=found.timeline,
        lag_records=found.end - found.offset, lag_ms=found.lag_ms, trained_through=learned,
        freshness_s=None if learned == "never" else (now - found.trained_through) / 1e6, alarm=found.alarm,
        counters={name: getattr(counters, name) for name in Counters.__dataclass_fields__},
    )  # fmt: skip
