"""`penstock status`: versions, refs, lag and freshness, replicas and whether they agree."""

from __future__ import annotations

import base64
import hashlib
import time
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ..core.errors import InvalidInput
from .options import TROUBLE, ConfigFile, Json, ModelName, existing
from .output import VersionDocument, fitting_table, human_bytes, human_seconds, print_json, stdout, version_document

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..core.coordination import Presence
    from ..core.documents import DigestVector
    from ..environment import Environment

SPARKS = "▁▂▃▄▅▆▇█"
KEPT = 20
"""How many of the newest lags are drawn."""
VERSIONS = 8
"""How many of the newest versions are shown."""
SKIPS = 4
"""How many of the skipped records are named."""


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
    partition: int
    begin: int
    end: int


class SkipStatus(msgspec.Struct, frozen=True, kw_only=True):
    partition: int
    offset: int
    rule: str
    who: str
    at: str
    why: str


class StatusDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`versions`: the newest ones, newest last. `digests_agree`: None while no two replicas that hold the same buckets stand at
    the same version. `skips`: what every reader passes over. `freshness_s`: the oldest of all partitions that are served.
    `rows_owed`: of marked checkpoints, not in the log, for the next delta to bring."""

    model: str
    version: int
    timeline: int
    state: str
    trained_through: str
    freshness_s: float | None
    refs: dict[str, RefStatus]
    rollback_under_way: int | None
    tables: dict[str, TableShape]
    log: list[LogPartition]
    versions: list[VersionDocument]
    replicas: list[ReplicaDocument]
    digests_agree: bool | None
    rows_owed: int
    skips: list[SkipStatus]
    alarms: list[str]
    at: str


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=TROUBLE)(status)


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until interrupted.")] = False,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", min=0.1, help="How often, with --watch.")] = 1.0,
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Show versions, refs, lag, freshness, replicas, alarms.

    And whether the digests of the replicas agree.

    [dim]penstock status --watch[/]
    """
    if watch and json:
        raise InvalidInput("--watch is for people; poll `penstock status --json` instead")
    with existing(config, model) as env:
        if json:
            print_json(gathered(env))
        elif not watch:
            stdout.print(rendered(gathered(env), {}))
        else:
            _watch(env, every)


def _watch(env: Environment, every: float) -> None:
    from rich.live import Live

    lags: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=KEPT))
    with Live(console=stdout, auto_refresh=False) as live:
        while True:
            found = gathered(env)
            for replica in found.replicas:
                lags[replica.replica].append(max((p.lag_ms or 0.0 for p in replica.partitions), default=0.0))
            live.update(rendered(found, lags), refresh=True)
            time.sleep(every)


def gathered(env: Environment) -> StatusDocument:
    """Everything that status shows, as it is now."""
    from ..catalog import leases
    from ..catalog.checkpoints import rows_owed
    from ..catalog.skipping import skip_documents
    from ..core.ids import Partition
    from ..core.times import NEVER, format_time

    now, refs, schema = env.clock(), env.catalog.refs(), env.catalog.reload_schema()
    history = env.catalog.history(refs)
    newest = history.newest
    presences = leases.presences(env.catalog, now=now)
    claim = leases.open_claim(env.catalog, refs)
    replicas = [_replica(presence, len(history.after(presence.version)), now) for presence in presences]
    agree = digests_agree(presences, schema.buckets)
    alarms = [f"{p.replica}, partition {q.partition}: {q.alarm}" for p in presences for q in p.partitions if q.alarm]
    if agree is False:
        alarms.append("replicas at the same version have different digests")
    if claim is not None:
        alarms.append(f"a rollback to timeline {claim.timeline}, by {claim.who}, is not decided")
    served = [q.trained_through for p in presences for q in p.partitions if q.trained_through != NEVER]
    partitions = [Partition(p) for p in range(schema.partitions)]
    return StatusDocument(
        model=env.catalog.model, version=newest.version, timeline=refs.timeline, state=str(newest.state),
        trained_through=format_time(newest.trained_through), freshness_s=None if not served else (now - min(served)) / 1e6,
        refs={name: RefStatus(version=ref.version, follow=ref.follow, frozen=ref.frozen) for name, ref in refs.refs.items()},
        rollback_under_way=None if claim is None else claim.timeline,
        tables={name: TableShape(dim=table.dim, codec=table.codec) for name, table in schema.tables.items()},
        log=[LogPartition(partition=p, begin=env.log.begin(p), end=env.log.end(p)) for p in partitions],
        versions=[version_document(manifest, refs, schema.buckets) for manifest in history.trunk[-VERSIONS:]],
        replicas=replicas, digests_agree=agree, rows_owed=rows_owed(env.catalog, newest.state),
        skips=[
            SkipStatus(partition=s.partition, offset=s.offset, rule=s.rule, who=s.who, at=format_time(s.at), why=s.why)
            for s in skip_documents(env.catalog)
        ],
        alarms=alarms, at=format_time(now),
    )  # fmt: skip


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


def rendered(found: StatusDocument, lags: dict[str, deque[float]], width: int | None = None) -> RenderableType:
    """The status for people, `width` columns wide; with the course of the lags, where there are any."""
    from rich.console import Group
    from rich.text import Text

    width = width or stdout.width
    agreement = {
        None: Text(""), True: Text("digests agree", "green"), False: Text("digests DIFFER", "bold red"),
    }[found.digests_agree]  # fmt: skip
    learned = f"learned up to {found.trained_through}  "
    head = Text.assemble((found.model, "bold"), f"  version {found.version}, timeline {found.timeline}, {learned}", agreement)
    refs = "  ".join(f"{n} → {r.version}{' frozen' if r.frozen is not None else ''}" for n, r in found.refs.items())
    versions = fitting_table(
        ["version", "refs", "kind", "state", "rows", "size", "learned up to"],
        [
            (d.version, " ".join(d.refs), d.kind, d.state, f"{d.rows:,}", human_bytes(d.bytes), d.trained_through)
            for d in found.versions
        ],
        spare=("size", "state"),
        width=width,
    )
    course = ["lag so far"] if lags else []
    replicas = fitting_table(
        ["replica", "ref", "ready", "version", "behind", "lag", "freshness", "rows", "memory", "digest", *course],
        [(*_row(replica), *(sparkline(lags[replica.replica]) for _ in course)) for replica in found.replicas],
        spare=("ref", "memory", "behind", "rows", "digest"),
        width=width,
    )
    parts: list[RenderableType] = [head, Text(refs), Text(""), versions, Text("")]
    parts += [replicas if found.replicas else Text("no replica is present", "dim")]
    if found.skips:
        places = ", ".join(f"partition {s.partition} offset {s.offset} ({s.why})" for s in found.skips[-SKIPS:])
        parts += [Text(f"skipped since they cannot be read, {len(found.skips)} in all: {places}", "yellow")]
    if found.rows_owed:
        parts += [Text(f"{found.rows_owed:,} rows are not in the log, and come with the next delta", "yellow")]
    parts += [Text(f"! {alarm}", "bold red") for alarm in found.alarms]
    return Group(*parts)


def _row(replica: ReplicaDocument) -> tuple[str, ...]:
    lag = max((p.lag_ms or 0.0 for p in replica.partitions), default=0.0)
    fresh = max((p.freshness_s for p in replica.partitions if p.freshness_s is not None), default=None)
    return (
        replica.replica, replica.ref, "yes" if replica.ready else "NO", str(replica.version), str(replica.versions_behind),
        f"{lag:.1f} ms", human_seconds(fresh), f"{sum(replica.rows.values()):,}", human_bytes(replica.bytes),
        (replica.digest or "")[:12],
    )  # fmt: skip


def sparkline(values: deque[float] | tuple[float, ...]) -> str:
    """The last values as bars; the highest is full."""
    top = max(values, default=0.0)
    return "".join(
        SPARKS[min(len(SPARKS) - 1, int(value / top * (len(SPARKS) - 1)))] if top > 0 else SPARKS[0] for value in values
    )
