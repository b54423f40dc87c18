"""What dynamicemb (NVIDIA's dynamic tables for TorchRec) dumps: raw files of each table and rank, in a folder for each module.

    <table>_emb_keys.rank_<r>.world_size_<w>     int64, one a row
    <table>_emb_values.rank_<r>.world_size_<w>   float32, row after row
    <table>_emb_scores.rank_<r>.world_size_<w>   uint64, one a row: what a full table evicts by; not for every strategy
    <table>_opt_values.rank_<r>.world_size_<w>   float32, the optimizer's state, row after row; where it was asked for.
                                                 Newer ones write `<table>_emb_opt_values`
    <table>_opt_args.json                        not read

(`dump_load.py` and `batched_dynamicemb_tables.py` of NVIDIA/recsys-examples.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from penstock.pipeline.core.errors import Corrupt

from ..checkpoint import TensorSource
from ..files.listing import files_in, folders_in
from ..files.mapped_file import MappedFile
from ..stored_checkpoint import StoredCheckpoint
from .raw_tables import KEYS, ROWS, RawColumn, check_file_count, numbered, raw_table

_NAME = re.compile(
    r"(?P<table>.+)_(?P<column>emb_keys|emb_values|emb_scores|opt_values)\.rank_(?P<rank>\d{1,9})\.world_size_(?P<ranks>\d{1,9})"
)
_COLUMNS = {
    "emb_keys": KEYS,
    "emb_values": ROWS,
    "emb_scores": RawColumn(name="scores", dtype="uint64", role="other", dimensions=1),
    "opt_values": RawColumn(name="optimizer", dtype="float32", role="optimizer"),
}
_NEEDED = ("emb_keys", "emb_values")

Found = dict[str, dict[str, dict[int, dict[int, str]]]]
"""table -> column -> ranks -> rank -> file name"""


def is_dynamicemb(path: Path, head: bytes) -> bool:
    return any(_has_keys(path / name) for name in ("", *folders_in(path)))


def open_dynamicemb(path: Path) -> StoredCheckpoint:
    """A module's folder, or the folder of a dump with one for each module; then tables are called `<module>/<table>`."""
    sources, files = dynamicemb_sources(path)
    return StoredCheckpoint("dynamicemb", sources, files)


def dynamicemb_sources(path: Path) -> tuple[list[TensorSource], list[MappedFile]]:
    """The tables below `path`, none where there are none, and the files that they are read from, the caller's to close.
    `Corrupt` names the part or the size that is missing or wrong."""
    files: list[MappedFile] = []
    sources: list[TensorSource] = []
    try:
        for module in ("", *folders_in(path)):
            found = _found(files_in(path / module))
            for table in sorted(found):
                name = f"{module}/{table}" if module else table
                sources += _table(path / module, name, found[table], files)
    except BaseException:
        for file in files:
            file.close()
        raise
    return sources, files


def _has_keys(folder: Path) -> bool:
    return any((match := _NAME.fullmatch(name)) and match["column"] == "emb_keys" for name in files_in(folder))


def _found(names: Iterable[str]) -> Found:
    matches = [match for name in names if (match := _NAME.fullmatch(name))]
    tables = {match["table"] for match in matches if match["column"] == "emb_keys"}
    found: Found = {}
    for match in matches:
        table = match["table"]
        if match["column"] == "opt_values" and table not in tables:
            table = table.removesuffix("_emb")
        ranks = found.setdefault(table, {}).setdefault(match["column"], {}).setdefault(int(match["ranks"]), {})
        ranks[int(match["rank"])] = match.string
    return found


def _table(folder: Path, name: str, found: dict[str, dict[int, dict[int, str]]], files: list[MappedFile]) -> list[TensorSource]:
    what = f"{folder}: table {name}"
    sizes = sorted({size for ranks in found.values() for size in ranks})
    if len(sizes) > 1:
        raise Corrupt(f"{what}: files of runs of {sizes[0]} and of {sizes[1]} ranks are mixed")
    for column in _NEEDED:
        if column not in found:
            raise Corrupt(f"{what}: it has no {column} file")
    names = [(column, each) for column, each in _COLUMNS.items() if column in found]
    by_column = [numbered(found[column][sizes[0]], 0, sizes[0], f"{what}, {column}") for column, _ in names]
    check_file_count(len(files) + len(names) * sizes[0], folder)
    parts: list[list[MappedFile]] = []
    for rank in zip(*by_column, strict=True):
        parts.append([])
        for each in rank:
            files.append(MappedFile(folder / each))
            parts[-1].append(files[-1])
    return raw_table(name, [column for _, column in names], parts)
