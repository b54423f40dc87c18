"""`penstock inspect`: what a checkpoint holds, without its framework, and what would become of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import DELIVERY, Json
from .output import escaped, human_bytes, print_json, print_table, stderr, stdout

if TYPE_CHECKING:
    from penstock.slicer.checkpoint_chain import Chain, ChainedCheckpoint
    from penstock.slicer.inspect import Inspection

FEW_TABLES = 20


def register(app: typer.Typer) -> None:
    app.command(name="inspect", rich_help_panel=DELIVERY)(inspect)


def inspect(
    path: Annotated[Path, typer.Argument(help="A checkpoint: a file or a folder; or a folder of checkpoints.")],
    checksums: Annotated[bool, typer.Option("--checksums", help="Also the SHA-256 of every tensor.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="A line for every tensor, repeated ones included.")] = False,
    json: Json = False,
) -> None:
    """Show the tensors of a checkpoint, what would be sliced how, and propose its tables.

    Of a folder that holds several checkpoints, list them in order, with what changed in their tables; with --json as an object
    with `ordered_by` and `checkpoints`. No framework is needed, and nothing in a checkpoint is executed.

    [dim]penstock inspect checkpoints/step_100.pt
    penstock inspect checkpoints
    penstock inspect model.safetensors --checksums --json[/]
    """
    from penstock.slicer.checkpoint_chain import ordered_checkpoints

    with stderr.status("reading"):
        chain = ordered_checkpoints(path)
    if chain is not None and len(chain.checkpoints) > 1:
        if json:
            print_json(chain)
        else:
            _print_chain(chain, path)
        return
    one = path if chain is None else path / chain.checkpoints[0].name
    found = _inspected(one, checksums)
    if json:
        print_json(found)
    else:
        _print_checkpoint(found, one, every=everything or checksums, checksums=checksums)


def _inspected(path: Path, checksums: bool) -> Inspection:
    from penstock.slicer.inspect import inspect_checkpoint, inspect_with_checksums

    with stderr.status("reading"):
        found = inspect_checkpoint(path)
    if not checksums:
        return found
    with _counted(sum(tensor.nbytes for tensor in found.tensors)) as count:
        return inspect_with_checksums(path, count)


@contextmanager
def _counted(total: int) -> Iterator[Callable[[int], object]]:
    """What counts the bytes that were read: a bar, where somebody watches."""
    if not stderr.is_terminal:
        yield lambda nbytes: None
        return
    from rich import progress as bars

    columns = (bars.TextColumn("reading"), bars.BarColumn(), bars.DownloadColumn(), bars.TransferSpeedColumn())
    with bars.Progress(*columns, bars.TimeRemainingColumn(), console=stderr, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda nbytes: bar.advance(task, nbytes)


def _print_checkpoint(found: Inspection, path: Path, *, every: bool, checksums: bool) -> None:
    from penstock.slicer.proposed_config import toml_of

    from .tensor_lines import counted, tensor_lines, totals

    only = ", only the rows that changed" if found.partial else ""
    stdout.print(f"[bold]{escaped(path)}[/]: {found.format}, {counted(len(found.tensors), 'tensor')}{only}", soft_wrap=True)
    if (said := _said_by_sidecar(path)) is not None:
        stdout.print(escaped(f"its sidecar{said}"), soft_wrap=True)
    lines = tensor_lines(found.tensors, every=every)
    print_table(
        ["tensor", "role", "dtype", "shape", "rows", "dim", "size", "sliced as", *(["sha256"] if checksums else [])],
        [
            (line.name, line.role, line.dtype, line.shape, line.rows, line.dim, human_bytes(line.nbytes), line.sliced_as,
             *([line.sha256] if checksums else []))
            for line in lines
        ],
        spare=("rows", "dim", "dtype", "role", "size"),
    )  # fmt: skip
    stdout.print(totals(found), soft_wrap=True)
    if len(lines) < len(found.tensors):
        stdout.print("[dim]--all gives every tensor a line[/]")
    if found.tables:
        shown = found.tables if every else found.tables[:FEW_TABLES]
        stdout.print("\n[bold]proposed config[/]")
        if found.partial:
            stdout.print('# of changes alone: where whole checkpoints have other tensors, say delta = { keys = "…", rows = "…" }')
        stdout.print(toml_of("NAME", shown), markup=False, soft_wrap=True, end="")
        if len(shown) < len(found.tables):
            stdout.print(f"# and {len(found.tables) - len(shown)} more, which --all shows")
    else:
        stdout.print("[dim]no tensor looks like an embedding: say in the config which are tables[/]")


def _said_by_sidecar(path: Path) -> str | None:
    from penstock.slicer.sidecar import read_sidecar

    from ..core.errors import PenstockError

    try:
        sidecar = read_sidecar(path)
    except PenstockError as error:
        return f" cannot be read: {error}"
    if sidecar is None:
        return None
    said = {"step": sidecar.step or None, "state": sidecar.state or None, "trained through": sidecar.trained_through}
    return f": {', '.join(f'{what} {value}' for what, value in said.items() if value is not None) or 'says nothing'}"


def _print_chain(chain: Chain, path: Path) -> None:
    by = {
        "steps": "by the steps in their sidecars",
        "names": "by their names, numbers as numbers: not all have a sidecar with a step",
    }
    stdout.print(
        f"[bold]{escaped(path)}[/]: {len(chain.checkpoints)} checkpoints, ordered {by[chain.ordered_by]}", soft_wrap=True
    )
    known = [column for column, values in (
        ("step", [each.step for each in chain.checkpoints]),
        ("trained through", [each.trained_through for each in chain.checkpoints]),
    ) if any(values)]  # fmt: skip
    rows = [
        {
            "checkpoint": each.name, "format": each.format, "step": each.step, "trained through": each.trained_through,
            "tensors": each.tensors or None, "size": human_bytes(each.nbytes) if each.error is None else None,
            "tables": _said_of(each),
        }
        for each in chain.checkpoints
    ]  # fmt: skip
    columns = ["checkpoint", "format", *known, "tensors", "size", "tables"]
    print_table(columns, [[row[column] for column in columns] for row in rows], spare=("tensors", "size", "format"))
    newest = next((each.name for each in reversed(chain.checkpoints) if each.error is None), None)
    if newest is not None:
        stdout.print(f"[dim]penstock inspect {escaped(path / newest)} shows its tensors, and proposes tables[/]", soft_wrap=True)


def _said_of(each: ChainedCheckpoint) -> str:
    if each.error is not None:
        return f"cannot be read: {each.error}"
    return ", ".join([*(["only what changed"] if each.partial else []), *map(str, each.changes)])
