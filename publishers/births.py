"""What a table is born as: its dim comes from its first rows, the rest from the config. Changes nothing."""

from __future__ import annotations

from penstock.pipeline.config import TableConfig
from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.errors import InvalidInput, NotFound, Refused
from penstock.pipeline.core.schema import KeyType, TableSchema, check_birth
from penstock.pipeline.environment import Environment


def schema_at_birth(environment: Environment, name: str, *, dim: int, keys: KeyType | None = None) -> TableSchema:
    """`NotFound` when the config declares tables, and `name` is none of them; `Refused` where it expects another dim. Where it
    declares none, float32. `keys`: what they are where rows come with them; else the config says, or they are numbers."""
    declared = environment.model.tables
    if declared and name not in declared:
        listed = ", ".join(sorted(declared))
        raise NotFound(f"model {environment.catalog.model} has no table {name!r} (the config declares {listed})")
    settings = declared.get(name, TableConfig(tensor=name))
    if settings.dim not in {None, dim}:
        raise Refused(f'table {name}: its rows have {dim} values, the config expects "dim" {settings.dim}')
    absent = settings.absent if isinstance(settings.absent, str) else tuple(settings.absent)
    if not isinstance(absent, str) and len(absent) != dim:
        raise InvalidInput(f'table {name}: "absent" has {len(absent)} values, a row has {dim}')
    schema = TableSchema(
        dim=dim,
        codec=settings.codec,
        width=codec(settings.codec).width(dim),
        absent=absent,
        keys=keys or settings.key_type or "int64",
    )
    check_birth(name, schema)
    return schema
