"""What became of the tables between two checkpoints, from what would be proposed of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from .proposals import ProposedTable

Kind = Literal["appears", "vanishes", "grows", "shrinks", "changes dim"]


class SchemaChange(msgspec.Struct, frozen=True, kw_only=True):
    """`before` and `after`: rows and dim of the table; None where there is none."""

    table: str
    change: Kind
    before: tuple[int, int] | None
    after: tuple[int, int] | None

    def __str__(self) -> str:
        if self.before is None or self.after is None:
            rows, dim = self.before or self.after or (0, 0)
            return f"{self.table} {self.change} ({rows:,} x {dim})"
        at = 1 if self.change == "changes dim" else 0
        return f"{self.table} {self.change} ({self.before[at]:,} to {self.after[at]:,})"


def changes_between(
    before: Sequence[ProposedTable], after: Sequence[ProposedTable], *, partial: bool
) -> tuple[SchemaChange, ...]:
    """A `partial` checkpoint has some of the tables and some of their rows: there only a new table, or dim, is a change."""
    return tuple(each for each in _changes(before, after) if not partial or each.change in ("appears", "changes dim"))


def _changes(before: Sequence[ProposedTable], after: Sequence[ProposedTable]) -> Iterator[SchemaChange]:
    had = {table.name: (table.rows, table.dim) for table in before}
    has = {table.name: (table.rows, table.dim) for table in after}
    for name, now in has.items():
        then = had.get(name)
        if then is None:
            yield SchemaChange(table=name, change="appears", before=None, after=now)
        elif then[1] != now[1]:
            yield SchemaChange(table=name, change="changes dim", before=then, after=now)
        elif then != now:
            yield SchemaChange(table=name, change="grows" if then < now else "shrinks", before=then, after=now)
    for name, then in had.items():
        if name not in has:
            yield SchemaChange(table=name, change="vanishes", before=then, after=None)
