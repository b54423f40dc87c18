"""What a replica counts for its metrics alone: how late the rows of the realtime tier are when they can be read. Filled by
one thread, read by any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.pipeline.core.ids import Offset, Partition
from penstock.pipeline.core.times import NEVER, WallTime
from penstock.pipeline.metrics import FRESHNESS_S, LAG_S, Spread

from .partition import Arrival
from .table import Table

Place = tuple[str, Partition]


class Measured:
    """`lag` and `freshness`: per table and partition, each row counted: seconds since it was written, and since the newest event
    that it learned from. `ends`: of the log as the replica began; what lies before them tells nothing of how late it is."""

    def __init__(self, tables: Mapping[str, Table], ends: Mapping[Partition, Offset]) -> None:
        self.lag: dict[Place, Spread] = {}
        self.freshness: dict[Place, Spread] = {}
        self.loaded_rows = sum(table.row_count for table in tables.values())
        """Rows that there were at first, and their bytes with their keys."""
        self.loaded_bytes = sum(table.row_count * (8 + table.width) for table in tables.values())
        self._ends = ends

    def add(self, partition: Partition, arrived: Sequence[Arrival], *, since: Offset, now: WallTime) -> None:
        """`arrived`, from the offset `since` on, can be read as of `now`."""
        if since < self._ends[partition]:
            return
        for table, rows, written_at, trained_through in arrived:
            place = (table, partition)
            if (lag := self.lag.get(place)) is None:
                lag = self.lag[place] = Spread(LAG_S)
            lag.add(max(0.0, (now - written_at) / 1e6), rows)
            if trained_through == NEVER:
                continue
            if (freshness := self.freshness.get(place)) is None:
                freshness = self.freshness[place] = Spread(FRESHNESS_S)
            freshness.add(max(0.0, (now - trained_through) / 1e6), rows)
