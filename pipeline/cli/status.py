"""`penstock status`: tiers, refs, lag and freshness, replicas and whether they agree, alarms; once, or again and again."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import InvalidInput, Unreachable
from .options import TROUBLE, ConfigFile, Json, ModelName, existing
from .output import fitting_table, human_bytes, human_seconds, print_json, printable, stdout
from .overview import PartitionDocument, ReplicaDocument, StatusDocument, digests_agree, gathered

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from ..environment import Environment

__all__ = ["PartitionDocument", "ReplicaDocument", "StatusDocument", "digests_agree", "gathered"]

SPARKS = "▁▂▃▄▅▆▇█"
KEPT = 20
"""How many of the newest lags are drawn."""
SKIPS = 4
"""How many of the skipped records are named."""
Lags = Mapping[str, Sequence[float]]


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=TROUBLE)(status)


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", min=0.1, help="How often, with --watch.")] = 1.0,
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Show tiers, refs, lag, freshness, replicas, alarms.

    And whether the digests of the replicas agree. Alarms are named as in docs/runbook.md.

    [dim]penstock status --watch[/]
    """
    if watch and json:
        raise InvalidInput("--watch is for people; poll `penstock status --json` instead")
    with existing(config, model) as env:
        if json:
            print_json(gathered(env))
        elif not watch:
            stdout.print(rendered(gathered(env), {}))
        else:
            _watch(env, every)


def _watch(env: Environment, every: float) -> None:
    """In one place of a terminal, else one below the other; until interrupted. What cannot be reached is waited for."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from .log_watch import LogWatch

    lags: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=KEPT))
    log = LogWatch(env.log)
    shown: RenderableType = Text("")
    try:
        with Live(console=stdout, auto_refresh=False) if stdout.is_terminal else nullcontext() as live:
            while True:
                try:
                    found = gathered(env, log)
                    for replica in found.replicas:
                        lags[replica.replica].append(_lag_ms(replica))
                    view = shown = rendered(found, lags)
                except Unreachable as error:
                    view = Group(Text(f"! {printable(str(error))}", "bold red"), shown)
                if live is None:
                    stdout.print(view, Text(""))
                else:
                    live.update(view, refresh=True)
                time.sleep(every)
    except KeyboardInterrupt:
        return


def rendered(found: StatusDocument, lags: Lags, width: int | None = None) -> RenderableType:
    """The status for people, `width` columns wide; with the course of the lags, where there are any. What is wrong comes first: a
    low terminal cuts off the end."""
    from rich.console import Group
    from rich.text import Text

    width = width or stdout.width
    agreement = {
        None: Text(""), True: Text("digests agree", "green"), False: Text("digests DIFFER", "bold red"),
    }[found.digests_agree]  # fmt: skip
    learned = f"learned up to {found.trained_through}  "
    head = Text.assemble((found.model, "bold"), f"  version {found.version}, timeline {found.timeline}, {learned}", agreement)
    parts: list[RenderableType] = [head, *(Text(f"! {printable(alarm)}", "bold red") for alarm in found.alarms)]
    if found.alerts:
        parts.append(Text(f"docs/runbook.md: {', '.join(found.alerts)}", "dim"))
    parts += [_lag(found, lags), _refs(found), Text(""), _tiers(found, width), Text("")]
    parts += [_replicas(found, lags, width) if found.replicas else Text("no replica is present", "dim")]
    if found.skips:
        places = ", ".join(f"partition {s.partition} offset {s.offset} ({s.why})" for s in found.skips[-SKIPS:])
        parts += [Text(printable(f"skipped since they cannot be read, {len(found.skips)} in all: {places}"), "yellow")]
    if found.rows_owed:
        parts += [Text(f"{found.rows_owed:,} rows are not in the log, and come with the next delta", "yellow")]
    return Group(*parts, Text(""), _versions(found, width))


def _lag(found: StatusDocument, lags: Lags) -> Text:
    """The worst lag and freshness of all replicas, and how the lag went."""
    from rich.text import Text

    worst = max((_lag_ms(replica) for replica in found.replicas), default=None)
    course = [max(values) for values in zip(*(list(each)[::-1] for each in lags.values()), strict=False)][::-1]
    shown = "–" if worst is None else _milliseconds(worst)
    return Text.assemble("lag ", (shown, "bold"), f" {sparkline(course)}  freshness ", (human_seconds(found.freshness_s), "bold"))


def _refs(found: StatusDocument) -> Text:
    from rich.text import Text

    texts = [f"{n} → {r.version}{'' if r.follow == 'log' else ' (versions)'}" for n, r in found.refs.items()]
    frozen = [(" FROZEN", "bold red") if ref.frozen is not None else "" for ref in found.refs.values()]
    return Text("  ").join(Text.assemble(text, ice) for text, ice in zip(texts, frozen, strict=True))


def _tiers(found: StatusDocument, width: int) -> Table:
    """The newest of each tier, as far as it is among the versions told; for the log, what it holds."""
    rows: list[tuple[str, ...]] = []
    for tier, kinds in (("snapshot", ("snapshot", "compaction")), ("delta", ("delta",)), ("rollback", ("rollback",))):
        newest = next((v for v in reversed(found.versions) if v.kind in kinds), None)
        if newest is not None:
            rows.append(
                (tier, f"version {newest.version}", newest.created_at[:19] + "Z", f"{newest.rows:,}", human_bytes(newest.bytes))
            )
    held, silence = sum(each.end - each.begin for each in found.log), [each.silence_s for each in found.log]
    heard = max((each for each in silence if each is not None), default=None)
    rows.append(("realtime", f"{held:,} records held", f"{human_seconds(heard)} ago", "", ""))
    return fitting_table(["tier", "newest", "when", "rows", "size"], rows, spare=("size", "rows", "when"), width=width)


def _versions(found: StatusDocument, width: int) -> Table:
    return fitting_table(
        ["version", "refs", "kind", "state", "rows", "size", "learned up to"],
        [
            (d.version, " ".join(d.refs), d.kind, d.state, f"{d.rows:,}", human_bytes(d.bytes), d.trained_through)
            for d in found.versions
        ],
        spare=("size", "state", "rows", "refs"),
        width=width,
    )


def _replicas(found: StatusDocument, lags: Lags, width: int) -> Table:
    course = ["lag so far"] if lags else []
    return fitting_table(
        ["replica", "ref", "ready", "version", "behind", "lag", "freshness", "rows", "memory", "digest", *course],
        [(*_row(replica), *(sparkline(lags[replica.replica]) for _ in course)) for replica in found.replicas],
        spare=("ref", "memory", "behind", "rows", "freshness", "digest", "version", *course),
        width=width,
    )


def _row(replica: ReplicaDocument) -> tuple[str, ...]:
    fresh = max((p.freshness_s for p in replica.partitions if p.freshness_s is not None), default=None)
    return (
        replica.replica, replica.ref, "yes" if replica.ready else "NO", str(replica.version), str(replica.versions_behind),
        _milliseconds(_lag_ms(replica)), human_seconds(fresh), f"{sum(replica.rows.values()):,}", human_bytes(replica.bytes),
        (replica.digest or "")[:12],
    )  # fmt: skip


def _lag_ms(replica: ReplicaDocument) -> float:
    return max((p.lag_ms or 0.0 for p in replica.partitions), default=0.0)


def _milliseconds(lag_ms: float) -> str:
    return f"{lag_ms:.1f} ms" if lag_ms < 10_000 else human_seconds(lag_ms / 1000)


def sparkline(values: Sequence[float]) -> str:
    """The last values as bars; the highest is full."""
    top = max(values, default=0.0)
    return "".join(
        SPARKS[min(len(SPARKS) - 1, int(value / top * (len(SPARKS) - 1)))] if top > 0 else SPARKS[0] for value in values
    )
