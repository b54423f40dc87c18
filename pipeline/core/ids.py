"""The names of things: what is counted, numbered and identified. Pure values, no I/O.

Every number that crosses a module boundary has a type of its own, so that an offset is never taken for a version.
"""

from __future__ import annotations

import re
from typing import NamedTuple, NewType

from .errors import InvalidInput

Version = NewType("Version", int)
"""A commit, in commit order; versions only grow."""
Timeline = NewType("Timeline", int)
"""A line of history; a rollback forks a new one. The first is 1."""
Marker = NewType("Marker", int)
"""The number of a checkpoint; never used twice in a model, whatever the timeline."""
Bucket = NewType("Bucket", int)
"""hash(key) scaled to a count frozen at birth; the unit that moves between shards, partitions and replicas."""
Partition = NewType("Partition", int)
"""A partition of the update log: a contiguous range of buckets."""
Offset = NewType("Offset", int)
"""Of a record within its partition; a position's offset is that of the next record to read."""
Term = NewType("Term", int)
"""An incarnation of a publisher, taken by compare-and-swap; records of an older term are dropped."""
Seq = NewType("Seq", int)
"""Of a record of one publisher's term in one partition; the opening record of a term is 0."""
PublisherId = NewType("PublisherId", str)

FIRST_TIMELINE = Timeline(1)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")


def checked_name(name: str, what: str) -> str:
    """`name`, if it is fit to be part of a store key; `what` names it in the error."""
    if not _NAME.match(name):
        raise InvalidInput(f"{what} {name!r}: letters, digits, '_', '.' and '-' only, at most 100, not first '.' or '-'")
    return name


class State(NamedTuple):
    """What a checkpoint is called: its timeline and marker number. The state (1, 0) is the empty model at its birth."""

    timeline: Timeline
    marker: Marker

    def __str__(self) -> str:
        return f"{self.timeline}-{self.marker}"

    @classmethod
    def parse(cls, text: str) -> State:
        """The inverse of `str`; `InvalidInput` for anything else."""
        found = re.fullmatch(r"([0-9]{1,19})-([0-9]{1,19})", text)
        if not found:
            raise InvalidInput(f"state {text!r} is not of the form TIMELINE-MARKER, as in 1-42")
        return cls(Timeline(int(found[1])), Marker(int(found[2])))


BIRTH = State(FIRST_TIMELINE, Marker(0))


class Reader(NamedTuple):
    """The newest record of one publisher that a reader of a partition has taken."""

    term: Term
    seq: Seq


class Position(NamedTuple):
    """Where to go on reading one partition: the next offset, and what was taken of every publisher before it."""

    offset: Offset
    readers: dict[PublisherId, Reader]


class Positions(NamedTuple):
    """One position per partition, and the identity of the log that they count in. A seek into another log is refused."""

    log: str
    partitions: tuple[Position, ...]

    def offsets(self) -> dict[Partition, Offset]:
        return {Partition(p): position.offset for p, position in enumerate(self.partitions)}
