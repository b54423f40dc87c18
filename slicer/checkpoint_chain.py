"""The checkpoints of a folder, in the order of their writing: for people, and for schedulers that publish them in turn.

The order is that of the steps in the sidecars, where every checkpoint has one; else that of the names, in which numbers count as
numbers. The time of a file is never asked: a copy, or a restore, changes it. Knows no catalog, and publishes nothing."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import msgspec
from msgspec.structs import replace

from penstock.pipeline.core.errors import PenstockError, Refused
from penstock.pipeline.core.times import format_time

from .proposals import Headers, ProposedTable, propose
from .readers import open_checkpoint
from .readers.files.listing import files_in, folders_in
from .readers.formats import candidates_in, recognised
from .readers.tensorflow.tensorflow_bundle import INDEX_ENDING
from .schema_changes import SchemaChange, changes_between
from .sidecar import find_sidecar, read_sidecar
from .table_names import table_name

INCREMENTS = ".incremental_checkpoint"
"""Where DeepRec keeps what changed since the checkpoints beside that folder."""
MAX_CHECKPOINTS = 10_000
Order = Literal["steps", "names"]


class ChainedCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint of a folder. `name` is its path inside that folder. `step` and `trained_through` are what its sidecar says,
    None without one; `error` says why it cannot be read, and is None otherwise. `changes` are those of the tables against the
    whole checkpoint before it of its format whose name has the same words."""

    name: str
    format: str | None = None
    step: int | None = None
    trained_through: str | None = None
    partial: bool = False
    tensors: int = 0
    nbytes: int = 0
    changes: tuple[SchemaChange, ...] = ()
    error: str | None = None


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """`checkpoints`, oldest first, and what they were ordered by."""

    ordered_by: Order
    checkpoints: tuple[ChainedCheckpoint, ...]


@dataclass(frozen=True, slots=True)
class _Opened:
    path: Path
    entry: ChainedCheckpoint
    tables: tuple[ProposedTable, ...]


def ordered_checkpoints(folder: Path) -> Chain | None:
    """The checkpoints in `folder`; None where there is no such folder, it is a checkpoint itself, or has none.

    Read are headers alone. One that cannot be read is listed with its error. Files without a table or a dense tensor, such as
    ids, are no checkpoints. `Refused`: more than `MAX_CHECKPOINTS` of them."""
    paths = list(islice(_paths(folder), MAX_CHECKPOINTS + 1))
    if len(paths) > MAX_CHECKPOINTS:
        raise Refused(f"{folder}: more than {MAX_CHECKPOINTS} checkpoints", hint="name the one that is meant")
    opened = [found for path in paths if (found := _opened(path, folder)) is not None]
    if not opened:
        return None
    read = [each.entry for each in opened if each.entry.error is None]
    stepped = bool(read) and all(entry.step for entry in read)
    opened.sort(key=lambda each: (_natural(each.path.name), each.entry.name))
    if stepped:
        opened.sort(key=lambda each: each.entry.step or sys.maxsize)
    return Chain(ordered_by="steps" if stepped else "names", checkpoints=tuple(_with_changes(opened)))


def _paths(folder: Path) -> Iterator[Path]:
    """What may be a checkpoint: files, folders that are one, and the increments beside them."""
    folders, indexes = folders_in(folder), [name for name in files_in(folder) if name.endswith(INDEX_ENDING)]
    if not folder.is_dir() or (len(indexes) < 2 and INCREMENTS not in folders and _is_one(folder)):
        return
    yield from _files(folder)
    for name in folders:
        inside = folder / name
        if name == INCREMENTS:
            yield from _files(inside)
        elif name[0] != "." and (_is_one(inside) or any(map(_is_one, candidates_in(inside)))):
            yield inside


def _files(folder: Path) -> Iterator[Path]:
    """A bundle of TensorFlow under its prefix, as its trainer calls it."""
    for file in filter(_is_one, candidates_in(folder)):
        bundle = file.suffix == INDEX_ENDING and find_sidecar(file) is None
        yield file.with_suffix("") if bundle else file


def _is_one(path: Path) -> bool:
    """Whether a path is of a known format, be it broken."""
    try:
        return recognised(path) is not None
    except PenstockError:
        return True


def _opened(path: Path, folder: Path) -> _Opened | None:
    """None for what is no checkpoint after all."""
    entry = ChainedCheckpoint(name=str(path.relative_to(folder)))
    tables: tuple[ProposedTable, ...] = ()
    try:
        if (sidecar := read_sidecar(path)) is not None:
            through = sidecar.through()
            said = None if through is None else format_time(through)
            entry = replace(entry, step=sidecar.step or None, trained_through=said)
        with open_checkpoint(path) as checkpoint:
            infos = checkpoint.tensors
            tables = propose(infos, Headers()).tables
            if not tables and not checkpoint.partial and not any(info.role in ("dense", "embedding") for info in infos):
                return None
            entry = replace(
                entry, format=checkpoint.format, partial=checkpoint.partial, tensors=len(infos),
                nbytes=sum(info.nbytes for info in infos),
            )  # fmt: skip
    except PenstockError as error:
        entry = replace(entry, error=str(error).removeprefix(f"{path}: "))
    return _Opened(path, entry, tuple(_by_its_file(table, path) for table in tables))


def _by_its_file(table: ProposedTable, path: Path) -> ProposedTable:
    """The table of a format that names nothing is called after its file, which in a chain is another each time."""
    return replace(table, name="table") if table.name == table_name(path.stem) else table


def _with_changes(opened: list[_Opened]) -> Iterator[ChainedCheckpoint]:
    """Checkpoints of one kind have one format, and names of the same words."""
    before: dict[tuple[str | None, ...], tuple[ProposedTable, ...]] = {}
    for each in opened:
        entry, kind = each.entry, (each.entry.format, *re.findall(r"[^\W\d_]{2,}", each.path.name))
        if entry.error is not None:
            yield entry
            continue
        yield replace(entry, changes=changes_between(before.get(kind, each.tables), each.tables, partial=entry.partial))
        if not entry.partial:
            before[kind] = each.tables


def _natural(name: str) -> tuple[tuple[str, int], ...]:
    """Texts and the numbers behind them: "step_2.pt" is less than "step_10.pt"."""
    return tuple((text, int(number or -1)) for text, number in re.findall(r"(\D*)(\d*)", name))
