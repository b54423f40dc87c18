"""The command line: `penstock COMMAND`. Exit codes are those of the errors; a failure is one line and a hint, no traceback."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer
from typer.exceptions import Abort, Exit, TyperException

from ..core.errors import InvalidInput, PenstockError, StorageFull
from . import bench, care, demo, exporter, inspection, log, moves, publish, rollback, serve, status
from .output import escaped, stderr, stdout

FULL = (errno.ENOSPC, errno.EDQUOT)
app = typer.Typer(
    name="penstock",
    help="Continuous delivery of recommendation models: snapshots, deltas, realtime updates, rollback.",
    epilog="Exit codes: 0 done, 2 usage or config, 3 refused, 4 conflict, 5 not found, 6 a dependency is not reachable, 1 else.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (inspection, publish, serve, status, exporter, moves, rollback, log, care, bench, demo):
    module.register(app)


def show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        stdout.print(f"penstock {version('penstock')}")
        raise Exit


@app.callback()
def penstock(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Continuous delivery of recommendation models: snapshots, deltas, realtime updates, rollback."""


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs one command; returns its exit code. A reader of its output that has enough ends it with 1, without a word."""
    try:
        found = app(arguments, prog_name="penstock", standalone_mode=False)
    except PenstockError as error:
        return failed(error, error.hint, error.exit_code)
    except Exit as stopped:
        return int(stopped.exit_code)
    except TyperException as error:
        if not error.format_message():  # a group without a command has shown its help
            return InvalidInput.exit_code
        return failed(error.format_message(), "--help shows what a command takes", InvalidInput.exit_code)
    except Abort:
        return failed("not confirmed; nothing was changed", "--yes does not ask", PenstockError.exit_code)
    except OSError as error:
        code = StorageFull.exit_code if error.errno in FULL else 1
        return failed(": ".join(str(part) for part in (error.strerror or error, error.filename) if part), "", code)
    except Exception as error:
        if os.environ.get("PENSTOCK_TRACEBACK"):
            raise
        return failed(f"{type(error).__name__}: {error}", "this is a bug; PENSTOCK_TRACEBACK=1 shows where", 1)
    return found if isinstance(found, int) else 0


def failed(message: object, hint: str, code: int) -> int:
    """One line that says what and why, then a hint."""
    stderr.print(f"[bold red]error:[/] {escaped(' '.join(str(message).split()))}", soft_wrap=True)
    if hint:
        stderr.print(f"[dim]hint:[/] {escaped(hint)}", soft_wrap=True)
    return code
