"""docs/cli.md, from the commands themselves: `python -m penstock.pipeline.cli.reference > docs/cli.md`. A test compares."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import typer.main
from rich.text import Text

from penstock.examples.retail.figures import Figures
from penstock.publishers.fanout import PartDocument
from penstock.publishers.verification import Verification
from penstock.rollback.keeping import RetentionPlan
from penstock.rollback.trace import TraceEntry
from penstock.slicer.inspect import Inspection

from ..catalog.log_survey import PartitionSurvey
from ..core.coordination import Pin, Skip
from . import options
from .bench_realtime import RealtimeFigures
from .care import CompactionDocument, ExportDocument
from .log import TailLine
from .main import app
from .moves import MoveDocument, RefDocument
from .output import VersionDocument
from .rollback import RollbackDocument
from .serve import LookupDocument
from .status import StatusDocument

HEAD = """# Commands

Every command that works on a model takes `--config FILE` (by default `$PENSTOCK_CONFIG`, else `./penstock.toml`) and, where the
config has more than one model, `--model NAME`. With `--json` a command prints one JSON document on standard output, and nothing
else there; progress and logs go to standard error. Times are given as RFC 3339 with an offset; in a document a time is such a
text, or a number of microseconds since 1970-01-01T00:00:00Z. Digests are hex.

| exit code | |
|---|---|
| 0 | done |
| 2 | usage or config |
| 3 | refused: the input is bad, or the rules forbid it; nothing was changed |
| 4 | conflict: somebody else committed |
| 5 | not found |
| 6 | a dependency is not reachable |
| 1 | anything else |

A failure is one line on standard error that says what and why, then a hint.
"""
EVERYWHERE = {"--help", "--config", "--model", "--json"}
PRINTS: dict[str, tuple[str, Any]] = {
    "inspect": ("an object", Inspection),
    "publish snapshot": ("an object", VersionDocument),
    "publish snapshot --part": ("an object", PartDocument),
    "publish delta": ("an object", VersionDocument),
    "publish commit": ("an object", VersionDocument),
    "lookup": ("an object", LookupDocument),
    "status": ("an object", StatusDocument),
    "trace": ("a list of objects", TraceEntry),
    "versions": ("a list of objects", VersionDocument),
    "history": ("a list of objects", MoveDocument),
    "promote": ("an object", RefDocument),
    "pin": ("an object", Pin),
    "unpin": ("an object", Pin),
    "freeze": ("an object", RefDocument),
    "thaw": ("an object", RefDocument),
    "rollback": ("an object", RollbackDocument),
    "log inspect": ("a list of objects", PartitionSurvey),
    "log tail": ("one object a line,", TailLine),
    "log skip": ("an object", Skip),
    "verify": ("an object", Verification),
    "export": ("an object, with --format a list of them,", ExportDocument),
    "compact": ("an object", CompactionDocument),
    "retention": ("an object", RetentionPlan),
    "bench realtime": ("an object", RealtimeFigures),
    "demo": ("an object", Figures),
}
"""What `--json` prints."""
PANELS = (options.DELIVERY, options.TROUBLE, options.VERSIONS, options.HOUSEKEEPING, None)


def reference() -> str:
    """The whole page."""
    found = list(_commands(typer.main.get_command(app), "penstock"))
    assert {panel for panel, _ in found} <= set(PANELS)
    parts = [HEAD]
    for panel in PANELS:
        parts.append(f"## {panel or 'Demo'}\n")
        parts += [text for its, text in found if its == panel]
    return "\n".join(parts)


def _commands(group: Any, name: str, panel: str | None = None) -> Iterator[tuple[str | None, str]]:
    """The panel and the text of every command, those of sub-groups included."""
    for short, command in group.commands.items():
        its = command.rich_help_panel if isinstance(command.rich_help_panel, str) else panel
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} {short}", its)
        else:
            yield its, _section(command, f"{name} {short}")


def _section(command: Any, name: str) -> str:
    *said, examples = inspect.cleandoc(command.help).split("\n\n")
    if not examples.startswith("[dim]"):
        said, examples = [*said, examples], ""
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    usage = " ".join([name, *(_usage(argument) for argument in arguments)])
    lines = [f"### {name}\n", *(_plain(paragraph).replace("\n", " ") + "\n" for paragraph in said)]
    lines += ["```sh", _plain(examples) or usage, "```\n"]
    rows = [(f"`{_label(p)}`", _meaning(p)) for p in command.params if not EVERYWHERE & set(p.opts)]
    if rows:
        lines += ["| | |", "|---|---|", *(f"| {label} | {meaning} |" for label, meaning in rows), ""]
    if any("--json" in p.opts for p in command.params):
        what, kind = PRINTS[name.removeprefix("penstock ")]
        lines += [f"`--json` prints {what} with {', '.join(f'`{field}`' for field in kind.__struct_fields__)}.", ""]
    return "\n".join(lines)


def _usage(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return str(name if argument.required else f"[{name}]")


def _label(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return _usage(parameter)
    value = "" if parameter.is_flag else f" {parameter.metavar}"
    return ", ".join(sorted(parameter.opts, key=len, reverse=True)) + value


def _meaning(parameter: Any) -> str:
    shown = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    default = "" if shown in (None, False, "") or parameter.required else f" Default: {shown}."
    return _plain(parameter.help or "").replace("|", "\\|") + default


def _plain(text: str) -> str:
    return Text.from_markup(text).plain.strip()


if __name__ == "__main__":
    sys.stdout.write(reference())
