"""What becomes of each table when a checkpoint is published. Pure.

A table that grows is the same table. One that appears is born, one that is retired is emptied, one that has merely vanished is
refused. One with another dim, codec or kind of keys becomes a new *generation*: a table of its own in the schema, under the same
name to trainers and readers. The version that brings it leaves the generation before as it is, since replicas adopt partition by
partition and are read meanwhile; the version after that empties it, as it does every generation that no name means.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from .manifest import Manifest
from .schema import ModelSchema, TableSchema, generation_name, generation_number


@dataclass(frozen=True, slots=True)
class Same:
    """It has the shape that it had; rows may come and go."""

    table: str

    def __str__(self) -> str:
        return f"table {self.table} goes on"


@dataclass(frozen=True, slots=True)
class Appears:
    """It is new, or comes back."""

    table: str

    def __str__(self) -> str:
        return f"table {self.table} appears"


@dataclass(frozen=True, slots=True)
class Reshaped:
    """It has another shape than before."""

    table: str
    had: TableSchema
    wants: TableSchema

    @property
    def rules(self) -> list[tuple[str, int | str, int | str]]:
        """What differs: its name, how it was, how it is."""
        return [(rule, had, wants) for rule, had in self.had.shape.items() if (wants := self.wants.shape[rule]) != had]

    def __str__(self) -> str:
        return f"table {self.table}: " + ", ".join(f"{rule} {had} becomes {wants}" for rule, had, wants in self.rules)


@dataclass(frozen=True, slots=True)
class Vanished:
    """It is not there, and nobody has said that it should go."""

    table: str

    def __str__(self) -> str:
        return f"table {self.table} has vanished"


@dataclass(frozen=True, slots=True)
class Retired:
    """It goes, as the config says."""

    table: str

    def __str__(self) -> str:
        return f"table {self.table} is retired"


Change = Same | Appears | Reshaped | Vanished | Retired


def decide(known: Mapping[str, TableSchema], found: Mapping[str, TableSchema], retired: Collection[str]) -> tuple[Change, ...]:
    """What becomes of every table that is `known`, as it is, or `found`, as it is to be; in the order of their names."""
    return tuple(_decided(name, known.get(name), found.get(name), name in retired) for name in sorted({*known, *found}))


def _decided(name: str, had: TableSchema | None, wants: TableSchema | None, is_retired: bool) -> Change:
    if is_retired:
        return Retired(name)
    if had is None:
        return Appears(name)
    if wants is None:
        return Vanished(name)
    return Same(name) if had.shape == wants.shape else Reshaped(name, had, wants)


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePlan:
    """What a publish does. `names` gives the generation of each table found, `found` the schema of each of these generations;
    `shapes` and `retired` are what its manifest says. Of the other generations, those `kept` were read until now and stay as the
    log has left them; those `cleared` lose every row."""

    changes: tuple[Change, ...]
    names: dict[str, str]
    found: dict[str, TableSchema]
    shapes: dict[str, str]
    retired: tuple[str, ...]
    kept: tuple[str, ...]
    cleared: tuple[str, ...]

    @property
    def others(self) -> frozenset[str]:
        """The generations that no checkpoint has rows of."""
        return frozenset((*self.kept, *self.cleared))

    @property
    def news(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if not isinstance(change, Same))

    @property
    def appears(self) -> bool:
        """Whether a table is new, or comes back: then no list of touched keys names all of its rows."""
        return any(isinstance(change, Appears) for change in self.changes)

    def reason(self, why: str) -> str:
        """`why`, and what happens to tables."""
        told = [str(change) for change in self.news if not isinstance(change, Appears)]
        return "; ".join([why, *told] if why else told)


def plan_tables(
    schema: ModelSchema,
    base: Manifest,
    found: Mapping[str, TableSchema],
    *,
    retired: Collection[str],
    unnamed: Collection[str] = (),
) -> TablePlan:
    """The plan of a publish on top of `base`. `retired`: what the config says should go. `unnamed`: tables that the source may
    say nothing of, and that go on as they are."""
    before = set(base.retired)
    known = {name: schema.tables[base.generation(name)] for name in schema.names() if name not in before}
    told = dict.fromkeys(unnamed)
    changes = decide(
        {name: table for name, table in known.items() if name in found or name in retired or name not in told}, found, retired
    )
    names = {name: _generation(schema, base, name, table) for name, table in found.items() if name not in retired}
    gone = tuple(sorted((before - set(names)) | {change.table for change in changes if isinstance(change, Retired)}))
    means = {name: names.get(name, base.generation(name)) for name in {*schema.names(), *names}}
    current = {generation for name, generation in means.items() if name not in gone}
    others = [generation for generation in sorted(schema.tables) if generation not in current]
    kept = tuple(name for name in others if is_read(base, name, schema.table_of(name)) and schema.table_of(name) not in gone)
    return TablePlan(
        changes=changes,
        names=names,
        found={
            generation: found[name] if generation == name else msgspec.structs.replace(found[name], generation_of=name)
            for name, generation in names.items()
        },
        shapes={name: generation for name, generation in sorted(means.items()) if generation != name},
        retired=gone,
        kept=kept,
        cleared=tuple(name for name in others if name not in kept),
    )


def _generation(schema: ModelSchema, base: Manifest, name: str, wants: TableSchema) -> str:
    """The generation with the shape that is wanted: the one there is, or a new one."""
    generations = schema.generations(name)
    if fitting := [found for found in generations if schema.tables[found].shape == wants.shape]:
        return base.generation(name) if base.generation(name) in fitting else fitting[-1]
    return generation_name(name, generation_number(generations[-1]) + 1 if generations else 1)


def is_read(manifest: Manifest, generation: str, table: str) -> bool:
    """Whether readers of a version take this generation for the table."""
    return manifest.generation(table) == generation and table not in manifest.retired


def was_cleared(lineage: Sequence[Manifest], generation: str, table: str) -> bool:
    """Whether the newest version of a lineage, oldest first, surely has no row of a generation: a version has emptied it, and
    none has used it since. A rollback may have brought back what the log had brought to it."""
    for at in reversed(range(len(lineage))):
        manifest = lineage[at]
        if is_read(manifest, generation, table) or manifest.rollback is not None:
            return False
        if table in manifest.retired or (at and not is_read(lineage[at - 1], generation, table)):
            return True
    return False


def shapes_after(
    schema: ModelSchema, base: Manifest, newest: Manifest, tables: Collection[str] | None
) -> tuple[dict[str, str], tuple[str, ...]]:
    """`shapes` and `retired` of a rollback to the state of `base`: of the tables that go back, or of all, those of `base`; of the
    others those of the newest version."""
    if tables is None:
        return dict(base.shapes), base.retired
    back = {schema.table_of(name) for name in tables}
    shapes = {name: found for name, found in newest.shapes.items() if name not in back}
    shapes |= {name: found for name, found in base.shapes.items() if name in back}
    retired = {name for name in newest.retired if name not in back} | {name for name in base.retired if name in back}
    return dict(sorted(shapes.items())), tuple(sorted(retired))
