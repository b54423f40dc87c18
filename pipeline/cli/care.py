"""`penstock verify | export | compact | retention`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ..core.errors import InvalidInput
from .options import HOUSEKEEPING, VERSIONS, ConfigFile, Json, ModelName, Reason, chosen_version, existing
from .output import escaped, human_bytes, print_json, print_table, stdout
from .progress import progress

if TYPE_CHECKING:
    from penstock.publishers.export import Format

    from ..environment import Environment

Number = Annotated[int | None, typer.Argument(metavar="VERSION", help="The live one by default.", show_default=False)]


class ExportDocument(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    table: str
    rows: int


class CompactionDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What `compact` prints. `chain`: how many versions a newcomer had to load; more than `max_chain` are too many. `version`
    holds the whole state now; None where nothing was written."""

    chain: int
    max_chain: int
    due: bool
    version: int | None
    rows: int
    bytes: int
    digest: str | None


def register(app: typer.Typer) -> None:
    for command in (verify, export):
        app.command(rich_help_panel=VERSIONS)(command)
    for keeping in (compact, retention):
        app.command(rich_help_panel=HOUSEKEEPING)(keeping)


def verify(version: Number = None, config: ConfigFile = None, model: ModelName = None, json: Json = False) -> int:
    """Read every byte of a version, check every digest.

    Exit code 3 where something is damaged.

    [dim]penstock verify
    penstock verify 12 --json[/]
    """
    from penstock.publishers.verification import verify as verify_version

    from ..catalog.care import cared
    from ..core.ids import Version

    with (
        existing(config, model) as env,
        progress(env, "reading") as watched,
        cared(env.catalog, "verify", who=env.who, clock=env.clock) as outcome,
    ):
        found = verify_version(watched, None if version is None else Version(version))
        if not found.ok:
            outcome.found = f"version {found.version} is damaged, {len(found.findings)} findings"
    if json:
        print_json(found)
    elif found.ok:
        stdout.print(f"[green]version {found.version} is whole[/]: {human_bytes(found.read_bytes)} read, digest {found.digest}")
        for table, count in found.unnamed.items():
            stdout.print(escaped(f"table {table}: the log has brought {count:,} rows whose strings no checkpoint has given yet"))
    else:
        stdout.print(f"[red]version {found.version} is damaged[/]")
        print_table(["object", "rule"], [(f.object, f.rule) for f in found.findings])
    return 0 if found.ok else 3


def export(
    version: Number = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE")] = None,
    table: Annotated[str | None, typer.Option("--table", metavar="T", help="One table, as parquet.")] = None,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="npz|safetensors|archive",
            help="A whole checkpoint to restart from; archive: the trainer's own files, into a folder.",
        ),
    ] = None,
    before: Annotated[str | None, typer.Option("--before", metavar="TIME", help="As it was before this event time.")] = None,
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Write a version out: a table, or a whole checkpoint.

    A table is parquet: key and row, and name where keys are strings; a checkpoint comes with the sidecar to restart from it.

    [dim]penstock export 12 --table customer --output customer.parquet
    penstock export --table customer --before 2026-11-21T10:07:00Z --output before.parquet
    penstock export --format safetensors --output restart.safetensors
    penstock export 12 --format archive --output restart/[/]
    """
    if output is None:
        raise InvalidInput("where to? Say --output FILE")
    if (table is None) == (file_format is None):
        raise InvalidInput("give either --table T (parquet) or --format npz|safetensors|archive (a whole checkpoint)")
    if file_format not in (None, "npz", "safetensors", "archive"):
        raise InvalidInput(f"--format {file_format}: npz, safetensors or archive")
    if before is not None and (table is None or version is not None):
        raise InvalidInput("--before goes with --table, and with no VERSION")
    with existing(config, model) as env, progress(env, "reading") as watched:
        if file_format == "archive":
            documents = [_export_archive(watched, version, output)]
        elif table is None:
            documents = _export_checkpoint(watched, version, output, "npz" if file_format == "npz" else "safetensors")
        else:
            documents = [_export_table(watched, version, before, table, output)]
    if json:
        print_json(documents[0] if table is not None else documents)
        return
    if file_format == "archive":
        stdout.print(escaped(f"{output}: the checkpoint of version {documents[0].version}"), soft_wrap=True)
        return
    for document in documents:
        text = f"{output}: {document.rows:,} rows of table {document.table}, version {document.version}"
        stdout.print(escaped(text), soft_wrap=True)


def _export_table(env: Environment, version: int | None, before: str | None, table: str, output: Path) -> ExportDocument:
    """Of a moment, `version` is the one that it is counted from."""
    env.schema.table(table)
    if before is None:
        from penstock.publishers.export import export_table

        found = chosen_version(env.catalog, version)
        return ExportDocument(version=found.version, table=table, rows=export_table(env, found, table, output))
    from penstock.rollback.moment import export_moment, state_before
    from penstock.rollback.target import before_event

    from ..core.times import event_time

    moment = state_before(env, before_event(event_time(before)))
    return ExportDocument(version=moment.base.version, table=table, rows=export_moment(env, moment, table, output))


def _export_archive(env: Environment, version: int | None, output: Path) -> ExportDocument:
    """Of `version`, which may stand beside the chain; by default of the newest that has an archive."""
    from penstock.publishers.archive import export_archive

    from ..core.ids import Version

    history = env.catalog.history()
    if version is None:
        kept = [m for m in (*history.trunk, *history.bases.values()) if m.checkpoint is not None]
        found = max(kept, key=lambda m: m.version, default=history.newest)
    else:
        found = history.version(Version(version))
    export_archive(env, found, output)
    return ExportDocument(version=found.version, table="", rows=0)


def _export_checkpoint(env: Environment, version: int | None, output: Path, kind: Format) -> list[ExportDocument]:
    from penstock.publishers.export import export_checkpoint

    found = chosen_version(env.catalog, version)
    counts = export_checkpoint(env, found, output, kind)
    return [ExportDocument(version=found.version, table=name, rows=rows) for name, rows in counts.items()]


def compact(
    version: Number = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell how long the chain is.")] = False,
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Write a chain as one whole state beside it.

    Newcomers load less then; no ref moves.

    [dim]penstock compact[/]
    """
    from penstock.publishers.compaction import chain_length
    from penstock.publishers.compaction import compact as compact_chain

    from ..catalog.care import cared
    from ..core.ids import Version

    asked = None if version is None else Version(version)
    with existing(config, model) as env:
        chain, bound = chain_length(env, asked), env.config.retention.max_chain
        found = None
        if not dry_run:
            with progress(env, "merging") as watched, cared(env.catalog, "compact", who=env.who, clock=env.clock):
                found = compact_chain(watched, asked, why="compaction")
        document = CompactionDocument(
            chain=chain, max_chain=bound, due=chain > bound, version=None if found is None else found.version,
            rows=0 if found is None else found.rows, bytes=0 if found is None else found.bytes,
            digest=None if found is None else found.digest(env.schema.buckets)[1],
        )  # fmt: skip
    if json:
        print_json(document)
        return
    stdout.print(f"the chain had {chain} versions; compaction is due beyond {bound}")
    if found is not None:
        stdout.print(
            f"version {found.version} holds the whole state {found.state}: {found.rows:,} rows, {human_bytes(found.bytes)}"
        )


def retention(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and delete nothing.")] = False,
    reason: Reason = "retention",
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Expire what nothing needs any more.

    Whatever a ref, a pin, a replica, a running publish or the recovery window needs is kept.

    [dim]penstock retention --dry-run[/]
    """
    from penstock.rollback.retention import apply_retention, plan_retention

    from ..catalog.care import cared

    with existing(config, model) as env:
        if dry_run:
            plan = plan_retention(env)
        else:
            with progress(env, "deleting") as watched, cared(env.catalog, "retention", who=env.who, clock=env.clock):
                plan = apply_retention(watched, plan_retention(env), why=reason)
    if json:
        print_json(plan)
        return
    verb = "would go" if dry_run else "gone"
    stdout.print(f"versions that {verb}: {', '.join(map(str, plan.expired_versions)) or 'none'}")
    stdout.print(f"{len(plan.expired_objects):,} objects, {human_bytes(plan.freed_bytes)}")
    print_table(["version", "kept because"], [(kept.version, ", ".join(kept.reasons)) for kept in plan.kept])
    if plan.delta_due:
        stdout.print("[yellow]a delta is due: half of what the log holds lies past the newest version[/]")
