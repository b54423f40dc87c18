"""A rollback in steps that a person stands between: propose, approve, carry out, wait. Each may be repeated, by the same run.

A run knows its own claim by who has made it. What it proposes names the timeline that the approval is for: where somebody else
has claimed that meanwhile, the approval counts for nothing.
"""

from __future__ import annotations

import msgspec

from penstock.rollback import execution
from penstock.rollback.confirmation import confirmation
from penstock.rollback.plan import RollbackPlan
from penstock.rollback.planning import newest_checkpoint, plan_rollback
from penstock.rollback.target import before_append, before_event, to_version

from ..catalog import leases
from ..core.coordination import Claim
from ..core.errors import InvalidInput, Refused
from ..core.ids import Timeline, Version
from ..core.manifest import Manifest, Target
from ..core.times import WallTime, event_time, parse_time
from ..environment import Environment

LINES = 20
"""How many lines of each list a proposal shows."""


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator has filled in: one of `before`, `written_before`, `version` and `to_checkpoint`, and why."""

    reason: str
    before: str | None = None
    written_before: str | None = None
    version: int | None = None
    to_checkpoint: bool = False
    timeline: int | None = None
    tables: tuple[str, ...] = ()


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be approved. Without a `plan`: the rollback that this run has begun before it was cut off."""

    timeline: Timeline
    plan: RollbackPlan | None
    text: str


def target_of(env: Environment, *, before: str | None, written_before: str | None, version: int | None) -> Target:
    """One of them at most is given; where none is, it is the newest finished checkpoint of the trainer."""
    if before is not None:
        return before_event(event_time(before))
    if written_before is not None:
        return before_append(WallTime(parse_time(written_before)))
    return newest_checkpoint(env) if version is None else to_version(Version(version))


def propose(env: Environment, wish: Wish) -> Proposal:
    """The plan of a rollback, for people to read. Changes nothing. Errors as of `plan_rollback`."""
    given = (wish.before, wish.written_before, wish.version, wish.to_checkpoint or None)
    if sum(each is not None for each in given) != 1:
        raise InvalidInput("where to? Give one of before, written_before, version and to_checkpoint")
    if not wish.reason.strip():
        raise InvalidInput("a rollback needs a reason")
    if (claim := _own_claim(env)) is not None:
        text = f"The rollback to timeline {claim.timeline}, {claim.target}, was begun by this run. Approve to finish it."
        return Proposal(timeline=claim.timeline, plan=None, text=text)
    target = target_of(env, before=wish.before, written_before=wish.written_before, version=wish.version)
    of = None if wish.timeline is None else Timeline(wish.timeline)
    plan = plan_rollback(env, target, of=of, tables=wish.tables or None)
    return Proposal(timeline=plan.timeline, plan=plan, text=as_markdown(plan, wish.reason))


def carry_out(env: Environment, proposal: Proposal, *, why: str) -> Manifest:
    """The version of the rollback, be it made by this try or an earlier one. `Refused` when what was approved cannot be done any
    more, since another rollback came first."""
    claim = leases.read_claim(env.catalog, proposal.timeline)
    if claim is None and proposal.plan is not None:
        return execution.execute(env, proposal.plan, why=why)
    if claim is None or claim.who != env.who:
        by = "nobody" if claim is None else claim.who
        raise Refused(f"timeline {proposal.timeline} is claimed by {by}: the plan that was approved is void", hint="plan it anew")
    return execution.finish(env, claim)


def confirmed_by_all(env: Environment, version: Version) -> dict[str, str | None] | None:
    """The digest that every live replica has reported, by replica; None while some have not. `Refused` when digests differ."""
    found = confirmation(env, env.catalog.manifest(version))
    if found.differing:
        names = ", ".join(found.differing)
        raise Refused(f"version {version}: the digests of {names} differ", hint="restart these, they load the version anew")
    return found.confirmed if found.complete else None


def as_markdown(plan: RollbackPlan, reason: str) -> str:
    lost = plan.lost
    lines = [
        f"**Rollback of {plan.model} {plan.description}**: timeline {plan.of} → {plan.timeline}",
        "",
        f"Reason: {' '.join(reason.split())}",
        "",
        f"- starts from version {plan.base} (state {plan.base_state}, learned up to {plan.base_trained_through})",
        f"- tables: {', '.join(plan.tables) if plan.tables else 'all'}",
        f"- takes back versions: {_listed(lost.versions)}",
        f"- moves refs: {_listed(plan.refs)}",
        f"- rows of the log that are lost: {lost.row_count:,}",
        f"- a trainer restarts from: {plan.restart_from or 'the export of the new version'}",
    ]
    if lost.checkpoints:
        lines.append(f"- checkpoints that cannot be resumed any more: {_listed(lost.checkpoints)}")
    if plan.learned_too:
        lines.append(f"- tables that have learned from it too and stay as they are: {_listed(plan.learned_too)}")
    if lost.dense_updates or lost.unsent:
        lines.append(f"- dense updates lost: {lost.dense_updates}; rows never sent that go back: {lost.unsent:,}")
    if lost.unreadable:
        lines.append(f"- records behind the cuts that nobody can read: {lost.unreadable}")
    if lost.rows:
        lines += ["", "| lost of table | publisher | rows | tombstones | first | last |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {r.table} | {r.publisher} | {r.rows:,} | {r.tombstones:,} | {r.first} | {r.last} |" for r in lost.rows[:LINES]
        ]
    if plan.holders:
        lines += ["", "| replica | version | partitions past the cut |", "|---|---|---|"]
        lines += [f"| {each.replica} | {each.version} | {each.partitions_beyond_cut} |" for each in plan.holders[:LINES]]
    return "\n".join(lines)


def _listed(names: tuple[object, ...]) -> str:
    more = f", and {len(names) - LINES} more" if len(names) > LINES else ""
    return ", ".join(map(str, names[:LINES])) + more if names else "none"


def _own_claim(env: Environment) -> Claim | None:
    """The newest claim, if it was made by whoever acts here and is not given up."""
    refs = env.catalog.refs()
    for timeline in (refs.next_timeline, refs.timeline):
        claim = leases.read_claim(env.catalog, timeline)
        if claim is not None and claim.who == env.who and claim.timeline not in refs.abandoned:
            return claim
    return None
