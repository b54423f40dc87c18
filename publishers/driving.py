"""The thin driver of a stream: one thread that sends what was put, and what every caller shares with it: room in the queue, the
barrier of a checkpoint, the touched keys, and the failure that ends everything. The only module here with a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.coordination import Claim
from penstock.pipeline.core.errors import (
    Fenced,
    InvalidInput,
    OutcomeUnknown,
    PenstockError,
    PositionGone,
    Superseded,
    Unreachable,
)
from penstock.pipeline.core.ids import PublisherId, Term
from penstock.pipeline.core.manifest import DenseInfo
from penstock.pipeline.core.times import EventTime, WallTime
from penstock.pipeline.environment import Environment

from .batches import chunks
from .judgement import check_terms, fenced, settled, standing
from .outbox import Parcel
from .settings import RealtimeSettings
from .stream import LONGEST_PAUSE_S, Stream
from .touched import TouchedKeys

IDLE_S, SETTLE_S = 0.05, 0.005
"""How often the driver looks round when nothing was put, and while something is on its way that has nothing waiting behind it."""
QUEUE_PARTS, PART_BYTES = 4, 4 << 20
"""A batch goes into the queue in parts of this share of it, and no larger than this, so that nobody waits long for the gate."""


class Driver:
    """`touched` is what was touched since the last checkpoint."""

    def __init__(self, environment: Environment, stream: Stream, touched: TouchedKeys, settings: RealtimeSettings) -> None:
        self.environment, self.stream, self.touched, self.settings = environment, stream, touched, settings
        self.rows_put = self.rows_shed = self.changes = 0
        self._failure: PenstockError | None = None
        self._ended = False
        self.held = False
        self._closing, self._wake = threading.Event(), threading.Event()
        self._checked_at, self._retry_at = self.now(), 0.0
        self._thread = threading.Thread(target=self._run, name=f"penstock-{stream.sender.publisher}", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> PenstockError | None:
        return self._failure

    def now(self) -> WallTime:
        return self.environment.clock()

    def deadline(self) -> float:
        return time.monotonic() + self.settings.flush_timeout_s

    # ---- what callers do -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises what has ended this publisher, if anything has."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        if self._ended:
            raise InvalidInput(f"publisher {self.stream.sender.publisher} is closed", hint="open it again, from a checkpoint")

    def accept(self, batch: Parcel) -> None:
        """Queues a batch; waits for room, or lets it be kept back for the next delta, as the overflow setting says."""
        limit, deadline = self.settings.queue_bytes, self.deadline()
        for part in chunks(batch, min(limit // QUEUE_PARTS, PART_BYTES)):
            with self.stream.gate:
                self._wait_while_held(deadline)
                if self.settings.overflow == "block":
                    self._wait_for_room(part, deadline)
                self.rows_put += len(part.keys)
                self.changes += 1
                if self.settings.overflow == "shed" and not self._has_room(part):
                    self._shed(part.table, part.keys)
                    continue
                self.touched.sent(part.table, part.keys)
                self.stream.outbox.add(replace(part, through=self.stream.through), now=self.now())
                for table, keys in self.stream.give_way().items():
                    self._shed(table, keys)
        self._wake.set()

    def _shed(self, table: str, keys: NDArray[np.int64]) -> None:
        self.touched.kept_back(table, keys)
        self.rows_shed += len(keys)

    def keep_back(self, table: str, keys: NDArray[np.int64]) -> None:
        """Touched, but not sent."""
        with self.stream.gate:
            self._wait_while_held(self.deadline())
            self.touched.kept_back(table, keys)
            self.changes += 1

    def advance(self, through: EventTime) -> None:
        """From now on events up to `through` are learned from; reserved in every partition before, where that is asked for."""
        self.check()
        self.stream.check_time(through, self.now())
        deadline = self.deadline()
        while not self.stream.reserved(through):
            self.wait_until_free(deadline)
            with self.stream.line:
                if not self.held:
                    self.stream.reserve(through, now=self.now())
                    self._until(deadline)
        with self.stream.gate:
            self.stream.through = max(self.stream.through, through)

    def announce(self, dense: DenseInfo) -> None:
        """A dense slice that is in the store takes effect behind everything put so far."""
        deadline, announced = self.deadline(), False
        while not announced:
            self.wait_until_free(deadline)
            with self.stream.line:
                if not self.held:
                    self.stream.pass_on(clock=self.now, deadline=deadline)
                    self.stream.announce(dense, now=self.now())
                    announced = True
        self._wake.set()

    def drain(self) -> None:
        """Everything put so far is acknowledged on return; `line` is held."""
        self.check()
        self._until(self.deadline())

    def _until(self, deadline: float) -> None:
        try:
            self.stream.drain(clock=self.now, deadline=deadline)
        except Superseded as error:
            self._fail(error)
            raise

    def judge(self, others: Mapping[PublisherId, Term]) -> None:
        """Returns if all that this publisher and the terms of `others` have had acknowledged counts; see `judgement`."""
        try:
            self._meet_log()
            settled(self._standing, pause=self._closing.wait, patience_s=self.settings.flush_timeout_s)
        except Fenced as error:
            raise self._fenced(error) from None
        except (Superseded, PositionGone) as error:
            self._fail(error)
            raise
        check_terms(self.environment.catalog, others)

    def _meet_log(self) -> None:
        """Returns once the log says that it is the one that was opened: one that was made anew under the same name acknowledges
        too, and nobody reads it."""
        deadline, pause = self.deadline(), IDLE_S
        while True:
            try:
                self.environment.log.flush(max(0.0, deadline - time.monotonic()))
                return
            except Unreachable as error:
                if time.monotonic() + pause > deadline or self._closing.wait(pause):
                    raise OutcomeUnknown(
                        f"publisher {self.stream.sender.publisher}: not known to be in the log: {error}"
                    ) from None
                pause = min(2 * pause, LONGEST_PAUSE_S)

    def _standing(self) -> Claim | None:
        """Asked under `line` only where a new term of its own may be half taken: else sending never waits for the store."""
        catalog, sender = self.environment.catalog, self.stream.sender
        if not self.stream.renewing:
            with suppress(Superseded):
                return standing(catalog, sender.timeline, {sender.publisher: sender.term})
        with self.stream.line:
            if self.stream.renewing:
                self.stream.step(now=self.now())
            return standing(catalog, sender.timeline, {sender.publisher: sender.term})

    def hold(self) -> None:
        """Lets every put wait, and returns once all before is acknowledged."""
        self.check()
        with self.stream.gate:
            if self.held:
                raise InvalidInput(f"publisher {self.stream.sender.publisher} is held for another checkpoint already")
            self.held = True
        try:
            with self.stream.line:
                self.drain()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        with self.stream.gate:
            self.held = False
            self.stream.gate.notify_all()

    def wait_until_free(self, deadline: float) -> None:
        """Returns once no checkpoint holds the publisher."""
        with self.stream.gate:
            self._wait_while_held(deadline)

    def close(self) -> None:
        """Ends the thread; what is not acknowledged may be lost, so flush before."""
        self._closing.set()
        self._wake.set()
        self._thread.join()

    # ---- inside ----------------------------------------------------------------------------------------------------------

    def _wait_while_held(self, deadline: float) -> None:
        if not self.stream.gate.wait_for(lambda: not self.held or self._over, max(0.0, deadline - time.monotonic())):
            raise Unreachable(
                f"publisher {self.stream.sender.publisher} has been held for a checkpoint for {self.settings.flush_timeout_s} s",
                hint="the publisher that marks it should have finished: release() after its mark()",
            )
        self.check()

    def _wait_for_room(self, part: Parcel, deadline: float) -> None:
        self._wake.set()
        if not self.stream.gate.wait_for(
            lambda: self._over or (self._has_room(part) and not self.held), max(0.0, deadline - time.monotonic())
        ):
            trouble = f": {self.stream.sender.broken}" if self.stream.sender.broken else ""
            raise Unreachable(
                f"publisher {self.stream.sender.publisher}: {self.stream.queued_bytes} bytes wait for the log, "
                f"queue_bytes is {self.settings.queue_bytes}{trouble}"
            )
        self.check()

    @property
    def _over(self) -> bool:
        return self._ended or self._failure is not None

    def _has_room(self, part: Parcel) -> bool:
        queued = self.stream.queued_bytes
        return not queued or queued + part.nbytes <= self.settings.queue_bytes

    def _fenced(self, error: Fenced) -> Fenced:
        """`error` with the rows that do not count, as the end of this publisher."""
        stream = self.stream
        found = fenced(self.environment.catalog, self.environment.log, stream.sender, error, waiting=stream.waiting_keys())
        self._fail(found)
        return found

    def _fail(self, error: PenstockError) -> None:
        with self.stream.gate:
            self._failure = self._failure or error
            self.stream.gate.notify_all()

    # ---- the thread ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        sent_at = 0.0
        try:
            while not self._closing.is_set() and self._failure is None:
                self._wake.wait(self._patience())
                self._wake.clear()
                waits = self.stream.waits
                # What comes after a pause goes at once; what comes soon after a send is gathered for a while.
                if waits and (early := sent_at + self.settings.linger_s - time.monotonic()) > 0:
                    self._closing.wait(early)
                self._turn()
                if waits:
                    sent_at = time.monotonic()
        except BaseException as error:
            self._failure = PenstockError(f"publisher {self.stream.sender.publisher}: its sender died: {error!r}")
            raise
        finally:
            with self.stream.gate:
                self._ended = True
                self.stream.gate.notify_all()

    def _patience(self) -> float:
        """Seconds until the next round, if nothing is put before."""
        if self.stream.waits:
            return max(0.001, self.settings.linger_s)
        return IDLE_S if self.stream.sender.idle else SETTLE_S

    def _turn(self) -> None:
        """One round: send, beat, and see whether it still counts. What can be tried again is, a little later."""
        if time.monotonic() < self._retry_at:
            return
        try:
            with self.stream.line:
                if self.held:
                    self.stream.sender.settle()
                else:
                    self.stream.step(now=self.now())
                    self.stream.beat(now=self.now())
            self._look()
        except Superseded as error:
            self._fail(error)
        except PenstockError as error:
            if not error.retriable:
                self._fail(error)
            self._retry_at = time.monotonic() + max(IDLE_S, self.settings.linger_s)

    def _look(self) -> None:
        """Once a beat: was the model rolled back, or the publisher's id taken over?"""
        now = self.now()
        if now - self._checked_at < self.settings.beat_us:
            return
        self._checked_at = now
        try:
            self._standing()
        except Fenced as error:
            self._fenced(error)
