"""How a replica begins: the chain of its ref's version into tables, and a position to follow from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec

from penstock.pipeline.catalog import leases
from penstock.pipeline.catalog.skipping import read_skips
from penstock.pipeline.core.errors import NotFound, PositionGone
from penstock.pipeline.core.history import History
from penstock.pipeline.core.ids import Version
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.refs import Ref, Refs
from penstock.pipeline.core.times import WallTime
from penstock.pipeline.environment import Environment

from .adoption import Adoption
from .chains import load_all
from .follower import Follower
from .holding import Holding
from .markers import Markers, labels_needed
from .partition import PartitionState
from .tiers import Budget, bring_in
from .warming import warm

LEASE_US = 6 * 3_600_000_000
"""How long a bootstrap may take before retention stops waiting for it."""
FIXED = "@"
"""The ref of a replica that serves one version for ever; no real ref has this name."""


def refs_for(env: Environment, at: Version | None) -> Refs:
    """The refs as they are, with one more for a replica that serves exactly version `at`."""
    refs = env.catalog.refs()
    if at is None:
        return refs
    return msgspec.structs.replace(refs, refs={**refs.refs, FIXED: Ref(version=at, follow="versions")})


def first_version(history: History, ref: Ref) -> Manifest:
    """What a newcomer loads: the ref's version; of a ref that is frozen the newest one that lies before its positions."""
    if ref.frozen is None:
        return history.version(ref.version)
    for manifest in reversed(history.lineage(ref.version)):
        if all(p.offset <= frozen for p, frozen in zip(manifest.positions.partitions, ref.frozen, strict=True)):
            return manifest
    return history.version(ref.version)


def bootstrap(env: Environment, *, ref: str, buckets: range, name: str, at: Version | None = None) -> tuple[Follower, Adoption]:
    """Tables as the ref's version has them (with `at`, as that version), verified against the digests that it states, and a
    follower that stands there."""
    ref = ref if at is None else FIXED
    with _leased(env, name, ref, at) as (refs, history, version):
        schema = env.catalog.reload_schema()
        if version.positions.log != env.log.identity:
            known = version.positions.log
            raise PositionGone(f"version {version.version} counts its positions in log {known}, not in {env.log.url}")
        warm(schema)
        settings = env.config.replica
        holding = Holding(schema, buckets, settings.before_image_bytes, labels_needed(settings.markers))
        budget = Budget(settings.row_bytes)
        load_all(env.catalog.store, holding, history, version, budget)
        follower = Follower(holding, history, refs, ref, Markers(holding, settings.markers), read_skips(env.catalog))
        adoption = Adoption(env.catalog.store, env.log, follower)
        for p in holding.partitions():
            position = version.positions.partitions[p]
            state = PartitionState(p, position.offset, {}, version.timeline, version.version, {})
            follower.partitions[p] = state
            adoption.stand_at(state, version, position)
        bring_in(holding.tables.values(), budget)
        return follower, adoption


@contextmanager
def _leased(env: Environment, name: str, ref: str, at: Version | None) -> Iterator[tuple[Refs, History, Manifest]]:
    """A version to begin with, kept until it was read."""
    pin = f"bootstrap-{name}"
    wanted: Version | None = None
    try:
        while True:
            refs = refs_for(env, at)
            history = env.catalog.history(refs)
            version = first_version(history, refs.ref(ref))
            if version.version == wanted:
                break  # it was there after the lease began
            wanted = version.version
            until = WallTime(env.clock() + LEASE_US)
            leases.put_pin(env.catalog, pin, wanted, actor=env.actor("bootstrap"), until=until)
        yield refs, history, version
    finally:
        with suppress(NotFound):
            leases.remove_pin(env.catalog, pin)
