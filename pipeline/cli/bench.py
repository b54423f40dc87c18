"""`penstock bench realtime`: how fast the realtime tier is on the reader's own log and store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .options import HOUSEKEEPING, ConfigFile, Json, read_config
from .output import escaped, print_json, print_table, stderr, stdout

if TYPE_CHECKING:
    from .bench_probes import Latency
    from .bench_realtime import RealtimeFigures

LOOKUP_KEYS = 150_000
BUCKETS = 256
DEFAULT_ROWS, DEFAULT_RATE, DEFAULT_DIM, DEFAULT_BATCH = 1_000_000, 50_000, 32, 250

commands = typer.Typer(no_args_is_help=True, help="Measure Penstock on your own log and store.")


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="bench", rich_help_panel=HOUSEKEEPING)


@commands.callback()
def bench() -> None:
    """Measure Penstock on your own log and store."""


@commands.command()
def realtime(
    rate: Annotated[int, typer.Option("--rate", metavar="N", min=1, help="Rows a second.")] = DEFAULT_RATE,
    dim: Annotated[int, typer.Option("--dim", metavar="D", min=1, help="Floats a row.")] = DEFAULT_DIM,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Rows a put.")] = DEFAULT_BATCH,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", min=0.1, help="How long to measure.")] = 60.0,
    warmup: Annotated[float, typer.Option("--warmup", metavar="S", min=0.0, help="How long to wait before.")] = 5.0,
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=1, help="Rows in the table.")] = DEFAULT_ROWS,
    lookups: Annotated[
        bool, typer.Option("--lookups", help=f"The replica answers lookups of {LOOKUP_KEYS:,} keys meanwhile, back to back.")
    ] = False,
    burst: Annotated[
        int, typer.Option("--burst", metavar="N", min=0, help="Then put N rows as fast as they are taken, and read them again.")
    ] = 0,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The model that is made, and taken away again.", show_default="a new one"),
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Measure how soon a row that is put can be read in a replica, on the log and the store of the config.

    Makes a model of its own, with a trainer here and a replica in another process of this machine, and takes it away again; a
    topic penstock-NAME that is there already is used, and stays. On Kafka a plain client of the same broker is measured before
    and after, with the same messages, so that the difference is what Penstock costs.

    [dim]penstock bench realtime --seconds 20
    penstock bench realtime --lookups --burst 8000000 --json[/]
    """
    import uuid

    from ..core.ids import checked_name
    from .bench_pacing import Plan
    from .bench_probes import Load
    from .bench_realtime import measure

    found = read_config(config)
    load = Load(
        rate=rate, dim=dim, batch=batch, rows=rows, buckets=max(BUCKETS, found.log.partitions), partitions=found.log.partitions
    )
    plan = Plan(load=load, seconds=seconds, warmup_s=warmup, lookup_keys=LOOKUP_KEYS if lookups else 0, burst_rows=burst)
    model = checked_name(name or f"bench-{uuid.uuid4().hex[:12]}", "model")
    figures = measure(found, model, plan, lambda doing: None if json else stderr.print(f"[dim]{escaped(doing)} …[/]"))
    if json:
        print_json(figures)
    else:
        _show(figures)


def _show(figures: RealtimeFigures) -> None:
    stdout.print(
        f"{figures.rows_per_s:,.0f} rows/s of {figures.dim} floats, {figures.batch} a put, {figures.partitions} partitions, "
        f"{figures.seconds:g} s: {escaped(figures.log)}\n"
    )
    lines = [_line("put → readable in another process", figures.readable)]
    if figures.raw is not None:
        ratios = [f"{ratio:.2f} ×" for ratio in figures.ratio.values()]
        lines += [_line("a plain client, send → received", figures.raw), ("ratio", *ratios, "", "")]
    if figures.lookups is not None:
        lines.append(_line(f"lookup of {figures.lookup_keys:,} keys meanwhile", figures.lookups))
    print_table(["milliseconds", "p50", "p90", "p99", "p99.9", "max", "samples"], lines)
    if figures.lost:
        stdout.print(f"[bold red]{figures.lost:,} were never found in the replica[/]")
    if (burst := figures.burst) is not None:
        stdout.print(
            f"\n{burst.rows:,} rows as fast as they are taken, {burst.batch:,} a put: {burst.put_us:.2f} µs a row of the "
            f"trainer's time; {burst.published_rows_per_s:,.0f} rows/s acknowledged, {burst.rows_shed:,} rows shed; "
            f"{burst.caught_up_rows_per_s:,.0f} rows/s taken in by a replica that catches up, and of those put before "
            f"{burst.caught_up_small_rows_per_s:,.0f} rows/s"
        )


def _line(what: str, found: Latency) -> tuple[str, ...]:
    shown = (f"{value:.2f}" for value in (found.p50, found.p90, found.p99, found.p999, found.max))
    return (what, *shown, f"{found.count:,}")
