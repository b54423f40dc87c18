"""Makes the plan of a rollback: reads what there is, changes nothing. `--dry-run` prints what it returns."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.pipeline.catalog import leases
from penstock.pipeline.catalog.checkpoints import known_checkpoint, known_checkpoints, last_marker
from penstock.pipeline.core.checkpoint import Checkpoint
from penstock.pipeline.core.errors import CommitConflict, InvalidInput
from penstock.pipeline.core.history import History
from penstock.pipeline.core.ids import Marker, Offset, State, Timeline
from penstock.pipeline.core.manifest import Target
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.core.schema import ModelSchema
from penstock.pipeline.core.times import format_time
from penstock.pipeline.environment import Environment

from .gathering import Located, behind_cuts, ends_of, locate
from .plan import LossCount, Lost, RollbackPlan, holders, moving_refs, resumable_before, taken_back
from .target import to_state


def plan_rollback(
    env: Environment, target: Target, *, of: Timeline | None = None, tables: tuple[str, ...] | None = None
) -> RollbackPlan:
    """The forecast of a rollback of the whole model, or of `tables` with all their generations, to a target on timeline `of` (by
    default the live one).

    `NotFound` for a table, version or state that does not exist, `InvalidInput` for a timeline that does not, `Refused` when
    nothing that is retained is old enough, `CommitConflict` while another rollback is under way."""
    schema = env.catalog.reload_schema()
    if tables is not None:
        tables = tuple(generation for table in tables for generation in _generations(schema, table))
    refs = env.catalog.refs()
    if (claim := leases.open_claim(env.catalog, refs)) is not None:
        raise CommitConflict(
            f"{claim.who} has claimed timeline {claim.timeline} for a rollback to {claim.target}",
            hint="`penstock rollback --resume` finishes it, `penstock rollback --abandon` gives it up",
        )
    history = env.catalog.history(refs)
    located = locate(env, history, target, of)
    history.check_restorable(located.base.version)
    ends = ends_of(env, history, refs.timeline)
    cuts = tuple(end if cut is None else Offset(min(cut, end)) for cut, end in zip(located.cuts, ends, strict=True))
    checkpoints = _checkpoints_since(env, located)
    count = LossCount(None if tables is None else frozenset(tables))
    behind_all = behind_cuts(env, history, located.base, cuts, ends)
    count.add(b.entry.record for b in behind_all if b.counts or b.entry.record.kind == RecordKind.SKIPPED)
    return RollbackPlan(
        model=env.catalog.model,
        target=target,
        description=str(target),
        timeline=refs.next_timeline,
        parent=refs.timeline,
        of=located.history.newest.timeline,
        base=located.base.version,
        base_state=str(located.base.state),
        base_trained_through=format_time(located.base.trained_through),
        cuts=cuts,
        ends=tuple(ends),
        tables=tables,
        lost=_lost(history, located, cuts, count, checkpoints),
        holders=holders(leases.presences(env.catalog, now=env.clock()), cuts),
        refs=moving_refs(refs, history, located.base),
        restart_from=_restart_from(located, cuts, checkpoints),
        learned_too=tuple(sorted(count.learned_too)),
    )


def _generations(schema: ModelSchema, table: str) -> list[str]:
    schema.table(table)
    return schema.generations(schema.table_of(table))


def newest_checkpoint(env: Environment) -> Target:
    """The target of `--to-checkpoint`: the newest finished checkpoint of the live timeline."""
    refs = env.catalog.refs()
    for number in range(last_marker(env.catalog), 0, -1):
        found = known_checkpoint(env.catalog, Marker(number))
        if found is None:
            break
        if found.status == "marked" and found.state.timeline == refs.timeline:
            return to_state(found.state)
    raise InvalidInput(f"timeline {refs.timeline} has no finished checkpoint", hint="name a time or a version instead")


def _checkpoints_since(env: Environment, located: Located) -> list[Checkpoint]:
    """The finished checkpoints of the timeline that the target is on, or of those before it, from the base on."""
    # Retention keeps what the live chain needs; older ones cannot be restarted from.
    found = known_checkpoints(env.catalog, range(located.base.state.marker, last_marker(env.catalog) + 1))
    return [c for c in found if c.status == "marked" and c.positions is not None]


def _offsets(checkpoint: Checkpoint) -> tuple[Offset, ...]:
    assert checkpoint.positions is not None
    return tuple(position.offset for position in checkpoint.positions.partitions)


def _lost(
    history: History, located: Located, cuts: Sequence[Offset], count: LossCount, checkpoints: Sequence[Checkpoint]
) -> Lost:
    beyond = [c for c in checkpoints if any(o > cut for o, cut in zip(_offsets(c), cuts, strict=True))]
    # Of what lies before the cuts, only the versions up to the base have brought what the log did not.
    since = [c for c in checkpoints if c not in beyond and c.state.marker > located.base.state.marker]
    return Lost(
        rows=count.rows(),
        versions=tuple(m.version for m in taken_back(history, located.base)),
        checkpoints=tuple(str(c.state) for c in beyond),
        dense_updates=len(count.dense),
        unsent=sum(touched.unsent for c in since for touched in c.touched.values()),
        unreadable=count.unreadable,
    )


def _restart_from(located: Located, cuts: Sequence[Offset], checkpoints: Sequence[Checkpoint]) -> str | None:
    states: list[tuple[State, tuple[Offset, ...]]] = [(c.state, _offsets(c)) for c in checkpoints]
    base = located.base
    states.append((base.state, tuple(position.offset for position in base.positions.partitions)))
    found = resumable_before(states, tuple(cuts), located.history.newest.timeline)
    return None if found is None else str(found)
