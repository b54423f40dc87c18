"""What stands in the store, in the log and in memory. Values and small records only: no step of the protocol is known here.

A row carries as ghost what its trainer had truly learned from (`learned`: newest event per timeline). That may be more than
its publisher claims (`through`), because dense weights are shared. No step of the protocol reads a ghost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

PARTITIONS = ("a", "b")
TABLES = ("x", "y")
KEYS = ("a0x", "b0y", "a1y", "b1x", "a1x", "b0x")
"""Of a key, the letter in front is the partition, the digit chooses the publisher, the last letter is the table."""
DENSE = "dense"

Value = TypeVar("Value")
State = tuple[int, int]
Who = tuple[Literal["live", "zombie"], int]
Readers = dict[int, tuple[int, int]]
Offsets = dict[str, int]
Tables = tuple[str, ...]


class ViolationError(Exception):
    """An invariant does not hold."""


class Row(NamedTuple):
    serial: int
    learned: tuple[tuple[int, int], ...]
    born: int
    """Ghost: the timeline that it was written on."""


Rows = dict[str, Row]
Changes = dict[str, Row | None]
"""None is a tombstone."""


class DenseName(NamedTuple):
    """Ordered: the newer of two dense slices of a timeline is the greater."""

    timeline: int
    term: int
    number: int


class Record(NamedTuple):
    kind: Literal["row", "marker", "beat", "open", "dense", "fence", "dead"]
    """"dead" is what a row reads as that the rollback of its table took back."""
    timeline: int
    publisher: int = -1
    term: int = 0
    seq: int = 0
    through: int = 0
    """What the writer claims to have learned from, or what a beat reserves."""
    key: str = ""
    row: Row | None = None
    state: State | None = None
    dense: DenseName | None = None


class Position(NamedTuple):
    offset: int
    readers: tuple[tuple[int, tuple[int, int]], ...] = ()
    """(publisher, (term, seq)) as of the offset."""


Positions = dict[str, Position]


class Ref(NamedTuple):
    version: int
    generation: int = 0
    """What a compare-and-swap compares."""
    frozen: tuple[int, ...] = ()
    """Offsets in the order of PARTITIONS; () follows the log."""
    abandoned: frozenset[int] = frozenset()
    """Timelines that were claimed and given up."""


@dataclass(frozen=True)
class Dead:
    """What a rollback takes back: [cut, fence) of each partition, of `tables` or, where there are none named, of all."""

    target: int | None
    tables: Tables
    cut: Offsets
    fence: Offsets
    undo: Changes

    def covers(self, key: str) -> bool:
        return not self.tables or key[2] in self.tables

    def holds(self, p: str, offset: int, record: Record) -> bool:
        """True for a record that never counts again; a rollback of some tables leaves all but their rows alone."""
        if not self.cut[p] <= offset < self.fence[p]:
            return False
        return not self.tables or (record.kind == "row" and self.covers(record.key))


Kind = Literal["birth", "delta", "folded", "rollback"]


@dataclass(frozen=True)
class Version:
    id: int
    kind: Kind
    state: State
    base: int
    """The version whose state `rows` are a difference to."""
    rows: Changes
    positions: Positions
    through: int
    reserved: int
    dense: DenseName
    table: Rows
    """What a newcomer loads."""
    dead: Dead | None = None

    @property
    def timeline(self) -> int:
        return self.state[0]


class Claim(NamedTuple):
    target: int | None
    """Before this event; None: to the base itself."""
    tables: Tables
    base: int
    forecast: Offsets


@dataclass(frozen=True)
class Prepared:
    """A rollback that one run has computed and not yet committed."""

    timeline: int
    generation: int
    base: int
    rows: Changes
    through: int
    reserved: int
    dense: DenseName
    dead: Dead


@dataclass
class Checkpoint:
    state: State
    rows: Rows
    through: int
    positions: Positions
    dense: DenseName
    touched: frozenset[str]
    """Keys touched since the checkpoint before."""
    unsent: frozenset[str]
    """Those among them whose row is not in the log."""
    learned: dict[int, dict[int, int]]
    """Ghost, per publisher."""
    expired: bool = False


@dataclass
class Publisher:
    id: int
    term: int
    timeline: int
    rows: Rows
    learned: dict[int, int]
    through: int
    origin: Checkpoint | None
    """What it resumes from; None once it crashed."""
    on_restart: str = "keep"
    opened: Offsets = field(default_factory=dict)
    ready: bool = False
    seq: Offsets = field(default_factory=lambda: dict.fromkeys(PARTITIONS, 0))
    reserved: Offsets = field(default_factory=lambda: dict.fromkeys(PARTITIONS, 0))
    unacknowledged: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    unsent: set[str] = field(default_factory=set)
    denses: int = 0
    announcing: DenseName | None = None
    announced: set[str] = field(default_factory=set)
    """The partitions that have the announcement under way."""

    def record(self, p: str, kind: Literal["row", "marker", "beat", "open", "dense"], through: int | None = None) -> Record:
        self.seq[p] = 0 if kind == "open" else self.seq[p] + 1
        claimed = self.through if through is None else through
        return Record(kind, self.timeline, self.id, self.term, self.seq[p], claimed)


class Seen(NamedTuple):
    """What the one who cuts a checkpoint read in the store after the last marker."""

    timeline: int
    abandoned: frozenset[int]
    terms: dict[int, int]


@dataclass
class Cutting:
    """A checkpoint being cut: its intent exists, its markers go out one by one."""

    state: State
    dense: DenseName
    publishers: list[Publisher]
    positions: Positions = field(default_factory=dict)
    seen: Seen | None = None
    expired: bool = False


@dataclass
class Part:
    """One partition as one replica has it."""

    rows: Rows
    offset: int
    readers: Readers
    timeline: int
    version: int
    announced: frozenset[DenseName]
    """Dense slices that have passed here, as versions or as announcements."""
    since: dict[State, set[str]]
    """State to the keys written since its marker."""
    interval: dict[State, dict[State, Changes]] = field(default_factory=dict)
    """State to older states to what was written between both markers."""


@dataclass
class Replica:
    known: Ref
    """The ref as it was last read."""
    parts: dict[str, Part]
    dense: DenseName
    alive: bool = True


def overlay(table: Mapping[str, Row | None], rows: Mapping[str, Row | None]) -> Rows:
    """The table with rows written over it."""
    return {key: row for key, row in {**table, **rows}.items() if row is not None}


def within(rows: Mapping[str, Value], p: str) -> dict[str, Value]:
    return {key: row for key, row in rows.items() if key[0] == p}


def newest_in_all(parts: Iterable[frozenset[DenseName]]) -> DenseName | None:
    """The newest dense slice that is announced in every partition."""
    return max(frozenset.intersection(*parts), default=None)
