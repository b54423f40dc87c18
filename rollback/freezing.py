"""Freeze and thaw: the first thing that an operator can do, before it is known what went wrong."""

from __future__ import annotations

import msgspec

from penstock.pipeline.core.ids import Partition
from penstock.pipeline.core.refs import Refs
from penstock.pipeline.environment import Environment


def freeze(env: Environment, ref: str, *, why: str) -> Refs:
    """Every replica of `ref` stops at one recorded position: the ends of the log now."""
    ends = tuple(env.log.end(Partition(p)) for p in range(env.schema.partitions))

    def stop(refs: Refs) -> Refs:
        found = refs.ref(ref)
        if found.frozen is not None:
            return refs  # frozen already: the earlier position counts
        return msgspec.structs.replace(refs, refs={**refs.refs, ref: msgspec.structs.replace(found, frozen=ends)})

    return env.catalog.move(stop, what=f"froze {ref}", actor=env.actor(why))


def thaw(env: Environment, ref: str, *, why: str) -> Refs:
    """The replicas of `ref` go on."""

    def release(refs: Refs) -> Refs:
        return msgspec.structs.replace(refs, refs={**refs.refs, ref: msgspec.structs.replace(refs.ref(ref), frozen=None)})

    return env.catalog.move(release, what=f"thawed {ref}", actor=env.actor(why))
