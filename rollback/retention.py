"""Retention: expires what no ref, pin, replica, running publish or recovery window needs.

What is given up is marked expired first; then the refs are moved, so that nobody can commit or find it any more; then it is
looked at once more, since a lease may have been taken meanwhile; then it is deleted, and last what tells that it was there. Every
step may be the last one of a run: the next run finds what is left.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from penstock.pipeline.catalog import keys, leases
from penstock.pipeline.catalog.skipping import remove_skip
from penstock.pipeline.core.documents import encode
from penstock.pipeline.core.errors import CommitConflict
from penstock.pipeline.core.ids import Offset, Partition, Version
from penstock.pipeline.core.refs import Refs
from penstock.pipeline.core.times import WallTime
from penstock.pipeline.environment import Environment
from penstock.pipeline.ports.store import Overwrite

from .inventory import Inventory, Notes, notes_key, take_inventory
from .keeping import RetentionPlan, classify

ATTEMPTS = 16
"""How often it is looked again at what is needed, when the refs move meanwhile."""


def plan_retention(env: Environment) -> RetentionPlan:
    """What is kept and why, and what goes. Changes nothing."""
    return classify(take_inventory(env))


def apply_retention(env: Environment, plan: RetentionPlan, *, why: str) -> RetentionPlan:
    """Removes what `plan` names and is still not needed; returns what was done. `CommitConflict`: the refs never hold still."""
    _release(env, plan, why=why)
    # Whoever took a lease before the refs were moved is seen now; whoever takes one later goes by the refs as they are.
    found = take_inventory(env)
    left = _still_expired(found, plan)
    if not _reached(found.refs, found, left):
        _restore(env, found, left, why=why)
    _delete(env, found, left)
    return left


def _release(env: Environment, plan: RetentionPlan, *, why: str) -> None:
    """Gives up the uploads, then moves the refs off what goes."""
    for _ in range(ATTEMPTS):
        before = take_inventory(env)
        going = _still_expired(before, plan)
        for upload in going.expired_uploads:
            leases.expire_upload(env.catalog, before.uploads[upload])
        if not going.expired_uploads and _reached(before.refs, before, going):
            return
        history = before.history
        _note(env, before.notes.unnamed, oldest=history.trunk[0].version, bases=[base.version for base in history.bases.values()])
        try:
            _move(env, before, going, f"retention: the oldest version is {going.oldest}", why=why)
        except CommitConflict:
            continue
        return
    raise CommitConflict(f"the refs were moved {ATTEMPTS} times while it was looked at what they need")


def _note(
    env: Environment, unnamed: dict[str, WallTime], *, oldest: Version | None = None, bases: Iterable[Version] = ()
) -> None:
    notes = Notes(unnamed=unnamed, oldest=oldest, bases=tuple(bases))
    env.catalog.store.put(notes_key(env.catalog.model), encode(notes), Overwrite())


def _move(env: Environment, looked_at: Inventory, plan: RetentionPlan, what: str, *, why: str) -> None:
    """Moves the refs to what `plan` keeps, if they are still those that were looked at."""

    def change(refs: Refs) -> Refs:
        if refs.generation != looked_at.refs.generation:
            raise CommitConflict("the refs were moved meanwhile")
        return msgspec.structs.replace(refs, oldest=plan.oldest, bases=_kept_bases(looked_at, plan))

    env.catalog.move(change, what=what, actor=env.actor(why))


def _restore(env: Environment, found: Inventory, left: RetentionPlan, *, why: str) -> None:
    """Somebody has leased a version while it was being given up; nothing of it is deleted yet."""

    def reach(refs: Refs) -> Refs:
        bases = dict.fromkeys((*refs.bases, *_kept_bases(found, left)))
        return msgspec.structs.replace(refs, oldest=min(refs.oldest, left.oldest), bases=tuple(bases))

    env.catalog.move(reach, what=f"retention: version {left.oldest} was leased meanwhile", actor=env.actor(why))


def _kept_bases(found: Inventory, plan: RetentionPlan) -> tuple[Version, ...]:
    """Those that are needed, and those that nobody has let go of."""
    needed = {kept.version for kept in plan.kept}
    left = {version for version in found.refs.bases if version not in plan.expired_versions}
    return tuple(base.version for base in found.history.bases.values() if base.version in needed | left)


def _reached(refs: Refs, found: Inventory, plan: RetentionPlan) -> bool:
    """Whether the refs lead to what the plan keeps, and to nothing else."""
    return refs.oldest == plan.oldest and set(refs.bases) == set(_kept_bases(found, plan))


def _still_expired(found: Inventory, plan: RetentionPlan) -> RetentionPlan:
    """What goes by now, but nothing that `plan` does not name."""
    now = classify(found)
    objects = [key for key in now.expired_objects if key in set(plan.expired_objects)]
    return msgspec.structs.replace(
        now,
        oldest=min(now.oldest, max(plan.oldest, found.refs.oldest)),
        expired_versions=tuple(v for v in now.expired_versions if v in plan.expired_versions),
        expired_uploads=tuple(u for u in now.expired_uploads if u in plan.expired_uploads),
        expired_checkpoints=tuple(m for m in now.expired_checkpoints if m in plan.expired_checkpoints),
        expired_objects=tuple(objects),
        freed_bytes=sum(found.sizes[key] for key in objects),
        truncate=tuple(Offset(min(a, b)) for a, b in zip(now.truncate, plan.truncate, strict=True)),
    )


def _delete(env: Environment, found: Inventory, left: RetentionPlan) -> None:
    """Data first, then the uploads that own it, then the manifests that name it: as long as one is there, the rest is found."""
    store, model = env.catalog.store, env.catalog.model
    if found.notes != Notes(unnamed=left.unnamed):
        _note(env, left.unnamed)
    for key in left.expired_objects:
        store.delete(key)
    for marker in left.expired_checkpoints:
        store.delete(keys.checkpoint(model, marker))
    for upload in left.expired_uploads:
        store.delete(keys.upload(model, upload))
    for version in left.expired_versions:
        # The number of a base past the trunk is free once its manifest is gone, and no number may ever mean something else.
        if version < found.refs.trunk:
            store.delete(keys.manifest(model, version))
    for partition, offset in left.expired_skips:
        remove_skip(env.catalog, partition, offset)
    for p, (begin, before) in enumerate(zip(found.begins, left.truncate, strict=True)):
        if before > begin:
            env.log.truncate(Partition(p), before)
