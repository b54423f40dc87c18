"""What TensorFlow Recommenders-Addons saves beside a checkpoint (`FileSystemSaver`): raw files of each dynamic embedding.

    TFRADynamicEmbedding/<table>_mht_<i>of<n>_rank<r>_size<s>-keys     int64, one a row; keys are signed hashes
    TFRADynamicEmbedding/<table>_mht_<i>of<n>_rank<r>_size<s>-values   float32, row after row
    TFRADynamicEmbedding/<table>_mht_<i>of<n>_rank<r>_size<s>-scores   uint64, one a row (HierarchicalKV; older: -metas)

Rank r of s has n devices, of which this is the i-th (from 1); older versions write no rank. Every file is renamed into place by
itself: a save that was interrupted leaves keys and values of different saves, which only their sizes can tell. Slots of an
optimizer are tables of their own, called `<table>_<optimizer>_<slot>`. (`dynamic_embedding_variable.py`, `lookup_table_op_*.h`.)
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from penstock.pipeline.core.errors import Corrupt

from ..checkpoint import Role, TensorSource
from ..files.listing import files_in
from ..files.mapped_file import MappedFile
from ..roles import role_of
from ..stored_checkpoint import StoredCheckpoint
from .raw_tables import KEYS, ROWS, RawColumn, check_file_count, numbered, raw_table

_FOLDERS = ("", "TFRADynamicEmbedding", "variables/TFRADynamicEmbedding")
_NAME = re.compile(
    r"(?P<table>.+)_mht_(?P<part>\d{1,9})of(?P<parts>\d{1,9})(_rank(?P<rank>\d{1,9})_size(?P<ranks>\d{1,9}))?"
    r"-(?P<column>keys|values|scores|metas)"
)
_SCORES = RawColumn(name="scores", dtype="uint64", role="other", dimensions=1)
_COLUMNS = {"keys": KEYS, "values": ROWS, "scores": _SCORES, "metas": _SCORES}

Found = dict[str, dict[int, dict[int, dict[int, dict[int, dict[str, str]]]]]]
"""table -> ranks -> rank -> parts -> part -> column -> file name"""


def is_tfra(path: Path, head: bytes) -> bool:
    """A folder of such files, or a model's folder that has one."""
    return bool(_folder(path))


def open_tfra(path: Path) -> StoredCheckpoint:
    sources, files = tfra_sources(path)
    return StoredCheckpoint("tfra", sources, files)


def tfra_sources(path: Path) -> tuple[list[TensorSource], list[MappedFile]]:
    """The tables in or below `path`, none where there are none, and the files that they are read from, the caller's to close.
    `Corrupt` names the partition that is missing or the file whose size does not fit."""
    folder = _folder(path)
    files: list[MappedFile] = []
    sources: list[TensorSource] = []
    if folder is None:
        return sources, files
    try:
        found = _found(folder)
        for table in sorted(found):
            sources += _table(folder, table, found, files)
    except BaseException:
        for file in files:
            file.close()
        raise
    return sources, files


def _folder(path: Path) -> Path | None:
    for name in _FOLDERS:
        if any((match := _NAME.fullmatch(each)) and match["column"] == "keys" for each in files_in(path / name)):
            return path / name
    return None


def _found(folder: Path) -> Found:
    found: Found = {}
    for name in files_in(folder):
        match = _NAME.fullmatch(name)
        if match:
            ranks = found.setdefault(match["table"], {}).setdefault(int(match["ranks"] or 1), {})
            parts = ranks.setdefault(int(match["rank"] or 0), {}).setdefault(int(match["parts"]), {})
            parts.setdefault(int(match["part"]), {})[match["column"]] = name
    return found


def _table(folder: Path, table: str, tables: Found, files: list[MappedFile]) -> list[TensorSource]:
    what, found = f"{folder}: table {table}", tables[table]
    if len(found) > 1:
        few, many = sorted(found)[:2]
        raise Corrupt(f"{what}: files of runs of {few} and of {many} ranks are mixed")
    ((size, ranks),) = found.items()
    each_part: list[dict[str, str]] = []
    for rank, counts in enumerate(numbered(ranks, 0, size, f"{what}, ranks")):
        if len(counts) > 1:
            few, many = sorted(counts)[:2]
            raise Corrupt(f"{what}, rank {rank}: files of {few} and of {many} partitions are mixed")
        ((count, parts),) = counts.items()
        each_part += numbered(parts, 1, count, f"{what}, rank {rank}, partitions")
    columns = [column for column in _COLUMNS if any(column in part for part in each_part)]
    for column in ("keys", "values", *columns):
        for part in each_part:
            if column not in part:
                raise Corrupt(f"{folder}: beside {next(iter(part.values()))} there is no -{column} file")
    check_file_count(len(files) + len(columns) * len(each_part), folder)
    opened: list[list[MappedFile]] = []
    for part in each_part:
        opened.append([])
        for column in columns:
            files.append(MappedFile(folder / part[column]))
            opened[-1].append(files[-1])
    role = _role(table, tables)
    return raw_table(table, [_of_role(_COLUMNS[column], role) for column in columns], opened)


def _role(table: str, tables: Found) -> Role:
    """A slot is called after its table and its optimizer."""
    slot = role_of(table, (), "float32") == "optimizer" and any(table.startswith(f"{other}_") for other in tables)
    return "optimizer" if slot else "embedding"


def _of_role(column: RawColumn, role: Role) -> RawColumn:
    return replace(column, role=role) if column is ROWS else column
