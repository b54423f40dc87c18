"""A proposal as TOML for the config file. Whatever a tensor is called, it comes out as TOML reads it back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from penstock.pipeline.config import DeltaTensors, Tensors

from .proposals import ProposedTable


def toml_of(model: str, tables: Sequence[ProposedTable]) -> str:
    """A `[models.<model>.tables.<name>]` for every table; "" without any."""
    return "".join(f"{line}\n" for table in tables for line in _lines(model, table))


def _lines(model: str, table: ProposedTable) -> Iterator[str]:
    config = table.config
    size = f"  # {f'{table.parts} parts, ' if table.parts > 1 else ''}{table.rows} x {table.dim}"
    yield f"[models.{_key(model)}.tables.{_key(table.name)}]"
    if config.tensor is not None:
        yield f"tensor = {_tensors(config.tensor)}{size}"
        if table.parts > 1:
            yield '# partition = "modulo"  # if row r of part i of n is number r * n + i, as by TensorFlow\'s "mod"'
    if config.keys is not None and config.rows is not None:
        yield f"keys = {_tensors(config.keys)}"
        yield f"rows = {_tensors(config.rows)}{size}"
    if config.vocabulary is not None:
        yield f"vocabulary = {_string(config.vocabulary)}"
    if config.key_type is not None:
        yield f"key_type = {_string(config.key_type)}"
    if config.delta is not None:
        yield f"delta = {_delta(config.delta)}"


def _delta(delta: DeltaTensors) -> str:
    deleted = "" if delta.deleted is None else f", deleted = {_string(delta.deleted)}"
    return f"{{ keys = {_tensors(delta.keys)}, rows = {_tensors(delta.rows)}{deleted} }}"


def _tensors(named: Tensors) -> str:
    return _string(named) if isinstance(named, str) else f"[{', '.join(map(_string, named))}]"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)


def _string(text: str) -> str:
    """A basic string. JSON's is one, but for DEL, and for what else a terminal should not get."""
    found = json.dumps(text, ensure_ascii=False)
    return found if found.isprintable() else "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in found)
