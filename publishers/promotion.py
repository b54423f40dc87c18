"""Moves a ref to a version that is committed already."""

from __future__ import annotations

import msgspec

from penstock.pipeline.core.errors import NotFound, Refused
from penstock.pipeline.core.ids import Version, checked_name
from penstock.pipeline.core.refs import Ref, Refs
from penstock.pipeline.environment import Environment


def promote(env: Environment, version: Version, *, ref: str, why: str) -> Refs:
    """A ref that is new follows versions alone. `NotFound`: the version is not there, or not whole any more. `Refused`: it was
    taken back by a rollback, or the ref follows the log and is ahead already, and replicas cannot unlearn but by a rollback."""
    checked_name(ref, "ref")

    def change(refs: Refs) -> Refs:
        history = env.catalog.history(refs)
        if version not in [m.version for m in history.trunk]:
            raise NotFound(f"version {version} is not a retained version of the trunk", hint="`penstock versions` lists them")
        if version not in [m.version for m in history.lineage(refs.trunk)]:
            raise Refused(
                f"version {version} was taken back by a rollback", hint="`penstock rollback --to-version` brings it back"
            )
        found = refs.refs.get(ref, Ref(version=version, follow="versions"))
        if found.follow == "log" and version < found.version:
            raise Refused(
                f"ref {ref} follows the log and is at version {found.version}, past {version}",
                hint=f"`penstock rollback --to-version {version}` goes back",
            )
        history.check_restorable(version)
        return msgspec.structs.replace(refs, refs={**refs.refs, ref: msgspec.structs.replace(found, version=version)})

    return env.catalog.move(change, what=f"promoted version {version} to {ref}", actor=env.actor(why))
