"""How long the log has been silent, told by looking at it again and again. Reads a record of a partition once at the most."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core.errors import Corrupt, PositionGone
from ..core.ids import Offset, Partition
from ..core.times import WallTime
from ..ports.log import UpdateLog

PATIENCE_S = 0.5


@dataclass(slots=True)
class LogWatch:
    log: UpdateLog
    _ends: dict[Partition, Offset] = field(default_factory=dict)
    _newest: dict[Partition, WallTime] = field(default_factory=dict)

    def newest_at(self, partition: Partition, end: Offset, now: WallTime) -> WallTime | None:
        """When the partition, which ends at `end` now, took its newest record: at the first look as the record says, later on
        when it was first seen to be there. None: it has none that can be read."""
        before = self._ends.get(partition)
        self._ends[partition] = end
        if before is None:
            found = self._read(partition, Offset(end - 1)) if end else None
        else:
            found = now if end != before else self._newest.get(partition)
        if found is not None:
            self._newest[partition] = found
        return found

    def _read(self, partition: Partition, offset: Offset) -> WallTime | None:
        try:
            entries = self.log.poll({partition: offset}, timeout_s=PATIENCE_S, max_bytes=1).get(partition)
        except (PositionGone, Corrupt):
            return None
        return entries[0].appended_at if entries else None
