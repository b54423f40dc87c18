"""What a replica tells the catalog, and who asks, of itself; and whether it should be asked. Changes nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from penstock.pipeline.config import microseconds
from penstock.pipeline.core.coordination import PartitionPresence, Presence
from penstock.pipeline.core.digests import digest_text
from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.ids import Offset
from penstock.pipeline.core.times import NEVER, WallTime, format_time

from .partition import PartitionState
from .status import Health, PartitionStatus, ReplicaStatus, TableStatus

if TYPE_CHECKING:
    from .replica import Replica


def presence_of(replica: Replica, now: WallTime) -> Presence:
    """The digests are those at the version that it names, where they are known."""
    confirmed, config = replica.confirmed, replica.env.config.replica
    assert confirmed is not None
    tables = replica.follower.tables
    return Presence(
        id=replica.env.catalog.new_id(), replica=replica.name, address=replica.address, ref=replica.ref,
        buckets=(replica.buckets.start, replica.buckets.stop), version=confirmed.manifest.version, state=confirmed.manifest.state,
        digest=confirmed.digest, digests={name: DigestVector.of(digests) for name, digests in confirmed.digests.items()},
        rows={name: table.row_count for name, table in tables.items()}, bytes=sum(table.nbytes for table in tables.values()),
        partitions=tuple(_partition(replica, state, now) for state in replica.follower.partitions.values()),
        ready=replica.ready(now), at=now, until=WallTime(now + microseconds(config.lease)),
    )  # fmt: skip


def _partition(replica: Replica, state: PartitionState, now: WallTime) -> PartitionPresence:
    counters = state.counters
    return PartitionPresence(
        partition=state.partition, offset=state.offset, end=end_of(replica, state), version=state.version,
        timeline=state.timeline, lag_ms=lag_ms(replica, state, now), trained_through=state.trained_through,
        gaps=counters.gaps, dropped=counters.dropped, reloaded=counters.reloaded, skipped=counters.skipped, alarm=state.alarm,
    )  # fmt: skip


def status_of(replica: Replica) -> ReplicaStatus:
    now, confirmed, dense = replica.env.clock(), replica.confirmed, replica.dense
    assert confirmed is not None
    presence, follower = presence_of(replica, now), replica.follower
    return ReplicaStatus(
        replica=replica.name, model=replica.env.catalog.model, ref=replica.ref, address=replica.address, ready=presence.ready,
        version=presence.version, state=str(presence.state), timeline=replica.timeline, digest=presence.digest,
        table_digests={name: digest_text({name: found}) for name, found in confirmed.digests.items()},
        dense=None if dense is None or dense.info is None else dense.info.digest, buckets=presence.buckets,
        tables={
            name: TableStatus(
                rows=table.row_count, dim=table.dim, bytes=table.nbytes, keys=replica.lookups.key_type(name)
            )
            for name, table in follower.tables.items()
        },
        partitions=tuple(
            _status(replica, found, state, now)
            for found, state in zip(presence.partitions, follower.partitions.values(), strict=True)
        ),
        failure=replica.trouble if replica.failure is None else str(replica.failure), why=why_not_ready(replica, now),
        leaving=replica.is_leaving,
    )  # fmt: skip


def health_of(replica: Replica) -> Health:
    why = why_not_ready(replica, replica.env.clock())
    return Health(
        replica=replica.name, ready=not why, why=why, leaving=replica.is_leaving, version=replica.version,
        timeline=replica.timeline, buckets=(replica.buckets.start, replica.buckets.stop),
        failure="" if replica.failure is None else str(replica.failure), model=replica.env.catalog.model,
        bucket_count=replica.follower.schema.buckets,
    )  # fmt: skip


def _status(replica: Replica, found: PartitionPresence, state: PartitionState, now: WallTime) -> PartitionStatus:
    confirmed, part = replica.confirmed, replica.follower.holding.part(state.partition)
    assert confirmed is not None
    sums = {name: digests[part.start : part.stop].sum() for name, digests in confirmed.digests.items()}
    through = found.trained_through
    return PartitionStatus(
        partition=found.partition, offset=found.offset, end=found.end, version=found.version, timeline=found.timeline,
        lag_records=found.end - found.offset, lag_ms=found.lag_ms, trained_through=format_time(through),
        freshness_s=None if through == NEVER else (now - through) / 1e6,
        silence_s=(now - state.heard_at) / 1e6 if state.heard_at else None,
        digests={name: f"{int(total):016x}" for name, total in sums.items()}, alarm=found.alarm, counters=asdict(state.counters),
    )  # fmt: skip


def end_of(replica: Replica, state: PartitionState) -> Offset:
    return max(replica.ends.get(state.partition, state.offset), state.offset)


def lag_ms(replica: Replica, state: PartitionState, now: WallTime) -> float | None:
    """From written to readable: of the newest record, or, while there are more, how old those may be. None: nothing is known."""
    current_at = _current_at(replica, state)
    if state.offset < end_of(replica, state):
        return max(0.0, (now - current_at) / 1000) if current_at else None
    return replica.latency_ms.get(state.partition)


def _current_at(replica: Replica, state: PartitionState) -> WallTime:
    """What the log took before this was read."""
    return max(state.heard_at, replica.at_end_at.get(state.partition, WallTime(0)))


def is_ready(replica: Replica, now: WallTime) -> bool:
    return not why_not_ready(replica, now)


def why_not_ready(replica: Replica, now: WallTime) -> str:
    """It should be asked ("") if it stays, nothing has failed, it is not cut off, and no partition stands still or is far behind.
    A trainer that is silent does not make a replica unready: what it serves grows older, but nobody has anything better."""
    settings = replica.env.config.replica
    heard_at = min(replica.looked_at, replica.heard_at) if replica.follower.follows_log else replica.looked_at
    if replica.is_leaving:
        return "it is leaving"
    if replica.failure is not None or replica.trouble:
        return replica.trouble or f"it stopped following: {replica.failure}"
    if now - heard_at > microseconds(settings.max_silence):
        return f"cut off for {(now - heard_at) / 1e6:.0f} s"
    limit = microseconds(settings.max_lag)
    for state in replica.follower.partitions.values():
        if state.alarm:
            return f"partition {state.partition} stands still: {state.alarm}"
        if _is_behind(replica, state, now, limit):
            return f"partition {state.partition} is behind by {end_of(replica, state) - state.offset} records"
    return ""


def _is_behind(replica: Replica, state: PartitionState, now: WallTime, limit: int) -> bool:
    """There are records to read, which may be older than the limit."""
    known = replica.follower.known
    if known.follow != "log" or known.frozen is not None or state.paused:
        return False
    return state.offset < end_of(replica, state) and now - _current_at(replica, state) > limit
