"""The birth of a table: its dim comes from its first rows, its codec from the config. Writes the catalog, nothing else."""

from __future__ import annotations

from penstock.pipeline.config import TableConfig
from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.errors import NotFound
from penstock.pipeline.core.schema import ModelSchema, TableSchema
from penstock.pipeline.environment import Environment


def table_schema(settings: TableConfig | None, *, dim: int) -> TableSchema:
    """What a table of the config is born as; float32 with zeros for absent keys where the config says nothing."""
    name = settings.codec if settings is not None else "float32"
    absent = settings.absent if settings is not None else "zeros"
    return TableSchema(
        dim=dim, codec=name, width=codec(name).width(dim), absent=absent if isinstance(absent, str) else tuple(absent)
    )


def born_table(environment: Environment, name: str, *, dim: int) -> ModelSchema:
    """The schema with the table, born if it is new. `NotFound` when the config declares tables, and this is none of them;
    `Refused` when it exists with another dim or codec."""
    declared = environment.model.tables
    if declared and name not in declared:
        raise NotFound(
            f"model {environment.catalog.model} has no table {name!r} (the config declares {', '.join(sorted(declared))})"
        )
    return environment.catalog.add_tables({name: table_schema(declared.get(name), dim=dim)})
