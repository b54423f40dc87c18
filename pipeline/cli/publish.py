"""`penstock publish snapshot | delta | commit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import DELIVERY, ConfigFile, Json, ModelName, Reason, existing, read_config
from .output import print_json, print_versions, stdout, version_document
from .progress import progress

if TYPE_CHECKING:
    from ..core.checkpoint import Sidecar
    from ..core.manifest import Manifest
    from ..core.times import EventTime
    from ..environment import Environment

commands = typer.Typer(no_args_is_help=True, help="Slice a checkpoint and commit one version.")

Through = Annotated[
    str | None,
    typer.Option("--trained-through", help="Newest event that the checkpoint has learned from, RFC 3339.", metavar="TIME"),
]
Ref = Annotated[str, typer.Option("--ref", metavar="REF", help="The ref to move.")]
NoPromote = Annotated[bool, typer.Option("--no-promote", help="Commit without moving a ref.")]
RUN = typer.Option("--run", help="Names the run that all parts belong to.", metavar="ID")


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="publish", rich_help_panel=DELIVERY)


@commands.command()
def snapshot(
    path: Annotated[Path, typer.Argument(help="The checkpoint: a file or a folder.")],
    trained_through: Through = None,
    ref: Ref = "live",
    no_promote: NoPromote = False,
    part: Annotated[
        str | None, typer.Option("--part", help="Slice only part K of N; `publish commit` joins them.", metavar="K/N")
    ] = None,
    run: Annotated[str | None, RUN] = None,
    reason: Reason = "",
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Publish a whole checkpoint.

    [dim]penstock publish snapshot checkpoints/step_100.pt --trained-through 2026-11-21T10:07:00Z
    penstock publish snapshot checkpoints/step_100 --part 2/8 --run 2026-11-21[/]
    """
    from penstock.publishers.fanout import publish_part
    from penstock.publishers.snapshot import publish_snapshot
    from penstock.publishers.sources import checkpoint_source

    from ..environment import create_environment

    number, count = _part(part, run)
    sidecar, through = _learned(path, trained_through)
    settings = read_config(config)
    name = settings.model_name(model)
    # The checkpoint first: a model is not born for one that cannot be read.
    with checkpoint_source(path, settings.models[name]) as source, create_environment(settings, name) as env:
        with progress(env, "slicing") as watched:
            if part is None or run is None:
                promote = _refs(ref, no_promote)
                found = publish_snapshot(watched, source, sidecar=sidecar, trained_through=through, promote=promote, why=reason)
            else:
                made = publish_part(watched, source, run=run, part=number, of=count, sidecar=sidecar, trained_through=through)
        if part is None:
            _show(env, found, json)
        elif json:
            print_json(made)
        else:
            stdout.print(
                f"part {number} of {count} of run {run}: {made.rows:,} rows; `penstock publish commit --run {run}` joins all"
            )


@commands.command()
def delta(
    path: Annotated[Path | None, typer.Argument(help="The checkpoint; none with --from-log.")] = None,
    from_log: Annotated[
        bool, typer.Option("--from-log", help="Fold the update log up to the newest finished checkpoint.")
    ] = False,
    touched: Annotated[
        Path | None,
        typer.Option(
            "--touched", help="Keys that changed: an .npz with an array a table, a .parquet or an .npy.", metavar="FILE"
        ),
    ] = None,
    trained_through: Through = None,
    ref: Ref = "live",
    no_promote: NoPromote = False,
    reason: Reason = "",
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Publish what changed since the newest version.

    [dim]penstock publish delta checkpoints/step_101.pt
    penstock publish delta --from-log[/]
    """
    from penstock.publishers.delta import publish_delta
    from penstock.publishers.folding import publish_delta_from_log
    from penstock.publishers.sources import checkpoint_source
    from penstock.publishers.touched_files import read_touched

    from ..core.errors import InvalidInput

    if (path is None) != from_log:
        raise InvalidInput("give either the PATH of a checkpoint, or --from-log")
    promote = _refs(ref, no_promote)
    if path is None:
        if touched is not None or trained_through is not None:
            raise InvalidInput("--from-log takes neither --touched nor --trained-through: the log says both")
        with existing(config, model) as env:
            with progress(env, "folding the log") as watched:
                found = publish_delta_from_log(watched, promote=promote, why=reason)
            _show(env, found, json)
        return
    sidecar, through = _learned(path, trained_through)
    keys = None if touched is None else read_touched(touched)
    with existing(config, model) as env, checkpoint_source(path, env.model) as source:
        with progress(env, "slicing") as watched:
            found = publish_delta(
                watched, source, sidecar=sidecar, trained_through=through, touched=keys, promote=promote, why=reason
            )
        _show(env, found, json)


@commands.command()
def commit(
    run: Annotated[str, RUN],
    ref: Ref = "live",
    no_promote: NoPromote = False,
    reason: Reason = "",
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Join the parts of a run, and commit.

    [dim]penstock publish commit --run 2026-11-21[/]
    """
    from penstock.publishers.fanout import commit_parts

    with existing(config, model) as env:
        with progress(env, "joining") as watched:
            found = commit_parts(watched, run=run, promote=_refs(ref, no_promote), why=reason)
        _show(env, found, json)


def _refs(ref: str, no_promote: bool) -> tuple[str, ...]:
    return () if no_promote else (ref,)


def _part(text: str | None, run: str | None) -> tuple[int, int]:
    """K and N; of a run that is not parted, 1 and 1."""
    from ..core.errors import InvalidInput

    if (text is None) != (run is None):
        raise InvalidInput("--part K/N and --run ID go together; the run is the same for all parts")
    number, slash, count = (text or "1/1").partition("/")
    if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise InvalidInput(f"--part {text}: K/N is needed with 1 <= K <= N, as in 2/8")
    return int(number), int(count)


def _learned(path: Path, trained_through: str | None) -> tuple[Sidecar | None, EventTime | None]:
    """What is known of the checkpoint: from its sidecar, or as the caller says."""
    from penstock.slicer.sidecar import read_sidecar

    from ..core.times import event_time

    return read_sidecar(path), None if trained_through is None else event_time(trained_through)


def _show(env: Environment, manifest: Manifest, json: bool) -> None:
    document = version_document(manifest, env.catalog.refs(), env.schema.buckets)
    print_json(document) if json else print_versions([document])
