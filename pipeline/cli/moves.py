"""`versions`, `history`, `promote`, `pin`, `unpin`, `freeze`, `thaw`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from .options import TROUBLE, VERSIONS, ConfigFile, Json, ModelName, Reason, RefName, existing, stored
from .output import print_json, print_table, print_versions, stdout, version_document

if TYPE_CHECKING:
    from ..core.refs import Refs

Number = Annotated[int, typer.Argument(metavar="VERSION")]


class RefDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A ref as commands print it."""

    ref: str
    version: int
    follow: str
    frozen: list[int] | None
    generation: int


class MoveDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A move of the refs as commands print it."""

    generation: int
    at: str
    who: str
    what: str
    why: str
    trunk: int
    timeline: int
    refs: dict[str, int]


def register(app: typer.Typer) -> None:
    for command in (versions, history, promote, pin, unpin):
        app.command(rich_help_panel=VERSIONS)(command)
    for stop in (freeze, thaw):
        app.command(rich_help_panel=TROUBLE)(stop)


def versions(config: ConfigFile = None, model: ModelName = None, json: Json = False) -> None:
    """List the versions, newest last.

    [dim]penstock versions --json[/]
    """
    catalog = stored(config, model)
    refs, buckets = catalog.refs(), catalog.schema().buckets
    found = catalog.history(refs)
    manifests = sorted([*found.trunk, *found.bases.values()], key=lambda m: m.version)
    documents = [version_document(manifest, refs, buckets) for manifest in manifests]
    print_json(documents) if json else print_versions(documents)


def history(config: ConfigFile = None, model: ModelName = None, json: Json = False) -> None:
    """List every move of a ref: who, when and why.

    [dim]penstock history[/]
    """
    from ..core.times import format_time

    moves = [
        MoveDocument(
            generation=refs.generation, at=format_time(refs.move.at), who=refs.move.who, what=refs.move.what, why=refs.move.why,
            trunk=refs.trunk, timeline=refs.timeline, refs={name: ref.version for name, ref in refs.refs.items()},
        )
        for refs in stored(config, model).moves()
    ]  # fmt: skip
    if json:
        print_json(moves)
        return
    print_table(
        ["move", "when", "who", "what", "why", "refs"],
        [(m.generation, f"{m.at[:19]}Z", m.who, m.what, m.why, " ".join(f"{n}={v}" for n, v in m.refs.items())) for m in moves],
        spare=("move", "refs"),
    )


def promote(
    version: Number,
    ref: RefName = "live",
    reason: Reason = "",
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Move a ref to a version.

    [dim]penstock promote 12 --ref canary --reason "gate passed"[/]
    """
    from penstock.publishers.promotion import promote as promote_ref

    from ..core.ids import Version

    with existing(config, model) as env:
        _show(promote_ref(env, Version(version), ref=ref, why=reason), ref, json)


def pin(
    version: Number,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="The pin's name.", show_default="version-N")] = None,
    lasts: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="How long it holds, as in 30d; for ever by default.")
    ] = None,
    reason: Reason = "",
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Keep a version, whatever retention says.

    [dim]penstock pin 12 --reason "audit of November" --for 90d[/]
    """
    from ..catalog import leases
    from ..catalog.catalog import Actor
    from ..core.ids import Version
    from ..core.times import WallTime, parse_duration
    from ..environment import current_user
    from ..ports.wall_clock import system_clock

    actor = Actor(who=current_user(), now=system_clock(), why=reason)
    until = None if lasts is None else WallTime(actor.now + parse_duration(lasts))
    found = leases.put_pin(stored(config, model), name or f"version-{version}", Version(version), actor=actor, until=until)
    print_json(found) if json else stdout.print(f"pinned version {found.version} as {found.name}")


def unpin(
    name: Annotated[str, typer.Argument(help="The pin's name, or the number of a version pinned without one.")],
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Let go of a pinned version.

    [dim]penstock unpin 12[/]
    """
    from ..catalog import leases

    found = leases.remove_pin(stored(config, model), f"version-{name}" if name.isdigit() else name)
    print_json(found) if json else stdout.print(f"unpinned version {found.version}")


def freeze(reason: Reason, ref: RefName = "live", config: ConfigFile = None, model: ModelName = None, json: Json = False) -> None:
    """Stop every replica of a ref where the log ends now.

    The first thing to do when something is wrong; a rollback thaws.

    [dim]penstock freeze --reason "AUC falls"[/]
    """
    from penstock.rollback import freezing

    with existing(config, model) as env:
        _show(freezing.freeze(env, ref, why=reason), ref, json)


def thaw(
    ref: RefName = "live", reason: Reason = "", config: ConfigFile = None, model: ModelName = None, json: Json = False
) -> None:
    """Let the replicas of a frozen ref go on.

    [dim]penstock thaw --reason "false alarm"[/]
    """
    from penstock.rollback import freezing

    with existing(config, model) as env:
        _show(freezing.thaw(env, ref, why=reason), ref, json)


def _show(refs: Refs, name: str, json: bool) -> None:
    ref = refs.ref(name)
    frozen = None if ref.frozen is None else [int(offset) for offset in ref.frozen]
    document = RefDocument(ref=name, version=ref.version, follow=ref.follow, frozen=frozen, generation=refs.generation)
    if json:
        print_json(document)
    else:
        stopped = "" if frozen is None else f", frozen at {', '.join(map(str, frozen))}"
        stdout.print(f"{name} = version {ref.version}, follows {'the log' if ref.follow == 'log' else 'versions'}{stopped}")
