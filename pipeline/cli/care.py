"""`penstock verify | export | compact | retention`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from penstock.publishers.compaction import chain_length
from penstock.publishers.compaction import compact as compact_chain
from penstock.publishers.export import Format, export_checkpoint, export_table
from penstock.publishers.verification import verify as verify_version
from penstock.rollback.moment import export_moment, state_before
from penstock.rollback.retention import apply_retention, plan_retention
from penstock.rollback.target import before_event

from ..core.errors import InvalidInput
from ..core.ids import Version
from ..core.times import event_time
from .options import ConfigFile, Json, ModelName, chosen_version, existing
from .output import human_bytes, print_json, print_table, print_versions, stderr, stdout, version_document

Number = Annotated[int | None, typer.Argument(metavar="VERSION", help="The live one by default.", show_default=False)]


class ExportDocument(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    table: str
    rows: int


def register(app: typer.Typer) -> None:
    for command in (verify, export, compact, retention):
        app.command()(command)


def verify(version: Number = None, config: ConfigFile = None, model: ModelName = None, json: Json = False) -> int:
    """Read every byte that a version needs, and check it against its digests. Exit code 3 where something is damaged."""
    with existing(config, model) as env, stderr.status("reading"):
        found = verify_version(env, None if version is None else Version(version))
    if json:
        print_json(found)
    elif found.ok:
        stdout.print(f"[green]version {found.version} is whole[/]: {human_bytes(found.read_bytes)} read, digest {found.digest}")
    else:
        stdout.print(f"[red]version {found.version} is damaged[/]")
        print_table(["object", "rule"], [(f.object, f.rule) for f in found.findings])
    return 0 if found.ok else 3


def export(
    version: Number = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE")] = None,
    table: Annotated[str | None, typer.Option("--table", metavar="T", help="One table, as parquet.")] = None,
    file_format: Annotated[
        str | None, typer.Option("--format", metavar="npz|safetensors", help="A whole checkpoint to restart from.")
    ] = None,
    before: Annotated[str | None, typer.Option("--before", metavar="TIME", help="As it was before this event time.")] = None,
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Write a version out: one table for people, or a checkpoint with its sidecar for a trainer to restart from.

    [dim]penstock export 12 --table customer --output customer.parquet
    penstock export --format safetensors --output restart.safetensors[/]
    """
    if output is None:
        raise InvalidInput("where to? Say --output FILE")
    if (table is None) == (file_format is None):
        raise InvalidInput("give either --table T (parquet) or --format npz|safetensors (a whole checkpoint)")
    if file_format not in (None, "npz", "safetensors"):
        raise InvalidInput(f"--format {file_format}: npz or safetensors")
    with existing(config, model) as env, stderr.status("writing"):
        if before is not None:
            if table is None or version is not None:
                raise InvalidInput("--before goes with --table, and with no VERSION")
            moment = state_before(env, before_event(event_time(before)))
            documents = [ExportDocument(version=moment.base.version, table=table, rows=export_moment(env, moment, table, output))]
        else:
            found = chosen_version(env, version)
            if table is not None:
                counts = {table: export_table(env, found, table, output)}
            else:
                kind: Format = "npz" if file_format == "npz" else "safetensors"
                counts = export_checkpoint(env, found, output, kind)
            documents = [ExportDocument(version=found.version, table=name, rows=rows) for name, rows in counts.items()]
    if json:
        print_json(documents[0] if table is not None else documents)
    else:
        for document in documents:
            stdout.print(f"{output}: {document.rows:,} rows of table {document.table}, version {document.version}")


def compact(
    version: Number = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell how long the chain is.")] = False,
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Write a chain as one whole state beside it, so that newcomers load less. No ref moves."""
    with existing(config, model) as env:
        before = chain_length(env, None if version is None else Version(version))
        if dry_run:
            bound = env.config.retention.max_chain
            print_json({"chain": before, "max_chain": bound, "due": before > bound}) if json else stdout.print(
                f"the chain has {before} versions; compaction is due beyond {bound}"
            )
            return
        with stderr.status("merging"):
            found = compact_chain(env, None if version is None else Version(version), why="compaction")
        document = version_document(found, env.catalog.refs(), env.schema.buckets)
    print_json(document) if json else print_versions([document])


def retention(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and delete nothing.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes into the history.")] = "retention",
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Expire what no ref, pin, running publish or recovery window needs."""
    with existing(config, model) as env:
        plan = plan_retention(env)
        if not dry_run:
            plan = apply_retention(env, plan, why=reason)
    if json:
        print_json(plan)
        return
    verb = "would go" if dry_run else "gone"
    stdout.print(f"versions that {verb}: {', '.join(map(str, plan.expired_versions)) or 'none'}")
    stdout.print(f"{len(plan.expired_objects):,} objects, {human_bytes(plan.freed_bytes)}")
    print_table(["version", "kept because"], [(kept.version, ", ".join(kept.reasons)) for kept in plan.kept])
