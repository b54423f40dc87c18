"""Makes the plan of a rollback: reads what there is, changes nothing. `--dry-run` prints what it returns."""

from __future__ import annotations

from penstock.pipeline.catalog import leases
from penstock.pipeline.catalog.checkpoints import last_marker, read_checkpoint
from penstock.pipeline.core.checkpoint import Checkpoint
from penstock.pipeline.core.errors import CommitConflict, InvalidInput, NotFound
from penstock.pipeline.core.history import History
from penstock.pipeline.core.ids import Marker, Offset, State, Timeline
from penstock.pipeline.core.manifest import Target
from penstock.pipeline.core.times import format_time
from penstock.pipeline.environment import Environment

from .gathering import Located, dead_entries, ends_of, locate
from .plan import LossCount, Lost, RollbackPlan, holders, moving_refs, resumable_before, taken_back
from .target import to_state


def plan_rollback(
    env: Environment, target: Target, *, of: Timeline | None = None, tables: tuple[str, ...] | None = None
) -> RollbackPlan:
    """The forecast of a rollback of the whole model, or of `tables`, to a target on timeline `of` (by default the live one).

    `InvalidInput` for a table or timeline that does not exist, `Refused` when nothing retained is old enough."""
    for table in tables or ():
        env.schema.table(table)
    refs = env.catalog.refs()
    if (claim := leases.open_claim(env.catalog, refs)) is not None:
        raise CommitConflict(
            f"{claim.who} has claimed timeline {claim.timeline} for a rollback {claim.target}",
            hint="`penstock rollback --resume` finishes it, `penstock rollback --abandon` gives it up",
        )
    history = env.catalog.history(refs)
    located = locate(env, history, target, of)
    ends = ends_of(env, history, located.history.newest.timeline)
    cuts = tuple(end if cut is None else Offset(min(cut, end)) for cut, end in zip(located.cuts, ends, strict=True))
    live_ends = ends_of(env, history, refs.timeline)
    checkpoints = _checkpoints_since(env, located)
    return RollbackPlan(
        model=env.catalog.model,
        target=target,
        description=str(target),
        timeline=refs.next_timeline,
        parent=refs.timeline,
        of=located.history.newest.timeline if of is None else of,
        base=located.base.version,
        base_state=str(located.base.state),
        base_trained_through=format_time(located.base.trained_through),
        cuts=cuts,
        ends=tuple(live_ends),
        tables=tables,
        lost=(lost := _lost(env, history, located, cuts, live_ends, tables, checkpoints))[0],
        holders=holders(leases.presences(env.catalog, now=env.clock()), cuts),
        refs=moving_refs(refs, history, located.base),
        restart_from=_restart_from(located, cuts, checkpoints),
        learned_too=lost[1],
    )


def newest_checkpoint(env: Environment) -> Target:
    """The target of `--to-checkpoint`: the newest finished checkpoint of the live timeline."""
    refs = env.catalog.refs()
    for number in range(last_marker(env.catalog), 0, -1):
        try:
            found, _ = read_checkpoint(env.catalog, Marker(number))
        except NotFound:
            break
        if found.status == "marked" and found.state.timeline == refs.timeline:
            return to_state(found.state)
    raise InvalidInput(f"timeline {refs.timeline} has no finished checkpoint", hint="name a time or a version instead")


def _checkpoints_since(env: Environment, located: Located) -> list[Checkpoint]:
    found = []
    for number in range(located.base.state.marker, last_marker(env.catalog) + 1):
        try:
            found.append(read_checkpoint(env.catalog, Marker(number))[0])
        except NotFound:
            continue  # retention keeps what the live chain needs; older ones cannot be restarted from
    return [checkpoint for checkpoint in found if checkpoint.status == "marked" and checkpoint.positions is not None]


def _offsets(checkpoint: Checkpoint) -> tuple[Offset, ...]:
    assert checkpoint.positions is not None
    return tuple(position.offset for position in checkpoint.positions.partitions)


def _lost(
    env: Environment,
    history: History,
    located: Located,
    cuts: tuple[Offset, ...],
    ends: list[Offset],
    tables: tuple[str, ...] | None,
    checkpoints: list[Checkpoint],
) -> tuple[Lost, tuple[str, ...]]:
    count = LossCount(None if tables is None else frozenset(tables))
    count.add(dead_entries(env, list(cuts), ends), env.catalog.refs().timeline)
    beyond = [c for c in checkpoints if any(o > cut for o, cut in zip(_offsets(c), cuts, strict=True))]
    lost = Lost(
        rows=count.rows(),
        versions=tuple(m.version for m in taken_back(history, located.base)),
        checkpoints=tuple(str(c.state) for c in beyond),
        dense_updates=len(count.dense),
        unsent=sum(touched.unsent for c in checkpoints if c not in beyond for touched in c.touched.values()),
    )
    return lost, tuple(sorted(count.learned_too))


def _restart_from(located: Located, cuts: tuple[Offset, ...], checkpoints: list[Checkpoint]) -> str | None:
    states: list[tuple[State, tuple[Offset, ...]]] = [(c.state, _offsets(c)) for c in checkpoints]
    base = located.base
    states.append((base.state, tuple(position.offset for position in base.positions.partitions)))
    found = resumable_before(states, cuts, located.history.newest.timeline)
    return None if found is None else str(found)
