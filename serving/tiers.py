"""Which rows are in memory and which stay in the mapped files of the store. Knows no chain, no version.

A replica is ready with large tables while their rows are still in the files; a thread then copies them, where pages are huge and
nobody takes them away. With a budget for rows, the smallest tables come in first; those that do not fit stay in their files for
good, of which the system keeps in memory what is read often. Their index is in memory, and so are the rows that are written.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Collection

from penstock.pipeline.core.errors import StorageFull

from .table import Table

ROWS_AT_ONCE = 1 << 14
"""A writer waits for no more."""


class Budget:
    """`nbytes` for the rows of all tables; None: as much as they take."""

    def __init__(self, nbytes: int | None) -> None:
        self._nbytes = nbytes

    def fits(self, nbytes: int, tables: Collection[Table]) -> bool:
        """So many more beside what is in memory already."""
        return self._nbytes is None or nbytes + sum(table.row_bytes for table in tables) <= self._nbytes

    def check(self, name: str, nbytes: int, tables: Collection[Table]) -> None:
        """`StorageFull` for a table that has to be in memory, and does not fit."""
        if not self.fits(nbytes, tables):
            raise StorageFull(
                f"table {name}: {nbytes} bytes of rows, and {self._nbytes} are given to those of all tables",
                hint="hold fewer buckets, or give more row_bytes; in a store that is a folder, rows in steps of 4 bytes can stay",
            )

    def chosen(self, tables: Collection[Table]) -> list[Table]:
        """Those that were left in files and can come in, one after the other."""
        found, total = list[Table](), 0
        for table in sorted((table for table in tables if table.borrowed_bytes), key=lambda table: table.borrowed_bytes):
            total += table.borrowed_bytes
            if self.fits(total, tables):
                found.append(table)
        return found


def bring_in(tables: Collection[Table], budget: Budget) -> None:
    """Begins a thread that copies rows to memory while others read and write; it ends with its work, or with the tables."""
    if chosen := [weakref.ref(table) for table in budget.chosen(tables)]:
        threading.Thread(target=_bring_in, args=(chosen,), name="bring-in", daemon=True).start()


def _bring_in(tables: list[weakref.ref[Table]]) -> None:
    for reference in tables:
        while (table := reference()) is not None and table.bring_in(ROWS_AT_ONCE):
            del table
