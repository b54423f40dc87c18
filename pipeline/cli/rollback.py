"""`penstock rollback`: plan, show, commit; finish or give up one that was begun."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ..core.errors import InvalidInput
from .options import TROUBLE, ConfigFile, Json, ModelName, Reason, existing
from .output import escaped, print_json, print_table, stderr, stdout

if TYPE_CHECKING:
    from penstock.rollback.confirmation import Confirmation
    from penstock.rollback.plan import Lost, RollbackPlan

    from ..core.manifest import Manifest
    from ..environment import Environment


LOOK_S = 0.1


class RollbackDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What a rollback prints. Replicas that have reported the version with the digest that it states are `confirmed`, those that
    have not yet are `missing`, those that report another digest are `differing`."""

    plan: RollbackPlan | None
    version: int | None = None
    timeline: int | None = None
    state: str | None = None
    digest: str | None = None
    rows_restored: int = 0
    tombstones: int = 0
    lost: Lost | dict[str, int] = {}
    confirmed: dict[str, str | None] = {}
    missing: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=TROUBLE)(rollback)


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
    reason: Reason = "",
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
    """Go back to before the poison, on a new timeline.

    Shows what will be lost, asks, commits a new version, and waits until every live replica has confirmed its digest.

    [dim]penstock rollback --before 2026-11-21T10:07:00Z --reason "bot traffic" --dry-run
    penstock rollback --before 2026-11-21T10:07:00Z --reason "bot traffic"
    penstock rollback --to-version 12 --reason "bad feature" --table item[/]
    """
    from penstock.rollback import execution
    from penstock.rollback.planning import plan_rollback

    from ..core.ids import Timeline
    from ..runs.rolling_back import target_of

    given = [name for name, asked in _targets(before, written_before, to, to_checkpoint) if asked]
    if resume or abandon:
        if given or (resume and abandon):
            raise InvalidInput("--resume and --abandon stand alone: the rollback that was begun has its target")
    elif len(given) != 1:
        raise InvalidInput("where to? Give one of --before, --written-before, --to-version, --to-checkpoint")
    elif not reason and not dry_run:
        raise InvalidInput("a rollback needs a reason", hint='say --reason "what went wrong"')
    wait_s = _seconds(wait)
    with existing(config, model) as env:
        if abandon:
            claim = execution.abandon(env, why=reason)
            print_json(claim) if json else stdout.print(f"the rollback to timeline {claim.timeline} is abandoned")
            return
        if resume:
            _done(env, None, execution.resume(env), wait_s, json)
            return
        target = target_of(env, before=before, written_before=written_before, version=to)
        of = None if timeline is None else Timeline(timeline)
        plan = plan_rollback(env, target, of=of, tables=tuple(table) if table else None)
        if dry_run:
            print_json(RollbackDocument(plan=plan, lost=plan.lost)) if json else show_plan(plan)
            return
        if not json:
            show_plan(plan)
            if not yes and stderr.is_terminal:
                typer.confirm("Go back?", abort=True, err=True)
        with stderr.status("fencing, and computing what goes back"):
            done = execution.execute(env, plan, why=reason)
        _done(env, plan, done, wait_s, json)


def _targets(before: str | None, written_before: str | None, to: int | None, to_checkpoint: bool) -> list[tuple[str, bool]]:
    return [
        ("--before", before is not None),
        ("--written-before", written_before is not None),
        ("--to-version", to is not None),
        ("--to-checkpoint", to_checkpoint),
    ]


def _seconds(duration: str) -> float:
    from ..core.times import parse_duration

    return parse_duration(duration) / 1e6


def show_plan(plan: RollbackPlan) -> None:
    """The plan for people."""
    stdout.print(f"[bold]Rollback of {plan.model} {escaped(plan.description)}[/]: timeline {plan.of} → {plan.timeline}")
    stdout.print(f"  starts from version {plan.base} (state {plan.base_state}, learned up to {plan.base_trained_through})")
    lost = plan.lost
    stdout.print(f"  takes back versions: {', '.join(map(str, lost.versions)) or 'none'}; moves refs: {', '.join(plan.refs)}")
    if lost.rows:
        print_table(
            ["lost of table", "publisher", "records", "rows", "tombstones", "learned up to: first", "last"],
            [(r.table, r.publisher, r.records, f"{r.rows:,}", f"{r.tombstones:,}", r.first, r.last) for r in lost.rows],
            spare=("records", "learned up to: first", "publisher"),
        )
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
    if lost.unreadable:
        stdout.print(f"  records behind the cuts that nobody can read: {lost.unreadable}")
    stdout.print(f"  a trainer restarts from: {plan.restart_from or 'the export of the new version'}")
    for holder in plan.holders:
        at = f"version {holder.version}, {holder.partitions_beyond_cut} partitions past the cut"
        stdout.print(f"  replica {escaped(holder.replica)} serves {at}")


def _done(env: Environment, plan: RollbackPlan | None, manifest: Manifest, wait_s: float, json: bool) -> None:
    found = _confirmed(env, manifest, wait_s)
    undo = {} if manifest.rollback is None else manifest.rollback.undo
    buckets = env.schema.buckets
    document = RollbackDocument(
        plan=plan,
        version=manifest.version,
        timeline=manifest.timeline,
        state=str(manifest.state),
        digest=None if manifest.state_digests(buckets) is None else manifest.digest(buckets)[1],
        rows_restored=sum(change.rows for change in undo.values()),
        tombstones=sum(change.tombstones for change in undo.values()),
        lost={"rows": 0 if manifest.rollback is None else manifest.rollback.lost_rows} if plan is None else plan.lost,
        confirmed=found.confirmed,
        missing=found.missing,
        differing=found.differing,
    )
    if json:
        print_json(document)
        return
    stdout.print(
        f"[bold green]Version {manifest.version}[/] on timeline {manifest.timeline}: {document.rows_restored:,} rows restored, "
        f"{document.tombstones:,} taken away"
    )
    for replica, digest in sorted(found.confirmed.items()):
        stdout.print(f"  {escaped(replica)} confirms" + (f", digest {digest}" if digest else ", and has gone on"))
    if found.missing:
        stdout.print(f"  [yellow]not yet confirmed: {escaped(', '.join(found.missing))}[/] (`penstock status` shows them)")
    if found.differing:
        names = escaped(", ".join(found.differing))
        stdout.print(f"  [bold red]digests differ: {names}[/]; restart these, they load the version anew")


def _confirmed(env: Environment, manifest: Manifest, wait_s: float) -> Confirmation:
    """Waits until every replica with a live lease has confirmed, or the time is up."""
    from penstock.rollback.confirmation import confirmation

    until = time.monotonic() + wait_s
    with stderr.status("waiting for replicas to confirm"):
        while True:
            found = confirmation(env, manifest)
            if found.complete or time.monotonic() > until:
                return found
            time.sleep(LOOK_S)
