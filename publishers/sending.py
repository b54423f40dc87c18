"""One publisher's records on their way into the log: numbered within its term, kept until they are acknowledged.

A step function: whoever calls it says what time it is, and one thread calls it at a time. It never decides that a record got
lost; it says that it does not know (`broken`), and its owner opens a new term, in which all that is kept goes out again with
the rows of now.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from penstock.pipeline.core.errors import PenstockError
from penstock.pipeline.core.ids import Offset, Partition, Position, Positions, PublisherId, Reader, Seq, Term, Timeline
from penstock.pipeline.core.records import NO_KEYS, NO_ROWS, Record, RecordKind, encode_record
from penstock.pipeline.core.schema import ModelSchema
from penstock.pipeline.core.times import NEVER, EventTime, WallTime
from penstock.pipeline.ports.log import Pending, UpdateLog

from .outbox import OVERHEAD_BYTES, Parcel


@dataclass(frozen=True, slots=True)
class NotAppended:
    """The pending result of an append that the log refused at once."""

    error: PenstockError

    def done(self) -> bool:
        return True

    def result(self, timeout_s: float) -> Offset:
        raise self.error


@dataclass(slots=True, eq=False)
class Sent:
    """A record that was handed to the log. `parcel` is what it holds, None where it holds no rows."""

    pending: Pending
    parcel: Parcel | None
    kind: RecordKind
    through: EventTime

    @property
    def nbytes(self) -> int:
        return self.parcel.nbytes if self.parcel else OVERHEAD_BYTES


@dataclass(slots=True)
class Sender:
    """Per partition what was sent, oldest first, from the first record on that is not acknowledged: later ones are kept too, so
    that what is sent again is the newest row of a key and never an older one."""

    log: UpdateLog
    schema: ModelSchema
    publisher: PublisherId
    timeline: Timeline
    term: Term
    nbytes: int = 0
    broken: PenstockError | None = None
    """Why the fate of a record is not known; nothing more is sent in this term."""
    seqs: list[int] = field(default_factory=list)
    ends: list[Offset] = field(default_factory=list)
    """Per partition one past the newest record of this publisher that is acknowledged."""
    sent_at: list[WallTime] = field(default_factory=list)
    reserved: list[EventTime] = field(default_factory=list)
    """Per partition the newest time that an acknowledged beat has reserved; it outlives the term, as every record counts."""
    records: int = 0
    rows: int = 0
    acknowledged_bytes: int = 0
    """Acknowledged so far."""
    _kept: list[deque[Sent]] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = self.schema.partitions
        self._kept = [deque() for _ in range(count)]
        self.ends, self.reserved = [Offset(0)] * count, [NEVER] * count
        self._begin_term()

    def _begin_term(self) -> None:
        count = self.schema.partitions
        self.seqs, self.sent_at = [-1] * count, [WallTime(0)] * count
        self.broken = None

    @property
    def idle(self) -> bool:
        """Nothing is under way."""
        return not any(self._kept)

    def send(self, parcel: Parcel, *, now: WallTime) -> None:
        record = self._record(RecordKind.ROWS, parcel.partition, parcel.through, now, parcel.table, parcel)
        self._append(record, parcel)

    def send_control(self, kind: RecordKind, partition: Partition, through: EventTime, *, now: WallTime, text: str = "") -> Sent:
        """A record without rows, into one partition."""
        return self._append(self._record(kind, partition, through, now, text, None), None)

    def send_everywhere(self, kind: RecordKind, through: EventTime, *, now: WallTime, text: str = "") -> list[Sent]:
        """A record without rows, into every partition."""
        return [self.send_control(kind, Partition(p), through, now=now, text=text) for p in range(self.schema.partitions)]

    def _record(
        self, kind: RecordKind, partition: Partition, through: EventTime, now: WallTime, text: str, parcel: Parcel | None
    ) -> Record:
        self.seqs[partition] += 1
        self.sent_at[partition] = now
        return Record(
            kind=kind, timeline=self.timeline, partition=partition, publisher=self.publisher, term=self.term,
            seq=Seq(self.seqs[partition]), trained_through=through, written_at=now, text=text,
            keys=NO_KEYS if parcel is None else parcel.keys, rows=NO_ROWS if parcel is None else parcel.rows,
        )  # fmt: skip

    def _append(self, record: Record, parcel: Parcel | None) -> Sent:
        pending: Pending
        if self.broken is not None:
            pending = NotAppended(self.broken)
        else:
            try:
                pending = self.log.append(record.partition, encode_record(record, self.schema.raw_id))
            except PenstockError as error:
                # Its number is taken, so the numbers have a hole from here on, or the record may have got through after all.
                self.broken, pending = error, NotAppended(error)
        sent = Sent(pending, parcel, record.kind, record.trained_through)
        self._kept[record.partition].append(sent)
        self.nbytes += sent.nbytes
        return sent

    def settle(self) -> None:
        """Lets go of what is acknowledged by now; a record that failed makes the sender `broken`. Partitions acknowledge in
        order, so it looks no further than the first record that is under way: it costs what it lets go of."""
        for p, kept in enumerate(self._kept):
            while kept and kept[0].pending.done():
                try:
                    offset = kept[0].pending.result(0.0)
                except PenstockError as error:
                    self.broken = self.broken or error
                    break
                self._acknowledged(Partition(p), kept.popleft(), offset)

    def wait(self, timeout_s: float) -> None:
        """Waits for the oldest record of a partition, then settles. A record that is not acknowledged in time has failed."""
        oldest = next((kept[0] for kept in self._kept if kept), None)
        if oldest is not None:
            try:
                oldest.pending.result(timeout_s)
            except PenstockError as error:
                self.broken = self.broken or error
            else:
                self.settle()

    def _acknowledged(self, partition: Partition, sent: Sent, offset: Offset) -> None:
        self.nbytes -= sent.nbytes
        self.ends[partition] = Offset(offset + 1)
        self.records += 1
        self.acknowledged_bytes += sent.nbytes
        if sent.parcel is not None:
            self.rows += len(sent.parcel.keys)
        if sent.kind == RecordKind.BEAT:
            self.reserved[partition] = max(self.reserved[partition], sent.through)

    def renew(self, term: Term) -> list[Sent]:
        """Goes on in a new term. Returns what is kept, oldest first in each partition: it is to be sent again."""
        kept = [sent for kept in self._kept for sent in kept]
        for sent_before in self._kept:
            sent_before.clear()
        self.nbytes, self.term = 0, term
        self._begin_term()
        return kept

    def positions(self) -> Positions:
        """Just past the newest acknowledged record of this publisher in each partition."""
        return Positions(
            self.log.identity,
            tuple(
                Position(end, {self.publisher: Reader(self.term, Seq(seq))})
                for end, seq in zip(self.ends, self.seqs, strict=True)
            ),
        )
