"""Carries a rollback out: prepare, claim, fence, undo, commit. Every step is safe to repeat, by any run, at any time after.

A run that died is finished by `resume`, or given up by `abandon`; both exclude each other by the swap of the refs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import msgspec

from penstock.pipeline.catalog import keys, leases
from penstock.pipeline.catalog.checkpoints import open_checkpoint
from penstock.pipeline.catalog.replay import replay_around
from penstock.pipeline.catalog.skipping import read_skips
from penstock.pipeline.core.coordination import Claim
from penstock.pipeline.core.errors import CommitConflict, NotFound, OutcomeUnknown, Refused
from penstock.pipeline.core.ids import Offset, Partition, Position, Positions, PublisherId, Term, Version
from penstock.pipeline.core.manifest import Manifest, Rollback
from penstock.pipeline.core.records import Record, RecordKind, encode_record
from penstock.pipeline.core.refs import Refs
from penstock.pipeline.core.schema_change import shapes_after
from penstock.pipeline.environment import Environment
from penstock.pipeline.ports.log import Pending

from .gathering import cuts_of
from .plan import RollbackPlan, claim_of, moving_refs
from .preparing import Prepared, prepare
from .undo import extended, recover

ATTEMPTS = 16
"""How often a rollback is computed anew when the refs move under it, or a fence is sent anew when its outcome is unknown."""
APPEND_TIMEOUT_S = 30.0


def execute(env: Environment, plan: RollbackPlan, *, why: str) -> Manifest:
    """Claims the plan's timeline and goes through with it. `CommitConflict` when another rollback has claimed it, `NotFound` when
    retention has removed the base since it was planned."""
    prepared = prepare(env, plan, why=why)
    claim = claim_of(plan, claim_id=env.catalog.new_id(), who=env.who, at=env.clock(), why=why)
    since = [env.log.end(Partition(p)) for p in range(env.schema.partitions)]
    leases.create_claim(env.catalog, claim)
    try:
        env.catalog.history().check_restorable(claim.base)  # from here on retention sees the claim
    except NotFound:
        abandon(env, why=f"version {claim.base}, its base, is gone")
        raise
    return finish(env, claim, since=since, prepared=prepared)


def resume(env: Environment) -> Manifest:
    """Finishes the rollback that is claimed and undecided; `NotFound` when there is none."""
    return finish(env, _open_claim(env))


def abandon(env: Environment, *, why: str) -> Claim:
    """Gives up the rollback that is claimed and undecided: its fences are void from now on."""
    claim = _open_claim(env)

    def give_up(refs: Refs) -> Refs:
        if refs.timeline >= claim.timeline:
            raise CommitConflict(f"the rollback of timeline {claim.timeline} was committed meanwhile")
        if claim.timeline in refs.abandoned:
            return refs
        return msgspec.structs.replace(refs, abandoned=(*refs.abandoned, claim.timeline))

    env.catalog.move(give_up, what=f"abandoned the rollback to timeline {claim.timeline}", actor=env.actor(why))
    return claim


def finish(
    env: Environment, claim: Claim, *, since: Sequence[Offset] | None = None, prepared: Prepared | None = None
) -> Manifest:
    """Fences, computes what is not `prepared`, commits; returns the version that did, be it of this run or of another. `since`:
    where no fence of the claim lies before."""
    if (decided := _decided(env, claim, env.catalog.refs())) is not None:
        return decided
    fences = _fence(env, claim, claim.cuts if since is None else since)
    env.catalog.reload_schema()  # behind the fences: tables are born before their first record
    for _ in range(ATTEMPTS):
        refs = env.catalog.refs()
        if (decided := _decided(env, claim, refs)) is not None:
            return decided
        try:
            return _commit(env, claim, refs, fences, prepared)
        except CommitConflict:
            prepared = None  # somebody moved the trunk: the undo must cover that as well
    raise CommitConflict(f"the trunk moved {ATTEMPTS} times while the rollback to timeline {claim.timeline} was computed")


def _open_claim(env: Environment) -> Claim:
    claim = leases.open_claim(env.catalog, env.catalog.refs())
    if claim is None:
        raise NotFound("no rollback is under way")
    return claim


def _decided(env: Environment, claim: Claim, refs: Refs) -> Manifest | None:
    if claim.timeline in refs.abandoned:
        raise _given_up(claim)
    if refs.timeline < claim.timeline:
        return None
    for manifest in env.catalog.history(refs).rollbacks():
        if manifest.timeline == claim.timeline:
            return manifest
    raise NotFound(f"the rollback to timeline {claim.timeline} was committed, and retention has removed its version since")


def _given_up(claim: Claim) -> Refused:
    return Refused(f"the rollback to timeline {claim.timeline} was abandoned", hint="plan it anew")


def _fence(env: Environment, claim: Claim, since: Sequence[Offset]) -> list[Offset]:
    """The first fence of the claim's timeline in a partition counts, whoever wrote it; one is written where there is none."""
    partitions, skips = [Partition(p) for p in range(env.schema.partitions)], read_skips(env.catalog)
    starts = {p: max(since[p], env.log.begin(p)) for p in partitions}
    found: dict[Partition, Offset] = {}
    for _ in range(ATTEMPTS):
        for p in starts.keys() - found.keys():
            for entry in replay_around(env.log, env.schema, p, starts[p], env.log.end(p), skips):
                if entry.record.kind == RecordKind.FENCE and entry.record.timeline == claim.timeline:
                    found[p] = entry.offset
                    break
                starts[p] = Offset(entry.offset + 1)
        if len(found) == len(partitions):
            return [found[p] for p in partitions]
        for pending in [_sent(env, claim, p) for p in partitions if p not in found]:
            with suppress(OutcomeUnknown):  # a second fence is void: look whether the first is there, and send again if not
                pending.result(APPEND_TIMEOUT_S)
    missing = ", ".join(str(p) for p in partitions if p not in found)
    raise OutcomeUnknown(f"fences of timeline {claim.timeline} in partitions {missing} were not acknowledged {ATTEMPTS} times")


def _sent(env: Environment, claim: Claim, partition: Partition) -> Pending:
    fence = Record(kind=RecordKind.FENCE, timeline=claim.timeline, partition=partition, written_at=env.clock())
    return env.log.append(partition, encode_record(fence, env.schema.raw_id))


def _commit(env: Environment, claim: Claim, refs: Refs, fences: list[Offset], prepared: Prepared | None) -> Manifest:
    history = env.catalog.history(refs)
    base = history.version(claim.base)
    promote = moving_refs(refs, history, base)
    actor = env.actor(claim.why)
    if prepared is not None and prepared.holds(refs, read_skips(env.catalog), fences):
        upload, cuts, folder = prepared.upload, prepared.cuts, keys.data(env.catalog.model, prepared.upload.id)
        recovery = extended(env, history, base, prepared.begun, fences=fences, folder=f"{folder}/late")
    else:
        upload = leases.open_upload(env.catalog, purpose=f"rollback to timeline {claim.timeline}", actor=actor)
        named, found = cuts_of(env, history, claim.target, claim.of, fences)
        cuts = tuple(fence if cut is None else Offset(min(cut, fence)) for cut, fence in zip(found, fences, strict=True))
        folder = keys.data(env.catalog.model, upload.id)
        recovery = recover(env, history, named, base, tables=claim.tables, cuts=cuts, fences=fences, folder=folder).recovery
    shapes, retired = shapes_after(env.schema, base, history.newest, claim.tables)
    state = open_checkpoint(env.catalog, timeline=claim.timeline, publishers={}, now=actor.now).state
    draft = Manifest(
        model=env.catalog.model,
        version=Version(0),
        kind="rollback",
        state=state,
        previous=refs.trunk,
        base=base.version,
        positions=Positions(env.log.identity, tuple(Position(Offset(fence + 1), {}) for fence in fences)),
        trained_through=recovery.trained_through,
        created_at=actor.now,
        publisher=PublisherId(""),
        term=Term(0),
        upload=upload.id,
        changes=recovery.changes,
        digests=recovery.digests,
        dense=recovery.dense,
        source="undo",
        rollback=Rollback(
            target=claim.target, tables=claim.tables, cut=cuts, fence=tuple(fences), undo=recovery.undo,
            lost_rows=recovery.lost_rows,
        ),
        shapes=shapes,
        retired=retired,
    )  # fmt: skip

    def guard(now: Refs) -> None:
        if claim.timeline in now.abandoned:
            raise _given_up(claim)
        leases.check_upload(env.catalog, upload.id)
        if moving_refs(now, history, base) != promote or base.version < now.oldest:
            raise CommitConflict("a ref was moved, or the base given up, meanwhile")

    return env.catalog.commit(draft, promote=promote, guard=guard, actor=actor)
