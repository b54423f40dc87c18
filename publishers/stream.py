"""One publisher's stream into the log, as steps: what was put goes out, what fails goes out again in a new term, what is quiet
beats. It has no thread and reads no clock; `Updates` drives it.

Two locks, always taken in this order: `line` orders what goes into the log, and is held while it waits for acknowledgements;
`gate` guards what is put meanwhile, and is never held while anything is waited for but the gate itself.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.catalog.catalog import Catalog
from penstock.pipeline.catalog.leases import take_term
from penstock.pipeline.core.coordination import DenseAnnouncement
from penstock.pipeline.core.errors import InvalidInput, OutcomeUnknown, PenstockError
from penstock.pipeline.core.ids import Partition, State
from penstock.pipeline.core.manifest import DenseInfo
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.core.schema import ModelSchema
from penstock.pipeline.core.times import NEVER, EventTime, WallTime, format_time

from .outbox import Outbox
from .sending import Sender
from .settings import RealtimeSettings

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 1.0
"""How long to leave a log alone that has just failed."""


@dataclass(slots=True)
class Stream:
    """`resumed_from` is the state that the trainer was loaded from; `sender` has opened its term."""

    catalog: Catalog
    sender: Sender
    settings: RealtimeSettings
    resumed_from: State
    through: EventTime
    dense: DenseInfo | None = None
    """The newest dense slice announced."""
    sent_through: EventTime = NEVER
    """`through` as of what was sent last: what records say, which must not overtake rows that wait."""
    terms_opened: int = 1
    line: threading.RLock = field(default_factory=threading.RLock)
    gate: threading.Condition = field(default_factory=threading.Condition)
    outbox: Outbox = field(init=False)
    _moving_bytes: int = 0
    _announced: int = 0
    _asked: EventTime = NEVER
    _taking: str = ""

    def __post_init__(self) -> None:
        self.sent_through = self.through
        self.outbox = self._empty_outbox()

    def _empty_outbox(self) -> Outbox:
        return Outbox(self.schema, self.sender.publisher, self._record_bytes())

    @property
    def schema(self) -> ModelSchema:
        return self.sender.schema

    def _record_bytes(self) -> int:
        return min(self.settings.record_bytes, self.sender.log.max_record_bytes)

    @property
    def queued_bytes(self) -> int:
        """Rows that wait or are not acknowledged."""
        return self.outbox.nbytes + self._moving_bytes + self.sender.nbytes

    @property
    def renewing(self) -> bool:
        """A new term was asked for, and whether it was had is not known."""
        return bool(self._taking)

    def adopt_schema(self, schema: ModelSchema) -> None:
        """New tables were born."""
        with self.line, self.gate:
            self.sender.schema = self.outbox.schema = schema

    # ---- event time ------------------------------------------------------------------------------------------------------

    def check_time(self, through: EventTime, now: WallTime) -> None:
        """`InvalidInput` when `through` lies further ahead of `now` than the skew allowed."""
        if through > now + self.settings.skew_us:
            raise InvalidInput(
                f"trained_through {format_time(through)} is more than max_event_skew ahead of the clock, {format_time(now)}",
                hint="one event with a wrong date must not ruin the watermark: leave it out, or raise realtime.max_event_skew",
            )

    def reserved(self, through: EventTime) -> bool:
        """Whether `through` may be learned: it is reserved in every partition, or needs no reservation."""
        return not self.settings.reserve_us or through <= max(self.through, min(self.sender.reserved))

    def reserve(self, through: EventTime, *, now: WallTime) -> None:
        """Asks for event time from `through` on in every partition, one step ahead; `line` is held."""
        if self.settings.reserve_us and through != NEVER and self._asked < through + self.settings.reserve_us // 2:
            self._asked = EventTime(through + self.settings.reserve_us)
            self.sender.send_everywhere(RecordKind.BEAT, self._asked, now=now)

    # ---- steps: `line` is held -------------------------------------------------------------------------------------------

    def step(self, *, now: WallTime) -> None:
        """Settles what was acknowledged, opens a new term if the fate of a record is unknown, and sends what waits."""
        self.sender.settle()
        if self.sender.broken is not None:
            self._renew(now)
        with self.gate:
            full, self.outbox = self.outbox, self._empty_outbox()
            self._moving_bytes, self.sent_through = full.nbytes, self.through
        for parcel in full.drain():
            self.sender.send(parcel, now=now)
        self.reserve(self.sent_through, now=now)
        with self.gate:
            self._moving_bytes = 0
            self.gate.notify_all()

    def beat(self, *, now: WallTime) -> None:
        """A sign of life in every partition that has been quiet; it carries the reservation."""
        reserves = max(self.sent_through, self._asked)
        for p, sent_at in enumerate(self.sender.sent_at):
            if now - sent_at >= self.settings.beat_us:
                self.sender.send_control(RecordKind.BEAT, Partition(p), reserves, now=now)

    def announce(self, dense: DenseInfo, *, now: WallTime) -> None:
        """Makes a dense slice that is in the store known in every partition."""
        self.dense, self._announced = dense, self._announced + 1
        announcement = DenseAnnouncement(number=self._announced, path=dense.path, bytes=dense.bytes, digest=dense.digest)
        text = msgspec.json.encode(announcement, order="sorted").decode()
        self.sender.send_everywhere(RecordKind.DENSE, self.sent_through, now=now, text=text)

    def drain(self, *, now: WallTime, deadline: float) -> None:
        """Sends what waits and returns once all is acknowledged, in new terms if need be. `OutcomeUnknown` when that has not
        happened by `deadline` (of `time.monotonic`), `Superseded` when another process has the publisher's id."""
        pause, trouble = FIRST_PAUSE_S, ""
        while True:
            try:
                self.step(now=now)
                while self.sender.broken is None and not self.sender.idle:
                    self.sender.wait(max(0.0, deadline - time.monotonic()))
            except PenstockError as error:
                if not error.retriable:
                    raise
                trouble = str(error)
            if self.sender.broken is None and self.sender.idle and not len(self.outbox):
                return
            trouble = str(self.sender.broken or trouble)
            if time.monotonic() + pause > deadline:
                raise OutcomeUnknown(f"publisher {self.sender.publisher}: not everything was acknowledged in time: {trouble}")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _renew(self, now: WallTime) -> None:
        """A new term, an opening record everywhere, and the rows of now of every key that is not acknowledged."""
        self._taking = self._taking or self.catalog.new_id()
        sender = self.sender
        taken = take_term(
            self.catalog, sender.publisher, timeline=sender.timeline, resumed_from=self.resumed_from,
            reserve_us=self.settings.reserve_us, now=now, after=sender.term, taken_id=self._taking,
        )  # fmt: skip
        self._taking = ""
        kept = sender.renew(taken.term)
        self.terms_opened += 1
        self._asked, self._announced = NEVER, 0
        with self.gate:
            self.outbox.restock([sent.parcel for sent in kept if sent.parcel is not None], self.through)
        sender.send_everywhere(RecordKind.OPEN, self.sent_through, now=now)
        if self.dense is not None and any(sent.kind == RecordKind.DENSE for sent in kept):
            self.announce(self.dense, now=now)

    def waiting_keys(self) -> dict[str, NDArray[np.int64]]:
        """What was put and is not in the log."""
        with self.gate:
            return {table: np.unique(np.concatenate(keys)) for table, keys in self.outbox.keys().items()}
