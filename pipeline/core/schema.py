"""What is frozen when a model or a table is born: bucket count, partitions, hash, dims, codecs, and which log is meant."""

from __future__ import annotations

from .digests import MAX_ROW_BYTES
from .documents import FORMAT, Document
from .errors import InvalidInput, NotFound, Refused
from .ids import checked_name

HASH = "murmur3-fmix64"
MAX_BUCKETS = 65536


class TableSchema(Document, frozen=True, kw_only=True):
    """One embedding table. `codec` names a row codec; `width` is the bytes of an encoded row; `absent` is what a lookup of
    an unknown key gives: "zeros", "refuse", or the values of a row."""

    dim: int
    codec: str
    width: int
    absent: str | tuple[float, ...] = "zeros"


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

    @property
    def raw_id(self) -> bytes:
        return bytes.fromhex(self.id)


def check_geometry(*, buckets: int, partitions: int) -> None:
    if not 1 <= partitions <= buckets <= MAX_BUCKETS:
        raise InvalidInput(f"{buckets} buckets over {partitions} partitions: need 1 <= partitions <= buckets <= {MAX_BUCKETS}")


def check_birth(name: str, table: TableSchema) -> None:
    checked_name(name, "table")
    if table.dim < 1 or not 1 <= table.width <= MAX_ROW_BYTES:
        raise InvalidInput(f"table {name}: dim {table.dim}, {table.width} bytes a row; at least 1, at most {MAX_ROW_BYTES} bytes")


def check_same(name: str, frozen: TableSchema, asked: TableSchema) -> None:
    """`Refused` when the config asks for another dim or codec than the table was born with."""
    for rule in ("dim", "codec"):
        had, wants = getattr(frozen, rule), getattr(asked, rule)
        if had != wants:
            raise Refused(
                f"table {name}: {rule} {wants} was asked for, it was born with {rule} {had}",
                hint="a table's dim and codec are frozen at its birth; declare it under a new name",
            )
