"""What keeps a model in shape: compaction when it is due, retention, a restore as a newcomer does it, and how fresh it is."""

from __future__ import annotations

import dataclasses

import msgspec

from penstock.publishers.compaction import chain_length, compact
from penstock.publishers.verification import Verification, verify
from penstock.rollback.keeping import RetentionPlan
from penstock.rollback.retention import apply_retention, plan_retention

from ..catalog import leases
from ..catalog.care import cared
from ..core.errors import Refused
from ..core.ids import Version
from ..core.manifest import Manifest
from ..core.refs import LIVE
from ..core.times import NEVER, WallTime, format_time
from ..environment import Environment


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica had of a version: `buckets` [first, last), `rows` by table, and the digest of these buckets."""

    version: int
    buckets: tuple[int, int]
    rows: dict[str, int]
    digest: str | None


class Freshness(msgspec.Struct, frozen=True, kw_only=True):
    """How old the newest event is that what is served has learned from: the oldest of all partitions of all live replicas, or
    the newest version's where no replica is live. None: it has learned from nothing."""

    seconds: float | None
    trained_through: str
    replicas: int
    alarms: tuple[str, ...]


def compact_if_due(env: Environment, *, why: str) -> Manifest | None:
    """None while the chain is not longer than `retention.max_chain`."""
    if chain_length(env) <= env.config.retention.max_chain:
        return None
    with cared(env.catalog, "compact", who=env.who, clock=env.clock):
        return compact(env, why=why)


def retain(env: Environment, *, until: WallTime, why: str) -> RetentionPlan:
    """Removes what was not needed at `until`, and is not now."""
    now = env.clock()
    with cared(env.catalog, "retention", who=env.who, clock=env.clock):
        plan = plan_retention(dataclasses.replace(env, clock=lambda: min(until, now)))
        return apply_retention(env, plan, why=why)


def version_at(env: Environment, until: WallTime) -> Version:
    """The newest version of the live path that was there before `until`; the live one where all are younger."""
    refs = env.catalog.refs()
    lineage = env.catalog.history(refs).lineage(refs.ref(LIVE).version)
    return next((m.version for m in reversed(lineage) if m.created_at < until), lineage[-1].version)


def restore(env: Environment, version: Version, *, part: int, of: int, name: str) -> Restored:
    """Restores part `part` (from 1) of the buckets of a version into a replica of its own, as a newcomer does, and gives it up
    again. `ChainBroken` when its digests are not those that the version states."""
    from penstock.serving.replica import Replica

    buckets = range(env.schema.buckets * (part - 1) // of, env.schema.buckets * part // of)
    if not buckets:
        return Restored(version=version, buckets=(buckets.start, buckets.stop), rows={}, digest=None)
    replica = Replica(env, name=name, buckets=buckets, at=version)
    rows = {table: found.row_count for table, found in replica.follower.tables.items()}
    confirmed = replica.confirmed
    digest = None if confirmed is None else confirmed.digest
    return Restored(version=version, buckets=(buckets.start, buckets.stop), rows=rows, digest=digest)


def compare(env: Environment, version: Version, restored: list[Restored]) -> Verification:
    """Reads every byte of the version besides. `Refused` names what is damaged, or the digest that a whole replica has and the
    bytes do not."""
    with cared(env.catalog, "verify", who=env.who, clock=env.clock):
        found = verify(env, version)
        if not found.ok:
            wrong = "; ".join(f"{each.object}: {each.rule}" for each in found.findings[:8])
            raise Refused(f"version {version} is damaged, {len(found.findings)} findings: {wrong}", hint="publish a snapshot")
        whole = [each.digest for each in restored if each.buckets == (0, env.schema.buckets)]
        if any(digest is not None and digest != found.digest for digest in whole):
            raise Refused(f"version {version}: a replica restored digest {whole[0]}, its bytes have {found.digest}")
    return found


def freshness(env: Environment) -> Freshness:
    """As it is now."""
    now, newest = env.clock(), env.catalog.history().newest
    presences = leases.presences(env.catalog, now=now)
    partitions = [(found.replica, each) for found in presences for each in found.partitions]
    through = min((each.trained_through for _, each in partitions), default=newest.trained_through)
    return Freshness(
        seconds=None if through == NEVER else (now - through) / 1e6,
        trained_through=format_time(through),
        replicas=len(presences),
        alarms=tuple(f"{replica}, partition {each.partition}: {each.alarm}" for replica, each in partitions if each.alarm),
    )


def check_fresh(found: Freshness, limit_us: int) -> None:
    """`Refused` unless what is served has learned from an event that is no older than `limit_us`, and no replica has an alarm."""
    told = f"what is served has learned up to {found.trained_through}"
    if found.seconds is None or found.seconds * 1e6 > limit_us:
        hint = "does the trainer beat, and do the deltas end? `penstock status` shows the lag of each partition"
        raise Refused(f"{told}, more than {limit_us / 1e6:,.0f} s ago", hint=hint)
    if found.alarms:
        raise Refused("; ".join(found.alarms), hint="`penstock status` shows them")
