"""What the catalog and the log say of a model as it is now, in one document: for `penstock status`, and for the exporter."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

import msgspec

from .alarms import alarms
from .output import VersionDocument, version_document

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..core.coordination import Presence
    from ..core.documents import DigestVector
    from ..core.history import History
    from ..core.ids import Offset
    from ..core.manifest import Manifest
    from ..core.refs import Refs
    from ..core.times import WallTime
    from ..environment import Environment
    from .log_watch import LogWatch

VERSIONS = 8
"""How many of the newest versions are told."""
SILENT_FOR_S = 86400
"""How long a replica that is silent is told of; then it is forgotten."""


class PartitionDocument(msgspec.Struct, frozen=True, kw_only=True):
    partition: int
    offset: int
    end: int
    lag_records: int
    lag_ms: float | None
    freshness_s: float | None
    trained_through: str
    version: int
    timeline: int
    skipped: int
    alarm: str


class ReplicaDocument(msgspec.Struct, frozen=True, kw_only=True):
    replica: str
    address: str
    ref: str
    ready: bool
    version: int
    versions_behind: int
    digest: str | None
    table_digests: dict[str, str]
    rows: dict[str, int]
    bytes: int
    buckets: list[int]
    partitions: list[PartitionDocument]


class RefStatus(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    follow: str
    frozen: tuple[int, ...] | None


class TableShape(msgspec.Struct, frozen=True, kw_only=True):
    dim: int
    codec: str


class LogPartition(msgspec.Struct, frozen=True, kw_only=True):
    """`headroom`: records from the oldest one held to the live version's position; negative: that is lost. `silence_s`: since the
    newest record was taken."""

    partition: int
    begin: int
    end: int
    headroom: int
    silence_s: float | None


class SkipStatus(msgspec.Struct, frozen=True, kw_only=True):
    partition: int
    offset: int
    rule: str
    who: str
    at: str
    why: str


class CareStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the last run of `work` ended."""

    work: str
    ok: bool
    found: str
    who: str
    at: str
    age_s: float


class StatusDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`versions`: the newest ones, newest last. `digests_agree`: None while no two replicas that hold the same buckets stand at
    the same version. `skips`: what every reader passes over. `freshness_s`: the oldest of all partitions that are served.
    `rows_owed`: of marked checkpoints, not in the log, for the next delta to bring. `silent`: replicas that stopped reporting
    without a word. `chain`: versions that a newcomer of live loads; None where it is broken. `recovery_reach_s`: how far back a
    rollback can go, to the oldest version from which on the log is held; None where that is the birth. `retention_used`: the live
    version's age as a share of how long the log keeps records. `alarms` in words; `alerts`: their names in docs/runbook.md."""

    model: str
    version: int
    timeline: int
    state: str
    trained_through: str
    freshness_s: float | None
    refs: dict[str, RefStatus]
    rollback_under_way: int | None
    rollback_open_s: float | None
    rollback_by: str | None
    tables: dict[str, TableShape]
    log: list[LogPartition]
    version_age_s: float
    versions: list[VersionDocument]
    replicas: list[ReplicaDocument]
    silent: list[str]
    publishers: list[str]
    chain: int | None
    max_chain: int
    recovery_window_s: float
    recovery_reach_s: float | None
    retention_used: float
    uploads: int
    upload_oldest_s: float | None
    digests_agree: bool | None
    rows_owed: int
    skips: list[SkipStatus]
    care: list[CareStatus]
    alarms: list[str]
    alerts: list[str]
    at: str


def gathered(env: Environment, watch: LogWatch | None = None) -> StatusDocument:
    """All of it, as it is now. `watch` is given again by whoever looks again and again."""
    from penstock.publishers.marking import OFFLINE

    from ..catalog import leases
    from ..catalog.care import cares
    from ..catalog.checkpoints import rows_owed
    from ..catalog.skipping import skip_documents
    from ..config import microseconds
    from ..core.ids import Partition
    from ..core.refs import LIVE
    from ..core.times import NEVER, format_time
    from ..environment import log_settings
    from .log_watch import LogWatch

    watch = watch or LogWatch(env.log)
    now, refs, schema = env.clock(), env.catalog.refs(), env.catalog.reload_schema()
    history, window_us = env.catalog.history(refs), microseconds(env.config.recovery.window)
    newest, live = history.newest, history.version(refs.ref(LIVE).version)
    reported = leases.reported(env.catalog)
    presences = [p for p in reported if p.is_live(now)]
    claim = leases.open_claim(env.catalog, refs)
    uploads = [upload for upload in leases.uploads(env.catalog) if upload.status == "open"]
    served = [q.trained_through for p in presences for q in p.partitions if q.trained_through != NEVER]
    partitions = [Partition(p) for p in range(schema.partitions)]
    begins, ends = [env.log.begin(p) for p in partitions], [env.log.end(p) for p in partitions]
    newest_at = [watch.newest_at(p, end, now) for p, end in zip(partitions, ends, strict=True)]
    positions = [position.offset for position in live.positions.partitions]
    behind = any(end > offset for end, offset in zip(ends, positions, strict=True))
    found = StatusDocument(
        model=env.catalog.model, version=newest.version, timeline=refs.timeline, state=str(newest.state),
        trained_through=format_time(newest.trained_through), freshness_s=None if not served else (now - min(served)) / 1e6,
        refs={name: RefStatus(version=ref.version, follow=ref.follow, frozen=ref.frozen) for name, ref in refs.refs.items()},
        rollback_under_way=None if claim is None else claim.timeline,
        rollback_open_s=None if claim is None else (now - claim.at) / 1e6, rollback_by=None if claim is None else claim.who,
        tables={name: TableShape(dim=table.dim, codec=table.codec) for name, table in schema.tables.items()},
        log=[
            LogPartition(
                partition=p, begin=begin, end=end, headroom=offset - begin,
                silence_s=None if at is None else max(0.0, (now - at) / 1e6),
            )
            for p, begin, end, offset, at in zip(partitions, begins, ends, positions, newest_at, strict=True)
        ],
        version_age_s=(now - newest.created_at) / 1e6,
        versions=[version_document(manifest, refs, schema.buckets) for manifest in history.trunk[-VERSIONS:]],
        replicas=[_replica(presence, _behind(presence, history, refs), now) for presence in presences],
        silent=[p.replica for p in reported if not p.is_live(now) and now < p.until + 1_000_000 * SILENT_FOR_S],
        publishers=[t.publisher for t in leases.publisher_terms(env.catalog) if t.publisher != OFFLINE],
        chain=_chain_length(history, live), max_chain=env.config.retention.max_chain, recovery_window_s=window_us / 1e6,
        recovery_reach_s=_reach_s(history, begins, now),
        retention_used=(now - live.created_at) / (1000 * log_settings(env.config).retention_ms) if behind else 0.0,
        uploads=len(uploads), upload_oldest_s=max(((now - upload.created_at) / 1e6 for upload in uploads), default=None),
        digests_agree=digests_agree(presences, schema.buckets), rows_owed=rows_owed(env.catalog, newest.state),
        skips=[
            SkipStatus(partition=s.partition, offset=s.offset, rule=s.rule, who=s.who, at=format_time(s.at), why=s.why)
            for s in skip_documents(env.catalog)
        ],
        care=[
            CareStatus(
                work=c.work, ok=c.ok, found=c.found, who=c.who, at=format_time(c.at), age_s=max(0.0, (now - c.at) / 1e6)
            )
            for c in cares(env.catalog)
        ],
        alarms=[], alerts=[], at=format_time(now),
    )  # fmt: skip
    raised = list(alarms(found))
    names = list(dict.fromkeys(alarm.alert for alarm in raised))
    return msgspec.structs.replace(found, alarms=[alarm.text for alarm in raised], alerts=names)


def _behind(presence: Presence, history: History, refs: Refs) -> int:
    """Versions that the replica's ref has and the replica does not; who serves one version for ever misses none."""
    ref = refs.refs.get(presence.ref)
    return 0 if ref is None else len(history.after(presence.version, up_to=ref.version))


def _chain_length(history: History, version: Manifest) -> int | None:
    from ..core.errors import ChainBroken

    try:
        return len(history.chain(version.version))
    except ChainBroken:
        return None


def _reach_s(history: History, begins: Sequence[Offset], now: WallTime) -> float | None:
    for manifest in history.trunk:
        offsets = [position.offset for position in manifest.positions.partitions]
        if all(offset >= begin for offset, begin in zip(offsets, begins, strict=True)):
            return None if manifest.kind == "birth" else (now - manifest.created_at) / 1e6
    return 0.0


def digests_agree(presences: list[Presence], buckets: int) -> bool | None:
    """Whether replicas at the same version have the same digest of every bucket that two of them hold, and know one of."""
    compared, known = False, [p for p in presences if p.digest is not None]
    for at, one in enumerate(known):
        for other in known[at + 1 :]:
            first, last = max(one.buckets[0], other.buckets[0]), min(one.buckets[1], other.buckets[1])
            if one.version != other.version or first >= last:
                continue
            compared = True
            for table in {*one.digests, *other.digests}:
                mine, theirs = (_digests(p.digests.get(table), buckets)[first:last] for p in (one, other))
                if mine != theirs:
                    return False
    return True if compared else None


def _digests(vector: DigestVector | None, buckets: int) -> list[int]:
    return [0] * buckets if vector is None else [int(d) for d in vector.array(buckets)]


def _replica(presence: Presence, behind: int, now: int) -> ReplicaDocument:
    from ..core.times import NEVER, format_time

    return ReplicaDocument(
        replica=presence.replica, address=presence.address, ref=presence.ref, ready=presence.ready, version=presence.version,
        versions_behind=behind, digest=presence.digest,
        table_digests={name: _table_digest(vector) for name, vector in presence.digests.items()},
        rows=presence.rows, bytes=presence.bytes, buckets=[presence.buckets[0], presence.buckets[1] - 1],
        partitions=[
            PartitionDocument(
                partition=p.partition, offset=p.offset, end=p.end, lag_records=p.end - p.offset, lag_ms=p.lag_ms,
                freshness_s=None if p.trained_through == NEVER else (now - p.trained_through) / 1e6,
                trained_through=format_time(p.trained_through), version=p.version, timeline=p.timeline, skipped=p.skipped,
                alarm=p.alarm,
            )
            for p in presence.partitions
        ],
    )  # fmt: skip


def _table_digest(vector: DigestVector) -> str:
    return hashlib.blake2b(base64.b64decode(vector.text), digest_size=16).hexdigest()
