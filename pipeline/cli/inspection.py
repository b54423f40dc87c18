"""`penstock inspect`: what a checkpoint holds, without its framework."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import DELIVERY, Json
from .output import escaped, print_json, print_table, stderr, stdout


def register(app: typer.Typer) -> None:
    app.command(name="inspect", rich_help_panel=DELIVERY)(inspect)


def inspect(
    path: Annotated[Path, typer.Argument(help="A checkpoint: a file or a folder.")],
    checksums: Annotated[bool, typer.Option("--checksums", help="Also the SHA-256 of every tensor.")] = False,
    json: Json = False,
) -> None:
    """Show the tensors of a checkpoint, and propose its tables.

    No framework is needed, and nothing in the checkpoint is executed.

    [dim]penstock inspect checkpoints/step_100.pt
    penstock inspect model.safetensors --checksums --json[/]
    """
    from penstock.slicer.inspect import inspect_checkpoint, inspect_with_checksums, proposed_tables

    with stderr.status("reading"):
        found = inspect_with_checksums(path) if checksums else inspect_checkpoint(path)
    if json:
        print_json(found)
        return
    stdout.print(f"[bold]{escaped(path)}[/]: {found.format}, {len(found.tensors)} tensors", soft_wrap=True)
    shown = [t for t in found.tensors if t.role != "optimizer"]
    print_table(
        ["tensor", "role", "dtype", "shape", *(["sha256"] if checksums else [])],
        [(t.name, t.role, t.dtype, "×".join(map(str, t.shape)) or "scalar", *([t.sha256] if checksums else [])) for t in shown],
        spare=("dtype", "role"),
    )
    if left := len(found.tensors) - len(shown):
        stdout.print(f"[dim]and {left} of the optimizer, which reaches no replica (--json lists them)[/]")
    if proposed := proposed_tables("NAME", found.tensors):
        stdout.print("\n[bold]proposed config[/]")
        stdout.print(proposed, markup=False, soft_wrap=True, end="")
