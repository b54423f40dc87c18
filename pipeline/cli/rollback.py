"""`penstock rollback`: plan, show, commit; finish or give up one that was begun."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
import typer

from penstock.rollback import execution
from penstock.rollback.plan import RollbackPlan
from penstock.rollback.planning import newest_checkpoint, plan_rollback
from penstock.rollback.target import before_append, before_event, to_version

from ..catalog import leases
from ..core.errors import InvalidInput
from ..core.ids import Timeline, Version
from ..core.manifest import Manifest, Target
from ..core.times import WallTime, event_time, parse_duration, parse_time
from ..environment import Environment
from .options import ConfigFile, Json, ModelName, existing
from .output import print_json, print_table, stderr, stdout

Moment = Annotated[str | None, typer.Option(metavar="TIME", help="")]


class RollbackDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What a rollback prints. `confirmed`: replicas that have reported the version, with their digests; `missing`: those not yet."""

    plan: RollbackPlan | None
    version: int | None
    timeline: int | None
    state: str | None
    digest: str | None
    rows_restored: int
    tombstones: int
    lost: object
    confirmed: dict[str, str]
    missing: list[str]


def register(app: typer.Typer) -> None:
    app.command()(rollback)


def rollback(
    before: Annotated[
        str | None, typer.Option("--before", metavar="TIME", help="To before anything was learned from this event time on.")
    ] = None,
    written_before: Annotated[
        str | None, typer.Option("--written-before", metavar="TIME", help="To what the log held before this wall time.")
    ] = None,
    to: Annotated[int | None, typer.Option("--to-version", metavar="N", help="To a version, on whatever timeline.")] = None,
    to_checkpoint: Annotated[
        bool, typer.Option("--to-checkpoint", help="To the newest finished checkpoint of the trainer.")
    ] = False,
    timeline: Annotated[
        int | None, typer.Option("--timeline", metavar="N", help="The timeline that a time is meant on; the live one by default.")
    ] = None,
    table: Annotated[
        list[str] | None, typer.Option("--table", metavar="T", help="Only this table; may be given more than once.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes into the history.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Finish a rollback that was begun.")] = False,
    abandon: Annotated[bool, typer.Option("--abandon", help="Give up a rollback that was begun.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask. Implied where there is no terminal, and by --json.")
    ] = False,
    wait: Annotated[
        str, typer.Option("--wait", metavar="DURATION", help="How long to wait until every live replica has confirmed.")
    ] = "30s",
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Go back to before the poison: show what will be lost, then commit a new version on a new timeline.

    [dim]penstock rollback --before 2026-11-21T10:07:00Z --reason "bot traffic" --dry-run
    penstock rollback --before 2026-11-21T10:07:00Z --reason "bot traffic"
    penstock rollback --to-version 12 --reason "bad feature" --table item[/]
    """
    with existing(config, model) as env:
        if abandon:
            claim = execution.abandon(env, why=reason)
            print_json(claim) if json else stdout.print(f"the rollback to timeline {claim.timeline} is abandoned")
            return
        if resume:
            _done(env, None, execution.resume(env), wait, json)
            return
        target = _target(env, before, written_before, to, to_checkpoint)
        if not reason and not dry_run:
            raise InvalidInput("a rollback needs a reason", hint='say --reason "what went wrong"')
        of = None if timeline is None else Timeline(timeline)
        plan = plan_rollback(env, target, of=of, tables=tuple(table) if table else None)
        if dry_run:
            print_json(_document(plan, None, {}, [])) if json else show_plan(plan)
            return
        if not json:
            show_plan(plan)
            if not yes and stderr.is_terminal:
                typer.confirm("Go back?", abort=True, err=True)
        _done(env, plan, execution.execute(env, plan, why=reason), wait, json)


def _target(env: Environment, before: str | None, written_before: str | None, to: int | None, to_checkpoint: bool) -> Target:
    given = [before is not None, written_before is not None, to is not None, to_checkpoint]
    if sum(given) != 1:
        raise InvalidInput("where to? Give one of --before, --written-before, --to-version, --to-checkpoint")
    if before is not None:
        return before_event(event_time(before))
    if written_before is not None:
        return before_append(WallTime(parse_time(written_before)))
    return newest_checkpoint(env) if to is None else to_version(Version(to))


def show_plan(plan: RollbackPlan) -> None:
    """The plan for people."""
    stdout.print(f"[bold]Rollback of {plan.model} {plan.description}[/], on timeline {plan.of}; a new timeline {plan.timeline}")
    stdout.print(f"  starts from version {plan.base} (state {plan.base_state}, learned up to {plan.base_trained_through})")
    lost = plan.lost
    stdout.print(f"  takes back versions: {', '.join(map(str, lost.versions)) or 'none'}; moves refs: {', '.join(plan.refs)}")
    if lost.rows:
        columns = ["lost rows of table", "publisher", "records", "rows", "tombstones", "learned from", "to"]
        print_table(columns, [(r.table, r.publisher, r.records, f"{r.rows:,}", r.tombstones, r.first, r.last) for r in lost.rows])
    else:
        stdout.print("  no rows of the log are lost")
    for text, found in (
        ("checkpoints that cannot be resumed any more", lost.checkpoints),
        ("tables that have learned from it too and stay as they are", plan.learned_too),
    ):
        if found:
            stdout.print(f"  {text}: {', '.join(found)}")
    if lost.dense_updates or lost.unsent:
        stdout.print(f"  dense updates lost: {lost.dense_updates}; rows that were never sent and go back: {lost.unsent:,}")
    stdout.print(f"  a trainer restarts from: {plan.restart_from or 'the export of the new version'}")
    for holder in plan.holders:
        stdout.print(
            f"  replica {holder.replica} serves version {holder.version}, {holder.partitions_beyond_cut} partitions past the cut"
        )


def _done(env: Environment, plan: RollbackPlan | None, manifest: Manifest, wait: str, json: bool) -> None:
    found = _confirmed(env, manifest, parse_duration(wait) / 1e6)
    document = _document(plan, manifest, found.confirmed, list(found.missing), env.schema.buckets)
    if json:
        print_json(document)
        return
    stdout.print(
        f"[bold green]Version {manifest.version}[/] on timeline {manifest.timeline}: {document.rows_restored:,} rows restored, "
        f"{document.tombstones:,} taken away"
    )
    for replica, digest in sorted(found.confirmed.items()):
        stdout.print(f"  {replica} confirms, digest {digest}")
    if found.missing:
        stdout.print(f"  [yellow]not yet confirmed: {', '.join(found.missing)}[/] (`penstock status` shows them)")


def _confirmed(env: Environment, manifest: Manifest, seconds: float) -> execution.Confirmation:
    """Waits until every replica with a live lease has confirmed, or the time is up."""
    until = time.monotonic() + seconds
    with stderr.status("waiting for replicas to confirm"):
        while True:
            found = execution.confirmation(manifest, leases.presences(env.catalog, now=env.clock()))
            if found.complete or time.monotonic() > until:
                return found
            time.sleep(0.1)


def _document(
    plan: RollbackPlan | None, manifest: Manifest | None, confirmed: dict[str, str], missing: list[str], buckets: int = 0
) -> RollbackDocument:
    undo = manifest.rollback.undo if manifest is not None and manifest.rollback is not None else {}
    return RollbackDocument(
        plan=plan,
        version=None if manifest is None else manifest.version,
        timeline=None if manifest is None else manifest.timeline,
        state=None if manifest is None else str(manifest.state),
        digest=None if manifest is None or manifest.state_digests(buckets) is None else manifest.digest(buckets)[1],
        rows_restored=sum(change.rows for change in undo.values()),
        tombstones=sum(change.tombstones for change in undo.values()),
        lost={} if plan is None else plan.lost,
        confirmed=confirmed,
        missing=missing,
    )
