"""One publisher's stream into the log, as steps: what was put goes out, what fails goes out again in a new term, what is quiet
beats. It has no thread and reads no clock; `Updates` drives it.

Two locks, always taken in this order: `line` orders what goes into the log, and is held while it waits for acknowledgements;
`gate` guards what is put meanwhile, and is never held while anything is waited for but the gate itself.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
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
from penstock.slicer.ordering import distinct

from .outbox import Keys, Outbox, Packing, Parcel, Waiting, keys_of, packed
from .ranking import Ranking
from .sending import Sender
from .settings import RealtimeSettings
from .window import Window

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 1.0
"""How long to leave a log alone that has just failed."""
EVERYTHING = 1 << 62
"""Room for all that waits."""
FOLD_PART = 8
"""From this part of the queue on what waits is folded into one step of time."""


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
    outbox: Waiting = field(init=False)
    window: Window = field(init=False)
    _ready: deque[Parcel] = field(default_factory=deque)
    """Folded and next to be sent; taken from the outbox, whose rows come after."""
    _ready_bytes: int = 0
    _ready_through: EventTime = NEVER
    """What comes behind the ready ones is sent at or after this."""
    _left_bytes: int = 0
    """What the window held back, as of the last step."""
    _least_fold: int = EVERYTHING
    """Bytes not folded into one step from which on they are, at first; what is ranked is folded as it comes."""
    _fold_from: int = EVERYTHING
    """The same by now."""
    _folded_bytes: int = 0
    """What of the ready ones is one step, each key once."""
    _folded_at: int = -1
    """What had been acknowledged when it was folded last."""
    _announced: int = 0
    _asked: EventTime = NEVER
    _taking: str = ""

    def __post_init__(self) -> None:
        self.sent_through = self._ready_through = self.through
        settings = self.settings
        self.window = Window(settings.queue_bytes)
        self.outbox, self._least_fold = Outbox(self.schema), settings.queue_bytes // FOLD_PART
        if settings.overflow == "priority":
            self.outbox = Ranking(self.schema, settings.queue_bytes, settings.max_staleness_us, settings.sketched_keys)
            self._least_fold = EVERYTHING
        self._fold_from = self._least_fold

    @property
    def schema(self) -> ModelSchema:
        return self.sender.schema

    @property
    def queued_bytes(self) -> int:
        """Rows that wait or are not acknowledged."""
        return self.outbox.nbytes + self._ready_bytes + self.sender.nbytes

    @property
    def waits(self) -> bool:
        """Whether something was put that was not handed to the log."""
        return bool(self.outbox.nbytes or self._ready_bytes)

    def give_way(self) -> Keys:
        """Drops from the outbox what there is no room for, and what could not be sent before it is stale, half of the log's speed
        being kept for what matters more; the keys dropped, per table. `gate` is held."""
        under_way = self._ready_bytes + self.sender.nbytes
        limit = self.settings.queue_bytes - under_way
        if self.window.rate:
            limit = min(limit, max(int(self.window.rate * self.settings.max_staleness_us / 2e6), self.window.nbytes))
        return self.outbox.give_way(limit)

    def weigh(self, table: str, keys: NDArray[np.int64], counts: NDArray[np.float64]) -> None:
        """How often keys were asked for; only what is ranked needs it."""
        with self.gate:
            if isinstance(self.outbox, Ranking):
                self.outbox.weigh(table, keys, counts)

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
        """Settles what was acknowledged, opens a new term if the fate of a record is unknown, and sends what waits, as far as the
        log keeps up."""
        self._settle(now)
        room = self.window.room(self.sender.nbytes)
        self._left_bytes = self.outbox.nbytes
        if not self._ready and room:
            self._fill(room, now=now)
        elif self.outbox.nbytes + self._ready_bytes - self._folded_bytes > max(self._due_to_fold, self._folded_bytes // 4):
            self._fold(now=now)
        self._send(room, now=now)

    @property
    def _due_to_fold(self) -> int:
        """While the log takes nothing at all, there is nothing better to do than to fold."""
        return self._least_fold if self.sender.acknowledged_bytes == self._folded_at else self._fold_from

    def _settle(self, now: WallTime) -> None:
        self.sender.settle()
        self.window.observe(self.sender.acknowledged_bytes, waiting=self._left_bytes + self._ready_bytes, now=now)
        if self.sender.broken is not None:
            self._renew(now)

    def _fill(self, room: int, *, now: WallTime) -> None:
        """Makes the oldest of what waits ready, behind what is ready: about `room` bytes, or a little more."""
        with self.gate:
            batches = self.outbox.take(room, through=self.through, now=now)
            self._ready_through, self._left_bytes = self.outbox.next_through(self.through), self.outbox.nbytes
            ready = len(self._ready)
            self._ready.extend(batches)
            self._ready_bytes += sum(batch.nbytes for batch in batches)
        self._make_ready(ready, packed(batches, self._packing()))

    def _fold(self, *, now: WallTime) -> None:
        """The log is far behind: what is ready and what waits become one step of time, each key once. Where few keys come again
        that is not worth doing soon again."""
        with self.gate:
            self._ready.extend(self.outbox.take(EVERYTHING, through=self.through, now=now))
            self._ready_through = self.through
            before = self._ready_bytes = sum(batch.nbytes for batch in self._ready)
        self._make_ready(0, packed(list(self._ready), self._packing(), most_steps=1))
        self._folded_bytes = self._ready_bytes
        self._folded_at, is_worth = self.sender.acknowledged_bytes, 4 * self._ready_bytes < 3 * before
        self._fold_from = self._least_fold if is_worth else 2 * before

    def _packing(self) -> Packing:
        record_bytes = min(self.settings.record_bytes, self.sender.log.max_record_bytes)
        return Packing(schema=self.schema, publisher=self.sender.publisher, record_bytes=record_bytes)

    def _make_ready(self, kept: int, parcels: list[Parcel]) -> None:
        with self.gate:
            self._ready = deque([*list(self._ready)[:kept], *parcels])
            self._ready_bytes = sum(parcel.nbytes for parcel in self._ready)
            self.gate.notify_all()

    def _send(self, room: int, *, now: WallTime) -> None:
        """Sends what is ready, up to the first parcel that has no room."""
        due: list[Parcel] = []
        with self.gate:
            while self._ready and room > 0:
                due.append(self._ready.popleft())
                room -= due[-1].nbytes
            if not self._ready:
                self.sent_through = self._ready_through
            elif due:
                self.sent_through = due[-1].through
        for parcel in due:
            self.sender.send(parcel, now=now)
        self.reserve(self.sent_through, now=now)
        with self.gate:
            self._ready_bytes -= sum(parcel.nbytes for parcel in due)
            self._folded_bytes = min(self._folded_bytes, self._ready_bytes)
            if not self.waits:
                self._fold_from = self._least_fold
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

    def drain(self, *, clock: Callable[[], WallTime], deadline: float) -> None:
        """Sends what waits by now and returns once all of it is acknowledged, in new terms if need be. `OutcomeUnknown` when that
        has not happened by `deadline` (of `time.monotonic`), `Superseded` when another process has the publisher's id."""
        pause, trouble = FIRST_PAUSE_S, ""
        while True:
            try:
                if self._emptied(clock, deadline):
                    return
            except PenstockError as error:
                if not error.retriable:
                    raise
                trouble = str(error)
            trouble = str(self.sender.broken or trouble)
            if time.monotonic() + pause > deadline:
                raise OutcomeUnknown(f"publisher {self.sender.publisher}: not everything was acknowledged in time: {trouble}")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def pass_on(self, *, clock: Callable[[], WallTime], deadline: float) -> bool:
        """Sends all that waits by now, as fast as the log keeps up; what is put meanwhile stays in the outbox. False when the
        fate of a record is not known, as of one that is not acknowledged by `deadline`; a later step sees to it."""
        self._settle(clock())
        self._fill(EVERYTHING, now=clock())
        self._send(self.window.room(self.sender.nbytes), now=clock())
        while self._ready and self.sender.broken is None:
            self.sender.wait(max(0.0, deadline - time.monotonic()))
            self.window.observe(self.sender.acknowledged_bytes, waiting=self._ready_bytes, now=clock())
            self._send(self.window.room(self.sender.nbytes), now=clock())
        return self.sender.broken is None

    def _emptied(self, clock: Callable[[], WallTime], deadline: float) -> bool:
        """Whether all that waits was acknowledged, in one term."""
        if not self.pass_on(clock=clock, deadline=deadline):
            return False
        while self.sender.broken is None and not self.sender.idle:
            self.sender.wait(max(0.0, deadline - time.monotonic()))
        return self.sender.broken is None

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
            again = [sent.parcel for sent in kept if sent.parcel is not None]
            self.outbox.restock([*again, *self._ready], through=self.through)
            self._ready.clear()
            self._ready_bytes = self._folded_bytes = 0
        sender.send_everywhere(RecordKind.OPEN, self.sent_through, now=now)
        if self.dense is not None and any(sent.kind == RecordKind.DENSE for sent in kept):
            self.announce(self.dense, now=now)

    def waiting_keys(self) -> Keys:
        """What was put and is not in the log."""
        with self.gate:
            found = [self.outbox.keys(), keys_of(self._ready)]
        tables = {table for keys in found for table in keys}
        return {table: distinct([keys[table] for keys in found if table in keys]) for table in tables}
