"""What is frozen when a model or a table is born: bucket count, partitions, hash, dims, codecs, and which log is meant."""

from __future__ import annotations

import re
from typing import Literal

from .digests import MAX_ROW_BYTES
from .documents import FORMAT, Document
from .errors import InvalidInput, NotFound, Refused
from .ids import checked_name

HASH = "murmur3-fmix64"
MAX_BUCKETS = 65536
KeyType = Literal["int64", "string"]
"""What the keys of a table are to its owner. Strings are hashed to int64, and kept beside the rows."""


class TableSchema(Document, frozen=True, kw_only=True):
    """One embedding table. `codec` names a row codec; `width` is the bytes of an encoded row; `absent` is what a lookup of
    an unknown key gives: "zeros", "refuse", or the values of a row."""

    dim: int
    codec: str
    width: int
    absent: str | tuple[float, ...] = "zeros"
    keys: KeyType = "int64"
    generation_of: str | None = None
    """The table that this is a later generation of: one of another shape, under a name of its own, as in "customer@2"."""

    @property
    def shape(self) -> dict[str, int | str]:
        """What never changes in a generation."""
        return {"dim": self.dim, "codec": self.codec, "keys": self.keys}


class ModelSchema(Document, frozen=True, kw_only=True):
    """`catalog.json`. `id` (32 hex digits) names this model and no other; `log` is the identity of its update log."""

    format: int = FORMAT
    model: str
    id: str
    hash: str = HASH
    buckets: int
    partitions: int
    log: str
    tables: dict[str, TableSchema]
    created_at: int

    def table(self, name: str) -> TableSchema:
        try:
            return self.tables[name]
        except KeyError:
            known = ", ".join(sorted(self.tables)) or "none yet"
            raise NotFound(f"model {self.model} has no table {name!r} (tables: {known})") from None

    def generations(self, name: str) -> list[str]:
        """The tables that are generations of table `name`, oldest first; none where it does not exist."""
        later = [found for found, table in self.tables.items() if table.generation_of == name]
        return [name] * (name in self.tables) + sorted(later, key=generation_number)

    def table_of(self, generation: str) -> str:
        """The table that `generation` is one of."""
        return self.table(generation).generation_of or generation

    def names(self) -> list[str]:
        """Every table, by name, whatever its generations."""
        return sorted(name for name, table in self.tables.items() if table.generation_of is None)

    @property
    def raw_id(self) -> bytes:
        return bytes.fromhex(self.id)


def check_geometry(*, buckets: int, partitions: int) -> None:
    if not 1 <= partitions <= buckets <= MAX_BUCKETS:
        raise InvalidInput(f"{buckets} buckets over {partitions} partitions: need 1 <= partitions <= buckets <= {MAX_BUCKETS}")


def generation_name(name: str, number: int) -> str:
    """Of generation `number` of a table, the first being 1. No table that a config declares has an "@" in its name."""
    return name if number == 1 else f"{name}@{number}"


def generation_number(generation: str) -> int:
    return int(generation.rpartition("@")[2]) if "@" in generation else 1


def check_birth(name: str, table: TableSchema) -> None:
    checked_name(name if table.generation_of is None else table.generation_of, "table")
    if table.generation_of is not None and not re.fullmatch(re.escape(table.generation_of) + r"@([2-9]|[1-9]\d+)", name):
        raise InvalidInput(f"table {name}: no name of a generation of {table.generation_of}")
    if table.dim < 1 or not 1 <= table.width <= MAX_ROW_BYTES:
        raise InvalidInput(f"table {name}: dim {table.dim}, {table.width} bytes a row; at least 1, at most {MAX_ROW_BYTES} bytes")


def check_same(name: str, frozen: TableSchema, asked: TableSchema) -> None:
    """`Refused` when another dim, codec or kind of keys is asked for than the table was born with."""
    for rule, had in frozen.shape.items():
        wants = asked.shape[rule]
        if had != wants:
            raise Refused(
                f"table {name}: {rule} {wants} was asked for, it was born with {rule} {had}",
                hint="a snapshot brings another shape: `penstock publish snapshot`",
            )
