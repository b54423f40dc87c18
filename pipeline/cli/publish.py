"""`penstock publish snapshot | delta | commit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.publishers.delta import publish_delta
from penstock.publishers.fanout import commit_parts, publish_part
from penstock.publishers.folding import publish_delta_from_log
from penstock.publishers.snapshot import publish_snapshot
from penstock.publishers.sources import checkpoint_source, read_touched
from penstock.slicer.sidecar import find_sidecar

from ..core.checkpoint import Sidecar, decode_sidecar
from ..core.errors import InvalidInput
from ..core.manifest import Manifest
from ..core.times import EventTime, event_time
from ..environment import Environment
from .options import ConfigFile, Json, ModelName, born, existing
from .output import print_json, print_versions, stderr, version_document

commands = typer.Typer(no_args_is_help=True, help="Slice a checkpoint and commit one version.")

Through = Annotated[
    str | None,
    typer.Option("--trained-through", help="Newest event that the checkpoint has learned from, RFC 3339.", metavar="TIME"),
]
Ref = Annotated[str, typer.Option("--ref", help="The ref to move.")]
NoPromote = Annotated[bool, typer.Option("--no-promote", help="Commit without moving a ref.")]
Why = Annotated[str, typer.Option("--reason", help="Why; it goes into the history.")]
Run = Annotated[str | None, typer.Option("--run", help="Names the run that all parts belong to.", metavar="ID")]


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="publish")


@commands.command()
def snapshot(
    path: Annotated[Path, typer.Argument(help="The checkpoint: a file or a folder.")],
    trained_through: Through = None,
    ref: Ref = "live",
    no_promote: NoPromote = False,
    part: Annotated[
        str | None, typer.Option("--part", help="Slice only part K of N; `publish commit` joins them.", metavar="K/N")
    ] = None,
    run: Run = None,
    reason: Why = "",
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Publish a whole checkpoint.

    [dim]penstock publish snapshot checkpoints/step_100.pt --trained-through 2026-11-21T10:07:00Z[/]
    """
    with born(config, model) as env, checkpoint_source(path, env.model) as source:
        sidecar, through = _learned(path, trained_through)
        if part is not None:
            number, count = _part(part)
            if run is None:
                raise InvalidInput("--part needs --run ID, the same for all parts")
            found = publish_part(env, source, run=run, part=number, of=count, sidecar=sidecar, trained_through=through)
            print_json(found) if json else stderr.print(f"part {number} of {count} of run {run}: {found.rows:,} rows")
            return
        _show(
            env,
            publish_snapshot(env, source, sidecar=sidecar, trained_through=through, promote=_refs(ref, no_promote), why=reason),
            json,
        )


@commands.command()
def delta(
    path: Annotated[Path | None, typer.Argument(help="The checkpoint; none with --from-log.")] = None,
    from_log: Annotated[
        bool, typer.Option("--from-log", help="Fold the update log up to the newest finished checkpoint.")
    ] = False,
    touched: Annotated[
        Path | None, typer.Option("--touched", help="Keys that changed: .npz, an array a table.", metavar="FILE")
    ] = None,
    trained_through: Through = None,
    ref: Ref = "live",
    no_promote: NoPromote = False,
    reason: Why = "",
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Publish what changed since the newest version.

    [dim]penstock publish delta checkpoints/step_101.pt
    penstock publish delta --from-log[/]
    """
    if (path is None) != from_log:
        raise InvalidInput("give either the PATH of a checkpoint, or --from-log")
    if path is None:
        with existing(config, model) as env:
            _show(env, publish_delta_from_log(env, promote=_refs(ref, no_promote), why=reason), json)
        return
    with existing(config, model) as env, checkpoint_source(path, env.model) as source:
        sidecar, through = _learned(path, trained_through)
        keys = None if touched is None else read_touched(touched)
        promote = _refs(ref, no_promote)
        found = publish_delta(env, source, sidecar=sidecar, trained_through=through, touched=keys, promote=promote, why=reason)
        _show(env, found, json)


@commands.command()
def commit(
    run: Run,
    ref: Ref = "live",
    no_promote: NoPromote = False,
    reason: Why = "",
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Join the parts of a run, and commit.

    [dim]penstock publish commit --run 2026-11-21[/]
    """
    with existing(config, model) as env:
        if run is None:
            raise InvalidInput("which run? Say --run ID")
        _show(env, commit_parts(env, run=run, promote=_refs(ref, no_promote), why=reason), json)


def _refs(ref: str, no_promote: bool) -> tuple[str, ...]:
    return () if no_promote else (ref,)


def _part(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise InvalidInput(f"--part {text}: K/N is needed with 1 <= K <= N, as in 2/8")
    return int(number), int(count)


def _learned(path: Path, trained_through: str | None) -> tuple[Sidecar | None, EventTime | None]:
    """What is known of the checkpoint: from its sidecar, or as the caller says."""
    beside = find_sidecar(path)
    sidecar = None if beside is None else decode_sidecar(beside.read_bytes(), str(beside))
    return sidecar, None if trained_through is None else event_time(trained_through)


def _show(env: Environment, manifest: Manifest, json: bool) -> None:
    document = version_document(manifest, env.catalog.refs(), env.schema.buckets)
    print_json(document) if json else print_versions([document])
