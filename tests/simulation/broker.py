"""The log as it stands on its brokers: a memory log whose records can be harmed, cut off, and lost. Knows no client."""

from __future__ import annotations

from typing import Any

from penstock.pipeline.core.ids import Offset
from penstock.pipeline.core.records import RecordKind, decode_record
from penstock.pipeline.ports.log import LogEntry
from penstock.pipeline.ports.memory_log import MemoryLog

FOREIGN = b"a record of somebody else"


class Broker(MemoryLog):
    """`kept` holds every record that readers could once read, also what was cut off since; `harmed` the places of those that
    cannot be read, `lost` counts records that were acknowledged and are gone; from `given_again` on offsets were given twice."""

    def __init__(self, partitions: int, **options: Any) -> None:
        super().__init__(partitions, **options)
        self.kept: list[list[LogEntry]] = [[] for _ in range(partitions)]
        self.harmed: set[tuple[int, int]] = set()
        self.lost = 0
        self.given_again: dict[int, int] = {}

    def append(self, partition: Any, payload: bytes) -> Any:
        found = super().append(partition, payload)
        self.kept[partition].append(self._records[partition][-1])
        return found

    def append_harmed(self, partition: int, payload: bytes) -> Any:
        found = self.append(partition, payload)
        self.harmed.add((partition, int(found.offset)))
        return found

    def lose(self, partition: int, most: int, *, down_to: int) -> int:
        """An unclean change of leaders: up to `most` of the newest records are gone, and their offsets are given again; none that
        somebody counts on by its offset, as a marker or a fence, and none before `down_to`. Returns how many."""
        count = 0
        for entry in reversed(self._records[partition]):
            if count == most or entry.offset < down_to or not self._is_expendable(partition, entry):
                break
            count += 1
        for records in (self._records[partition], self.kept[partition]):
            del records[len(records) - count :]
        end = self.end(partition)  # type: ignore[arg-type]
        self.harmed = {(p, offset) for p, offset in self.harmed if p != partition or offset < end}
        self.lost += count
        if count:
            self.given_again[partition] = min(end, self.given_again.get(partition, end))
        return count

    def _is_expendable(self, partition: int, entry: LogEntry) -> bool:
        if (partition, entry.offset) in self.harmed:
            return True
        model_id = bytes(entry.payload[16:32])
        record = decode_record(entry.payload, model_id=model_id, partition=partition, name="log")  # type: ignore[arg-type]
        return record.kind in (RecordKind.ROWS, RecordKind.BEAT)

    def cut_off(self, partition: int, before: int) -> None:
        """The broker's own retention."""
        self.truncate(partition, Offset(before))  # type: ignore[arg-type]
