"""The small documents by which processes that never talk to each other agree: claims, terms, uploads, pins,
skips, presence, care.

Each carries an `id` that no other document has, so that whoever lost the reply to a put can tell its own from another's.
"""

from __future__ import annotations

from typing import Literal

from .documents import FORMAT, DigestVector, Document
from .ids import Offset, Partition, PublisherId, State, Term, Timeline, Version
from .manifest import Target
from .times import EventTime, WallTime


class Claim(Document, frozen=True, kw_only=True):
    """`timelines/<n>.json`: the lock and the intent of a rollback. Created once, never changed; decided by the refs: committed
    when a version of this timeline is, given up when the refs list it as abandoned. `cuts` are a forecast."""

    format: int = FORMAT
    id: str
    timeline: Timeline
    parent: Timeline
    target: Target
    of: Timeline
    """The timeline that the target is named on."""
    base: Version
    tables: tuple[str, ...] | None
    cuts: tuple[Offset, ...]
    who: str
    at: WallTime
    why: str


class PublisherTerm(Document, frozen=True, kw_only=True):
    """`publishers/<id>.json`: the newest term of a publisher; a swap takes the next one. `reserve_us`: how far ahead of what it
    has learned the publisher reserves event time; 0 promises that it learns from nobody else's rows or weights."""

    format: int = FORMAT
    id: str
    publisher: PublisherId
    term: Term
    timeline: Timeline
    resumed_from: State
    reserve_us: int
    opened_at: WallTime


class Upload(Document, frozen=True, kw_only=True):
    """`uploads/<id>.json`: owns the objects below `data/<id>/`. Retention swaps it to "expired" before it deletes; a commit
    looks here between reading the refs and swapping them: one of both wins."""

    format: int = FORMAT
    id: str
    purpose: str
    who: str
    status: Literal["open", "expired"]
    created_at: WallTime


class Pin(Document, frozen=True, kw_only=True):
    """`pins/<name>.json`: keeps a version and what it needs. With `until` it is a lease, as a bootstrap holds one."""

    format: int = FORMAT
    id: str
    name: str
    version: Version
    who: str
    at: WallTime
    why: str
    until: WallTime | None = None


class Skip(Document, frozen=True, kw_only=True):
    """`skips/<partition>-<offset>.json`: the decision that every reader passes over a record that cannot be read. Created once,
    never changed; kept as long as the log has the offset. `rule`: what is wrong with the record, whose `bytes` have the BLAKE2b
    `digest` (16 bytes, hex). What it held is not known."""

    format: int = FORMAT
    id: str
    log: str
    partition: Partition
    offset: Offset
    appended_at: WallTime
    bytes: int
    digest: str
    rule: str
    who: str
    at: WallTime
    why: str


Work = Literal["verify", "retention", "compact"]


class Care(Document, frozen=True, kw_only=True):
    """`care/<work>.json`: how the last run that looks after the model ended. `found`: what was wrong, "" where nothing was."""

    format: int = FORMAT
    id: str
    work: Work
    ok: bool
    found: str
    who: str
    at: WallTime


class PartitionPresence(Document, frozen=True, kw_only=True):
    """One partition as a replica has it. `alarm` says why it stands still, "" if it does not."""

    partition: int
    offset: Offset
    end: Offset
    version: Version
    timeline: Timeline
    lag_ms: float | None
    trained_through: EventTime
    gaps: int = 0
    dropped: int = 0
    reloaded: int = 0
    skipped: int = 0
    alarm: str = ""


class Presence(Document, frozen=True, kw_only=True):
    """`presence/<replica>.json`: a replica's leased report. `digests`: per table the digest of each bucket that it holds (zero
    elsewhere) at `version`, the last version that every partition has adopted. `digest` is None and `digests` empty where a delta
    corrected rows that had been written again since, and what they had been is not remembered."""

    format: int = FORMAT
    id: str
    replica: str
    address: str
    ref: str
    buckets: tuple[int, int]
    """First and one past the last bucket held."""
    version: Version
    state: State
    digest: str | None
    digests: dict[str, DigestVector]
    rows: dict[str, int]
    bytes: int
    partitions: tuple[PartitionPresence, ...]
    ready: bool
    reads_format: int = FORMAT
    at: WallTime
    until: WallTime

    def is_live(self, now: WallTime) -> bool:
        """Whether the lease of this report has not ended."""
        return self.until > now


class DenseAnnouncement(Document, frozen=True, kw_only=True):
    """The text of a dense record: announcement `number` of its publisher's term; the slice is already in the store."""

    number: int
    path: str
    bytes: int
    digest: str
