"""Whether a rollback has arrived: it is complete when every live replica has confirmed it, or its lease has ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from penstock.pipeline.catalog import leases
from penstock.pipeline.core.coordination import Presence
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.refs import Refs
from penstock.pipeline.environment import Environment


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Who of the replicas with a live lease has reported the rollback's version or a later one, with its digest; who has not
    yet; and who reports the version with other digests than it states."""

    confirmed: dict[str, str | None]
    missing: tuple[str, ...]
    differing: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return not self.missing and not self.differing


def confirmation(env: Environment, manifest: Manifest) -> Confirmation:
    """Asks the replicas of every ref that serves the version, or a later one."""
    presences = leases.presences(env.catalog, now=env.clock())
    return confirmed_by(manifest, presences, refs=env.catalog.refs(), buckets=env.schema.buckets)


def confirmed_by(manifest: Manifest, presences: Iterable[Presence], *, refs: Refs, buckets: int) -> Confirmation:
    """As `confirmation`, of these reports. A replica of a ref that stands before the version has nothing to confirm."""
    asked = [p for p in presences if p.ref in refs.refs and refs.refs[p.ref].version >= manifest.version]
    differing = {p.replica for p in asked if not _agrees(manifest, p, buckets)}
    done = {p.replica: p.digest for p in asked if p.version >= manifest.version and p.replica not in differing}
    missing = {p.replica for p in asked} - set(done) - differing
    return Confirmation(done, tuple(sorted(missing)), tuple(sorted(differing)))


def _agrees(manifest: Manifest, presence: Presence, buckets: int) -> bool:
    """Whether a report of exactly this version has the digests that the version states, in the buckets held."""
    stated = manifest.state_digests(buckets)
    if stated is None or presence.version != manifest.version or presence.digest is None:
        return True
    held = slice(*presence.buckets)
    for table, digests in stated.items():
        found = presence.digests[table].array(buckets) if table in presence.digests else np.zeros(buckets, np.uint64)
        if not np.array_equal(found[held], digests[held]):
            return False
    return True
