"""`versions`, `history`, `promote`, `pin`, `unpin`, `freeze`, `thaw`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from .options import TROUBLE, VERSIONS, ConfigFile, Json, ModelName, Reason, RefName, existing, stored
from .output import print_json, print_table, print_versions, stdout, version_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..catalog.catalog import Catalog
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
    """A move of the refs as commands print it; `refs` as they are after it, `moved` those of them that it changed."""

    generation: int
    at: str
    who: str
    what: str
    why: str
    trunk: int
    timeline: int
    refs: dict[str, int]
    moved: list[str]


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


def history(
    ref: Annotated[str | None, typer.Option("--ref", metavar="REF", help="Only what moved, froze or thawed this ref.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only what was done since then; or in the last 90m, 12h, 7d.")
    ] = None,
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """List every move of a ref: who, when and why.

    And what else was decided: pins, skipped records, what was given up.

    [dim]penstock history --since 24h
    penstock history --ref live --json[/]
    """
    moves = list(_moves(stored(config, model), ref, None if since is None else _moment(since)))
    if json:
        print_json(moves)
        return
    print_table(
        ["move", "when", "who", "what", "why", "refs"],
        [(m.generation, f"{m.at[:19]}Z", m.who, m.what, m.why, " ".join(f"{n}={v}" for n, v in m.refs.items())) for m in moves],
        spare=("move", "refs"),
    )


def _moves(catalog: Catalog, name: str | None, since: int | None) -> Iterator[MoveDocument]:
    from ..core.errors import NotFound
    from ..core.refs import Ref
    from ..core.times import format_time

    before: dict[str, Ref] = {}
    names = set[str]()
    for refs in catalog.moves():
        moved = sorted(ref for ref, found in refs.refs.items() if before.get(ref) != found)
        before, names = refs.refs, names | set(refs.refs)
        if (name is None or name in moved) and (since is None or refs.move.at >= since):
            yield MoveDocument(
                generation=refs.generation, at=format_time(refs.move.at), who=refs.move.who, what=refs.move.what,
                why=refs.move.why, trunk=refs.trunk, timeline=refs.timeline, moved=moved,
                refs={ref: found.version for ref, found in refs.refs.items()},
            )  # fmt: skip
    if name is not None and name not in names:
        raise NotFound(f"there never was a ref {name!r} (refs: {', '.join(sorted(names))})")


def _moment(text: str) -> int:
    """Microseconds: a time, or so long ago."""
    from ..core.times import parse_duration, parse_time
    from ..ports.wall_clock import system_clock

    return system_clock() - parse_duration(text) if text[-1:].isalpha() and "T" not in text else parse_time(text)


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
    catalog = stored(config, model)
    found = leases.put_pin(catalog, name or f"version-{version}", Version(version), actor=actor, until=until)
    catalog.barrier(what=f"pinned version {found.version} as {found.name}", actor=actor)
    print_json(found) if json else stdout.print(f"pinned version {found.version} as {found.name}")


def unpin(
    name: Annotated[str, typer.Argument(help="The pin's name, or the number of a version pinned without one.")],
    reason: Reason = "",
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Let go of a pinned version.

    [dim]penstock unpin 12[/]
    """
    from ..catalog import leases
    from ..catalog.catalog import Actor
    from ..environment import current_user
    from ..ports.wall_clock import system_clock

    catalog = stored(config, model)
    found = leases.remove_pin(catalog, f"version-{name}" if name.isdigit() else name)
    what = f"unpinned version {found.version}, which was {found.name}"
    catalog.barrier(what=what, actor=Actor(who=current_user(), now=system_clock(), why=reason))
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
