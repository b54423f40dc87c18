"""When a dense slice that was announced on the log takes effect: once its announcement has passed in every partition. Pure."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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


class _Slice(NamedTuple):
    """A slice by the offset of its announcement in partition 0."""

    offset: Offset
    key: Announced
    info: DenseInfo


@dataclass(slots=True)
class DenseFold:
    """Announcements seen so far, of `partitions` partitions. Of those that have passed everywhere the newest counts; the order
    in partition 0 decides which is newer, so that every reader comes to the same."""

    partitions: int
    _seen: dict[Announced, dict[Partition, Offset]] = field(default_factory=dict)
    _order: list[_Slice] = field(default_factory=list)

    def announce(self, partition: Partition, offset: Offset, record: Record, name: str) -> None:
        """An announcement that takes effect was read; a second reading of the same, or of older ones, changes nothing."""
        found = announcement_of(record, name)
        key = (record.timeline, record.publisher, record.term, found.number)
        if self._is_passed(key, partition, offset):
            return
        if partition == 0 and key not in [known.key for known in self._order]:
            insort(
                self._order, _Slice(offset, key, DenseInfo(path=found.path, bytes=found.bytes, digest=found.digest)), key=_offset
            )
        self._seen.setdefault(key, {})[partition] = offset
        complete = [at for at, known in enumerate(self._order) if self._complete(known.key)]
        if complete:
            # Older ones can never become the newest again.
            passed, self._order = self._order[: complete[-1]], self._order[complete[-1] :]
            for known in passed:
                self._seen.pop(known.key, None)

    def newest(self, after: Sequence[Offset] | None = None) -> DenseInfo | None:
        """The newest slice whose announcement has passed everywhere; with `after`, only if it does not lie before these
        offsets in every partition, so that the state which stands there does not include it."""
        if not self._order or not self._complete(self._order[0].key):
            return None
        _, key, info = self._order[0]
        newer = after is None or any(offset >= after[p] for p, offset in self._seen[key].items())
        return info if newer else None

    def _is_passed(self, key: Announced, partition: Partition, offset: Offset) -> bool:
        """Whether a newer slice has passed everywhere: what is behind it is of no more interest, when it is read again."""
        if not self._order or not self._complete(self._order[0].key):
            return False
        newest = self._order[0]
        older = key[:2] == newest.key[:2] and key[2:] < newest.key[2:]
        return older or (partition == 0 and offset < newest.offset)

    def _complete(self, key: Announced) -> bool:
        return len(self._seen.get(key, ())) == self.partitions


def _offset(known: _Slice) -> Offset:
    return known.offset
