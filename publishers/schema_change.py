"""Which tables a publish has, against those that the model has: decides, refuses, and tells. Writes nothing."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

from penstock.pipeline.core.errors import Refused
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.schema import ModelSchema, TableSchema
from penstock.pipeline.core.schema_change import Reshaped, TablePlan, Vanished, plan_tables
from penstock.pipeline.environment import Environment

from .sources import Source, born_as

log = logging.getLogger(__name__)


def plan_source(env: Environment, source: Source, base: Manifest) -> TablePlan:
    """What becomes of every table when `source` is published on top of `base`. `Refused`: one has vanished, and its rows would
    stay for ever; other errors as of `schema_at_birth`."""
    known = env.catalog.reload_schema()
    return plan_found(env, source.name, base, born_as(env, source), unnamed=known.names() if source.partial else ())


def plan_log(env: Environment, base: Manifest) -> TablePlan:
    """As `plan_source`, of a publish from the log: the tables go on, but for those that are retired."""
    return plan_found(env, "the log", base, {}, unnamed=env.catalog.reload_schema().names())


def plan_found(
    env: Environment, name: str, base: Manifest, found: Mapping[str, TableSchema], *, unnamed: list[str] | tuple[()] = ()
) -> TablePlan:
    """As `plan_source`, of tables whose schemas are known. `name` says where they are from."""
    model, retired = env.catalog.model, {table for table, settings in env.model.tables.items() if settings.retired}
    if given := sorted(retired & set(found)):
        raise Refused(
            f"{name} has rows of table {given[0]}, which is retired",
            hint=f"take `retired` out of [models.{model}.tables.{given[0]}] to bring it back",
        )
    plan = plan_tables(env.schema, base, found, retired=retired, unnamed=unnamed)
    if vanished := [change.table for change in plan.changes if isinstance(change, Vanished)]:
        raise Refused(
            f"{name} has no table {', '.join(vanished)}, which model {model} has",
            hint=f"is the config complete? `retired = true` in [models.{model}.tables.{vanished[0]}] lets the table go",
        )
    return plan


def meanings(schema: ModelSchema, plan: TablePlan) -> dict[str, str]:
    """Of each generation that no name means the one that is meant by now, where there is one."""
    current = {schema.table_of(name): name for name in schema.tables if name not in plan.others}
    return {name: current[table] for name in plan.others if (table := schema.table_of(name)) in current}


def check_shapes(plan: TablePlan) -> None:
    """`Refused` where a table has another shape than the model's: a delta cannot bring that."""
    for change in plan.changes:
        if isinstance(change, Reshaped):
            rule, had, wants = change.rules[0]
            raise Refused(
                f"table {change.table}: {rule} {wants} was asked for, it has {rule} {had}",
                hint="a snapshot brings another shape: `penstock publish snapshot`",
            )


def tell(plan: TablePlan, base: Manifest) -> None:
    """Says what was decided, unless all goes on as it was, or begins."""
    for change in plan.news if base.kind != "birth" else ():
        log.warning("%s", change)


def arranged(source: Source, plan: TablePlan) -> Source:
    """The source with its tables under the names of their generations."""
    return dataclasses.replace(
        source,
        tables={plan.names[name]: table for name, table in source.tables.items()},
        deleted={plan.names[name]: keys for name, keys in source.deleted.items()},
    )
