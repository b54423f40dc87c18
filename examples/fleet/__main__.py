"""`python -m penstock.examples.fleet`: plays the story, and prints what came out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec
from rich.console import Console

from penstock.pipeline.core.errors import PenstockError

from .acts import FULL, SHORT
from .figures import figures_table
from .story import run_fleet

WIDE = 200
"""Columns of a page that is no terminal."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m penstock.examples.fleet", description="A fleet in minutes: three tiers, poison, rollback."
    )
    parser.add_argument("--output", type=Path, default=Path("fleet-report"), metavar="FOLDER", help="where the report goes")
    parser.add_argument("--short", action="store_true", help="a shorter stretch, to see that everything works")
    parser.add_argument("--json", action="store_true", help="print the figures as one document")
    given = parser.parse_args()
    try:
        found = run_fleet(output=given.output, script=SHORT if given.short else FULL)
    except PenstockError as error:
        sys.exit(f"error: {error}{f' ({error.hint})' if error.hint else ''}")
    if given.json:
        print(msgspec.json.encode(found).decode())
        return
    out = Console(highlight=False)
    if not out.is_terminal:
        out.width = WIDE
    out.print(figures_table(found))
    out.print(f"\nreport: {given.output / 'report.json'}\n        {found.picture}", soft_wrap=True)


if __name__ == "__main__":
    main()
