"""Into which generation of a table a publisher's rows go: the one of their shape. Sends nothing."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.pipeline.core.errors import Refused
from penstock.pipeline.core.schema import KeyType, ModelSchema, TableSchema
from penstock.pipeline.environment import Environment

from .births import schema_at_birth
from .stream import Stream


class Generations:
    """Of the tables of one publisher. Safe to use from several threads: whoever decides twice decides the same."""

    def __init__(self, environment: Environment, stream: Stream) -> None:
        self._environment, self._stream = environment, stream
        self._chosen: dict[tuple[str, int, KeyType | None], str] = {}
        self._last: dict[str, str] = {}

    def of_rows(self, table: str, *, dim: int, keys: KeyType | None = None) -> tuple[str, TableSchema]:
        """The generation for rows of `dim` values, and its schema; that of a table which is not born yet, as it would be.
        `Refused`: no generation has this shape, or the table is retired; other errors as of `schema_at_birth`."""
        if (chosen := self._chosen.get((table, dim, keys))) is None:
            if (chosen := self._fitting(table, dim, keys)) is None:
                return table, schema_at_birth(self._environment, table, dim=dim, keys=keys)
            self._chosen[table, dim, keys] = chosen
        self._last[table] = chosen
        return chosen, self._stream.schema.tables[chosen]

    def of_keys(self, table: str) -> list[str]:
        """The generations in which keys without rows are meant: the one that rows went into last, else all. `NotFound` for a
        table without any row yet."""
        if table in self._last:
            return [self._last[table]]
        if table not in self._stream.schema.tables:
            self._stream.adopt_schema(self._environment.catalog.reload_schema())
        self._stream.schema.table(table)
        return self._stream.schema.generations(table)

    def takes(self, table: str, *, dim: int) -> bool:
        """Whether rows of `dim` values can be sent to the table as it is."""
        declared = self._environment.model.tables.get(table)
        is_retired = declared is not None and declared.retired
        return not is_retired and bool(_of_shape(self._stream.schema, table, {"dim": dim}))

    def table_of(self, generation: str) -> str:
        return self._stream.schema.table_of(generation)

    def _fitting(self, table: str, dim: int, keys: KeyType | None) -> str | None:
        """None for a table that is not born yet."""
        declared = self._environment.model.tables.get(table)
        if declared is not None and declared.retired:
            raise Refused(f"table {table} is retired", hint="take `retired` out of its config to bring it back")
        wants: dict[str, int | str] = {"dim": dim}
        if declared is not None:
            wants["codec"] = declared.codec
        if keys is not None:
            wants["keys"] = keys
        if found := _of_shape(self._stream.schema, table, wants):
            return found[-1]
        schema = self._environment.catalog.reload_schema()
        if table not in schema.tables:
            return None
        self._stream.adopt_schema(schema)
        if found := _of_shape(schema, table, wants):
            return found[-1]
        had = schema.tables[schema.generations(table)[-1]].shape
        rule = next(rule for rule in wants if had[rule] != wants[rule])
        raise Refused(
            f"table {table}: rows of {rule} {wants[rule]}, it was born with {rule} {had[rule]}",
            hint="publish a snapshot of the new shape first: `penstock publish snapshot`",
        )


def _of_shape(schema: ModelSchema, table: str, wants: Mapping[str, int | str]) -> list[str]:
    return [name for name in schema.generations(table) if wants.items() <= schema.tables[name].shape.items()]
