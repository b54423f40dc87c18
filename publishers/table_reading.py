"""Finds the tables of the config in a checkpoint: which tensors, which parts, which keys. Slices nothing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from penstock.pipeline.config import TableConfig, Tensors
from penstock.pipeline.core.errors import NotFound, Refused
from penstock.slicer.readers import Checkpoint, TensorInfo
from penstock.slicer.row_source import Keys, Rows

from .table_keys import KeySource, keys_in
from .table_rows import Values, values_of
from .vocabulary import with_vocabulary


@dataclass(frozen=True, slots=True)
class TableSource:
    """A `RowSource`: rows, and keys unless the row numbers are the keys."""

    values: Values
    key_source: KeySource | None

    @property
    def rows(self) -> int:
        return self.values.rows

    @property
    def dim(self) -> int:
        return self.values.dim

    def keys(self, start: int, stop: int) -> Keys | None:
        return None if self.key_source is None else self.key_source.keys(start, stop)

    def names(self, start: int, stop: int) -> pa.LargeBinaryArray | None:
        return None if self.key_source is None else self.key_source.names(start, stop)

    def read(self, start: int, out: Rows) -> Rows:
        return self.values.read(start, out)


@dataclass(slots=True)
class Reading:
    """The tables of one checkpoint; `used` are the tensors that were found to be theirs."""

    checkpoint: Checkpoint
    path: Path
    used: set[str] = field(default_factory=set)

    _infos: dict[str, TensorInfo] = field(init=False)

    def __post_init__(self) -> None:
        self._infos = {info.name: info for info in self.checkpoint.tensors}

    @property
    def hint(self) -> str:
        return f"`penstock inspect {self.path}` lists what it has"

    def table(self, name: str, settings: TableConfig) -> TableSource | None:
        """None where a partial checkpoint has nothing of the table. `NotFound` names a tensor, or a part, that is not there;
        `Refused` one that cannot be the table."""
        if self.checkpoint.partial:
            keys, rows, _ = _changed(name, settings, str(self.path))
            return None if self._missing(keys) and self._missing(rows) else self._by_key(name, keys, rows, settings)
        if settings.tensor is None:
            assert settings.keys is not None
            assert settings.rows is not None
            return self._by_key(name, settings.keys, settings.rows, settings)
        infos = self._found(settings.tensor, name)
        values = values_of(self.checkpoint, infos, name, str(self.path), modulo=settings.partition == "modulo")
        if not values.rows:
            raise self._empty(name)
        if settings.vocabulary is None:
            return TableSource(values, None)
        folders = [self.path, self.path.parent] if self.path.is_dir() else [self.path.parent]
        self.used.add(settings.vocabulary)
        return TableSource(*with_vocabulary(self.checkpoint, folders, values, settings.vocabulary, settings.key_type, name))

    def deleted(self, name: str, settings: TableConfig) -> Keys:
        """int64[n], sorted: the keys that a partial checkpoint says are gone."""
        deleted = _changed(name, settings, str(self.path))[2]
        if deleted is None or deleted not in self._infos:
            return np.empty(0, np.int64)
        found = keys_in(self.checkpoint, self._found(deleted, name), settings.key_type, name, str(self.path))
        return np.unique(found.keys(0, found.rows))

    def pass_over(self, settings: TableConfig) -> None:
        """The tensors of a retired table, where they are there, are no part of the dense slice."""
        for wanted in (settings.tensor, settings.keys, settings.rows):
            for each in [wanted] if isinstance(wanted, str) else wanted or ():
                self.used |= {info.name for info in self._matching(each)}

    def _by_key(self, name: str, keys: Tensors, rows: Tensors, settings: TableConfig) -> TableSource:
        where, key_infos, row_infos = str(self.path), self._found(keys, name), self._found(rows, name)
        values = values_of(self.checkpoint, row_infos, name, where, modulo=False)
        if not values.rows and not self.checkpoint.partial:
            raise self._empty(name)
        found = keys_in(self.checkpoint, key_infos, settings.key_type, name, where)
        counts = [[info.shape[0] for info in infos] for infos in (key_infos, row_infos)]
        if counts[0] != counts[1]:
            raise Refused(f"{where}: table {name} has keys of {_listed(counts[0])} rows, and rows of {_listed(counts[1])}")
        return TableSource(values, found)

    def _empty(self, name: str) -> Refused:
        return Refused(f"{self.path}: table {name} is empty", hint="was the checkpoint written before the table was filled?")

    def _missing(self, wanted: Tensors) -> bool:
        return not any(self._matching(each) for each in ([wanted] if isinstance(wanted, str) else wanted))

    def _found(self, wanted: Tensors, table: str) -> list[TensorInfo]:
        found = []
        for each in [wanted] if isinstance(wanted, str) else wanted:
            if not (matching := self._matching(each)):
                close = difflib.get_close_matches(each, self._infos, 3)
                hint = f"close: {', '.join(close)}" if close else self.hint
                raise NotFound(f"{self.path} has no tensor {each!r}, which the config names for table {table}", hint=hint)
            found += matching
        self.used |= {info.name for info in found}
        return found

    def _matching(self, name: str) -> list[TensorInfo]:
        """The tensor of that name, or else the parts that a `*` in it stands for, in the order of their numbers."""
        if name in self._infos or name.count("*") != 1:
            return [self._infos[name]] if name in self._infos else []
        before, _, behind = name.partition("*")
        pattern = re.compile(re.escape(before) + r"(\d{1,9})" + re.escape(behind))
        found = {int(match[1]): info for info in self._infos.values() if (match := pattern.fullmatch(info.name))}
        numbers = sorted(found)
        if numbers and numbers[0] <= 1:
            for due, number in enumerate(numbers, numbers[0]):
                if due != number:
                    raise NotFound(f"{self.path} has parts {numbers[0]} to {numbers[-1]} of {name}, but no part {due}")
        elif numbers:
            raise NotFound(f"{self.path} has part {numbers[0]} of {name}, but no part 0")
        return [found[number] for number in numbers]


def _changed(name: str, settings: TableConfig, where: str) -> tuple[Tensors, Tensors, str | None]:
    """The keys, rows and deleted keys of a table in a checkpoint of changes alone."""
    if settings.delta is not None:
        return settings.delta.keys, settings.delta.rows, settings.delta.deleted
    if settings.keys is None or settings.rows is None:
        raise Refused(
            f"{where} holds only the rows that changed, and table {name} is declared by a tensor of all of them",
            hint=f'say which tensors they are: tables.{name}.delta = {{ keys = "…", rows = "…" }}',
        )
    together = isinstance(settings.keys, str) and settings.keys.endswith("keys")
    return settings.keys, settings.rows, f"{str(settings.keys)[:-4]}deleted" if together else None


def _listed(counts: Sequence[int]) -> str:
    return " + ".join(map(str, counts))
