"""When a dense slice that was announced on the log takes effect: once its announcement has passed in every partition. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from .coordination import DenseAnnouncement
from .errors import Corrupt
from .ids import Offset, Partition, PublisherId, Term, Timeline
from .manifest import DenseInfo
from .records import Record

Announced = tuple[Timeline, PublisherId, Term, int]


def announcement_of(record: Record, name: str) -> DenseAnnouncement:
    """What a dense record announces; `name` says where it stands, for the error."""
    try:
        return msgspec.json.decode(record.text, type=DenseAnnouncement)
    except (msgspec.DecodeError, ValueError) as error:
        raise Corrupt(f"{name}: not an announcement of a dense slice: {error}") from None


@dataclass(slots=True)
class DenseFold:
    """Announcements seen so far, of `partitions` partitions. Of those that have passed everywhere the newest counts; the order
    in partition 0 decides which is newer, so that every reader comes to the same."""

    partitions: int
    _seen: dict[Announced, dict[Partition, Offset]] = field(default_factory=dict)
    _order: list[tuple[Announced, DenseInfo]] = field(default_factory=list)

    def announce(self, partition: Partition, offset: Offset, record: Record, name: str) -> None:
        """An announcement that takes effect was read; a second reading of the same changes nothing."""
        found = announcement_of(record, name)
        key = (record.timeline, record.publisher, record.term, found.number)
        if partition == 0 and key not in [seen for seen, _ in self._order]:
            self._order.append((key, DenseInfo(path=found.path, bytes=found.bytes, digest=found.digest)))
        self._seen.setdefault(key, {})[partition] = offset
        complete = [at for at, (key, _) in enumerate(self._order) if self._complete(key)]
        if complete:
            # Older ones can never become the newest again.
            passed, self._order = self._order[: complete[-1]], self._order[complete[-1] :]
            for key, _ in passed:
                self._seen.pop(key, None)

    def newest(self, after: Sequence[Offset] | None = None) -> DenseInfo | None:
        """The newest slice whose announcement has passed everywhere; with `after`, only if it does not lie before these
        offsets in every partition, so that the state which stands there does not include it."""
        for key, info in reversed(self._order):
            if self._complete(key):
                newer = after is None or any(offset >= after[p] for p, offset in self._seen[key].items())
                return info if newer else None
        return None

    def _complete(self, key: Announced) -> bool:
        return len(self._seen.get(key, ())) == self.partitions
