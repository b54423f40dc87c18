"""The command line: `penstock COMMAND`. Exit codes are those of the errors; a failure is one line and a hint, no traceback."""

from __future__ import annotations

import os
import sys

import typer
from rich.markup import escape
from typer.exceptions import Abort, Exit, TyperException

from ..core.errors import PenstockError, StorageFull
from . import care, demo, inspection, moves, publish, rollback, serve, status
from .output import stderr

app = typer.Typer(
    name="penstock",
    help="Continuous delivery of recommendation models: snapshots, deltas, realtime updates, rollback.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)
for module in (publish, moves, rollback, serve, status, care, inspection, demo):
    module.register(app)


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs one command; returns its exit code."""
    try:
        found = app(arguments, standalone_mode=False)
    except PenstockError as error:
        return failed(error, error.hint, error.exit_code)
    except Exit as stopped:
        return int(stopped.exit_code)
    except TyperException as error:
        return failed(error.format_message(), "--help shows what a command takes", 2)
    except (Abort, KeyboardInterrupt):
        return failed("interrupted", "", 130)
    except BrokenPipeError:
        return 0
    except OSError as error:
        kind = StorageFull.exit_code if error.errno in (28, 122) else 1
        return failed(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), "", kind)
    except Exception as error:  # noqa: BLE001  the last resort of a command line: say what it is, keep the traceback for those who ask
        if os.environ.get("PENSTOCK_TRACEBACK"):
            raise
        return failed(f"{type(error).__name__}: {error}", "this is a bug; PENSTOCK_TRACEBACK=1 shows where", 1)
    return found if isinstance(found, int) else 0


def failed(message: object, hint: str, code: int) -> int:
    stderr.print(f"[bold red]error:[/] {escape(str(message))}", markup=True, soft_wrap=True)
    if hint:
        stderr.print(f"[dim]hint:[/] {hint}", soft_wrap=True)
    return code
