"""Rows of records that are taken and not yet written: small ones of a table are written together. Knows no log, no offset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from penstock.pipeline.core.ids import Partition
from penstock.pipeline.core.records import NO_KEYS

from .table import Keys, Rows, Table

MOST_BYTES = 1 << 20
LARGE_BYTES = 128 << 10
"""Rows that are written as they are: to join them would cost more than it saves."""


@dataclass(slots=True)
class Pending:
    """In the order in which they came, per table; a later row of the same key counts."""

    _puts: dict[str, list[tuple[Keys, Rows]]] = field(default_factory=dict)
    _writes: list[tuple[str, Keys, Rows, Keys]] = field(default_factory=list)
    nbytes: int = 0

    @property
    def is_full(self) -> bool:
        return self.nbytes >= MOST_BYTES

    def add(self, table: str, keys: Keys, rows: Rows, tombstones: Keys) -> None:
        """Puts int64[n] and uint8[n, width], then deletes int64[m]."""
        self._puts.setdefault(table, []).append((keys, rows))
        self.nbytes += keys.nbytes + rows.nbytes + tombstones.nbytes
        if tombstones.size or rows.nbytes >= LARGE_BYTES:
            self._writes.append((table, *self._joined(table), tombstones))

    def write(self, partition: Partition, tables: Mapping[str, Table]) -> None:
        """Writes all, and is empty then, whatever happens."""
        self._writes += [(table, *self._joined(table), NO_KEYS) for table in list(self._puts)]
        writes, self._writes, self.nbytes = self._writes, [], 0
        for table, keys, rows, tombstones in writes:
            tables[table].apply(partition, keys, rows, tombstones)

    def _joined(self, table: str) -> tuple[Keys, Rows]:
        parts = self._puts.pop(table)
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([keys for keys, _ in parts]), np.concatenate([rows for _, rows in parts])
