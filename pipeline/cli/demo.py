"""`penstock demo`: the whole story on real data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Json
from .output import print_json, stdout


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    output: Annotated[Path, typer.Option("--output", metavar="FOLDER", help="Where the report goes.")] = Path("demo-report"),
    store: Annotated[str | None, typer.Option("--store", metavar="URL", help="s3://bucket/prefix; a folder by default.")] = None,
    log: Annotated[str | None, typer.Option("--log", metavar="URL", help="kafka://host:port; files by default.")] = None,
    endpoint: Annotated[str | None, typer.Option("--endpoint", metavar="URL", help="Of an S3 server of your own.")] = None,
    short: Annotated[
        bool, typer.Option("--short", help="A shorter stretch of the stream, to see that everything works.")
    ] = False,
    json: Json = False,
) -> None:
    """Train on half a year of real purchases, deliver in three tiers, poison, roll back, prove it.

    [dim]penstock demo
    penstock demo --store s3://bucket/demo --endpoint http://127.0.0.1:7070 --log kafka://127.0.0.1:9092[/]
    """
    # Only here: the example needs matplotlib, which no other command does.
    from penstock.examples.retail.demo import run_demo
    from penstock.examples.retail.figures import figures_table
    from penstock.examples.retail.story import FULL, SHORT

    script = SHORT if short else FULL
    figures = run_demo(output=output, store=store, log=log, endpoint=endpoint, script=script)
    if json:
        print_json(figures)
        return
    stdout.print(figures_table(figures))
    stdout.print(f"\nreport: {figures.page}\n        {figures.picture}", soft_wrap=True)
