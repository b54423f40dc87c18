"""Which records of the log every reader passes over, by decision of an operator. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .ids import Offset, Partition

NOTHING: frozenset[Offset] = frozenset()


@dataclass(frozen=True, slots=True)
class Skips:
    """The offsets that are skipped, by partition, sorted."""

    offsets: Mapping[Partition, tuple[Offset, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, places: Iterable[tuple[Partition, Offset]]) -> Skips:
        found: dict[Partition, list[Offset]] = {}
        for partition, offset in sorted(set(places)):
            found.setdefault(partition, []).append(offset)
        return cls({partition: tuple(offsets) for partition, offsets in found.items()})

    def of_partition(self, partition: Partition) -> frozenset[Offset]:
        return frozenset(self.offsets[partition]) if partition in self.offsets else NOTHING

    def has(self, partition: Partition, offset: Offset) -> bool:
        return self.count(partition, offset, Offset(offset + 1)) > 0

    def count(self, partition: Partition, start: Offset, end: Offset) -> int:
        """How many offsets of [start, end) are skipped: as many records at the most may be missing from sequences there."""
        offsets = self.offsets.get(partition, ())
        return max(0, bisect_left(offsets, end) - bisect_left(offsets, start))

    def between(self, starts: Sequence[Offset], ends: Sequence[Offset]) -> list[tuple[Partition, Offset]]:
        """What is skipped in [start, end) of each partition."""
        return [
            (partition, offset)
            for partition, offsets in sorted(self.offsets.items())
            for offset in offsets
            if starts[partition] <= offset < ends[partition]
        ]
