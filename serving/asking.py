"""One lookup under way: a try for each part, a second one where the first is slow or fails, and the first good answer wins.

Tries end in whatever thread they run in, which then does what comes next: the caller's thread runs one of them itself. Every
part ends, at the deadline at the latest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from penstock.pipeline.core.errors import PenstockError, Refused, Unreachable, VersionGone

from .connecting import Call, Rows
from .fleet import Fleet
from .hedging import Hedging, size_class
from .members import Member
from .routing import Rank, Segment
from .timers import Timers
from .wire import LookupReply, LookupRequest

GRACE_S = 0.25
"""How much longer than its own time limit a try may take to end."""
DOUBTFUL_SHARE = 4


class Behind(Unreachable):
    """The replica has not followed a rollback yet, or is about to: it answers, though not with what may be taken."""

    default_hint = "ask again a little later"


class Taken(Protocol):
    """Takes the rows of the answer that wins."""

    def __call__(self, found: Rows, /) -> None: ...


@dataclass(slots=True, kw_only=True, weakref_slot=True, eq=False)
class Part:
    """What one segment is asked for. `reply`: the answer that won, once there is one; else `errors` tells why not, by URL."""

    segment: Segment
    request: LookupRequest
    keys: pa.RecordBatch
    size: int
    take: Taken
    reply: LookupReply | None = None
    errors: dict[str, PenstockError] = field(default_factory=dict)
    fatal: BaseException | None = None
    """What no other replica would say otherwise."""
    ended: bool = False
    started_at: float = 0.0
    tried: set[str] = field(default_factory=set)
    running: dict[Call, Member] = field(default_factory=dict)
    second_best: tuple[LookupReply, Rows] | None = None
    is_taking: bool = False


@dataclass(slots=True, kw_only=True)
class Counters:
    """Of a client since it was made: `lookups` that were asked for, the `parts` they were split into, the `tries` these took,
    `hedges` among them (of which so many `won`), parts whose rows came in `shared` memory, `failures` of tries, and `rounds` that
    were begun again because not all could be answered, or not alike."""

    lookups: int = 0
    parts: int = 0
    tries: int = 0
    hedges: int = 0
    won: int = 0
    shared: int = 0
    failures: int = 0
    rounds: int = 0


@dataclass(slots=True, kw_only=True)
class Means:
    """What all lookups of a client share."""

    fleet: Fleet
    hedging: Hedging
    timers: Timers
    pool: Executor
    counters: Counters = field(default_factory=Counters)
    counting: threading.Lock = field(default_factory=threading.Lock)

    def count(self, **more: int) -> None:
        with self.counting:
            for name, by in more.items():
                setattr(self.counters, name, getattr(self.counters, name) + by)


class Asking:
    """Asks for some parts until `until` (`time.monotonic`)."""

    def __init__(self, means: Means, parts: Sequence[Part], *, until: float) -> None:
        self._means, self._parts, self._until = means, parts, until
        self._changing = threading.Lock()
        self._open = len(parts)
        self._done = threading.Event()

    def run(self) -> None:
        """Returns when every part has ended."""
        self._means.count(parts=len(self._parts))
        first = [call for part in self._parts if (call := self._begin(part)) is not None]
        for work in first[1:]:
            self._submit(work)
        if first:
            first[0]()
        if not self._done.wait(max(0.0, self._until - time.monotonic()) + GRACE_S):
            self.give_up(Unreachable("it took too long"))

    def give_up(self, error: PenstockError) -> None:
        """Ends what has not ended; from any thread."""
        with self._changing:
            calls = [call for part in self._parts for call in self._ended(part, error)]
        for call in calls:
            call.give_up()

    def _submit(self, work: Callable[[], None]) -> None:
        try:
            self._means.pool.submit(work)
        except RuntimeError:  # the pool takes nothing any more
            self.give_up(Unreachable("the client was closed"))

    def _end_all(self, part: Part, error: BaseException) -> None:
        """No answer to this part, so none at all."""
        with self._changing:
            part.fatal = part.fatal or error
        self.give_up(Unreachable("another part of the lookup has failed"))

    # ---- one part ------------------------------------------------------------------------------------------------------

    def _begin(self, part: Part) -> Callable[[], None] | None:
        part.started_at = time.monotonic()
        self._means.hedging.asked()
        with self._changing:
            work = self._next(part, Rank.DOWN)
            if work is None:
                self._ended(part, Unreachable(f"no replica holds buckets {part.segment.buckets}"))
        if work is not None and len(part.segment.urls) > 1:
            late = self._means.hedging.late_s(_kind(part))
            at = part.started_at + late if late is not None else self._half_time(part)
            self._means.timers.at(min(at, self._half_time(part)), self, part)
        return work

    def _half_time(self, part: Part) -> float:
        """When another one is asked in any case, while there is time."""
        return (part.started_at + self._until) / 2

    def is_late(self, part: Part) -> None:
        """The time that was set has come."""
        work, again = None, 0.0
        with self._changing:
            if part.ended or part.second_best is not None:
                return
            half_time = self._half_time(part)
            is_half_time = time.monotonic() >= half_time
            if is_half_time or self._means.hedging.may_ask_again():
                work = self._next(part, Rank.DOWN if is_half_time else Rank.GOOD)
            if not is_half_time:
                again = half_time
        if work is not None:
            self._submit(work)
        if again:
            self._means.timers.at(again, self, part)

    def _next(self, part: Part, worst: Rank) -> Callable[[], None] | None:
        """A try of a replica that was not tried, to be run; None: there is none."""
        member = self._means.fleet.take(part.segment, part.tried, worst)
        if member is None:
            return None
        call = Call()
        is_hedge = bool(part.running)
        part.tried.add(member.url)
        part.running[call] = member
        self._means.count(tries=1, hedges=int(is_hedge))
        return lambda: self._work(part, call, member, is_hedge)

    def _work(self, part: Part, call: Call, member: Member, is_hedge: bool) -> None:
        try:
            work = self._try(part, call, member, is_hedge)
        except BaseException as error:  # whatever it was, the caller must learn of it
            work = None
            self._end_all(part, error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._means.fleet.give_back(member)
        if work is not None:
            work()

    def _try(self, part: Part, call: Call, member: Member, is_hedge: bool) -> Callable[[], None] | None:
        try:
            left = self._until - time.monotonic()
            if member.trouble is not None:
                left /= DOUBTFUL_SHARE  # it may well not answer, and others may be back before the deadline
            reply, rows = member.connection.lookup(call, part.request, part.keys, timeout_s=left)
            self._judge(part, reply, member)
        except PenstockError as error:
            return self._failed(part, call, member, error)
        return self._answered(part, call, member, reply, rows, is_hedge)

    def _judge(self, part: Part, reply: LookupReply, member: Member) -> None:
        fleet = self._means.fleet
        fleet.answered(member, ready=reply.ready, version=reply.adopted, timeline=reply.newest or reply.timeline)
        if reply.newest is not None and reply.newest != reply.timeline:
            raise Behind(f"{member.url}: is on its way from timeline {reply.timeline} to {reply.newest}")
        if part.request.version is None and reply.timeline < (newest := fleet.timeline):
            raise Behind(f"{member.url}: is still on timeline {reply.timeline}, which a rollback has left for {newest}")

    def _answered(
        self, part: Part, call: Call, member: Member, reply: LookupReply, rows: Rows, is_hedge: bool
    ) -> Callable[[], None] | None:
        with self._changing:
            part.running.pop(call, None)
            if part.ended or part.is_taking:
                return None
            if not reply.ready:
                part.second_best = reply, rows
                if (better := self._next(part, Rank.GOOD)) is not None or part.running:
                    return better
            part.is_taking = True
        self._take(part, reply, rows, won=is_hedge)
        return None

    def _take(self, part: Part, reply: LookupReply, rows: Rows, *, won: bool) -> None:
        part.take(rows)
        self._means.hedging.answered(_kind(part), time.monotonic() - part.started_at)
        with self._changing:
            if not part.ended:
                part.reply = reply
            slower = list(part.running.values()) if won else []
            losers = self._ended(part, None)
        self._means.count(won=int(won), shared=int(bool(reply.in_room)))
        for member in slower:
            self._means.fleet.was_slow(member)
        for call in losers:
            call.give_up()

    def _failed(self, part: Part, call: Call, member: Member, error: PenstockError) -> Callable[[], None] | None:
        with self._changing:
            part.running.pop(call, None)
            if part.ended or call.given_up:
                return None  # it lost: that is no failure of the replica
        self._means.count(failures=1)
        if self._heed(part, member, error):
            self._end_all(part, error)
            return None
        with self._changing:
            part.errors[member.url] = error
            if part.ended or part.is_taking:
                return None
            work = self._next(part, Rank.DOWN) if time.monotonic() < self._until else None
            if work is not None or part.running:
                return work
            if part.second_best is None:
                self._ended(part, None)
                return None
            part.is_taking = True
        self._take(part, *part.second_best, won=False)
        return None

    def _heed(self, part: Part, member: Member, error: PenstockError) -> bool:
        """Tells the fleet. Whether any other replica would say the same."""
        if isinstance(error, VersionGone):
            return False
        if isinstance(error, Unreachable):
            if not isinstance(error, Behind):
                self._means.fleet.failed(member, error)
            return False
        if type(error) is Refused:  # it may hold other buckets than it did
            left = self._until - time.monotonic()
            return left <= 0 or not self._means.fleet.look_again(member, timeout_s=left)
        return True

    def _ended(self, part: Part, error: PenstockError | None) -> list[Call]:
        """The part has ended; the calls that are of no use any more."""
        if part.ended:
            return []
        part.ended = True
        if error is not None:
            part.errors[""] = error
        self._open -= 1
        if not self._open:
            self._done.set()
        calls = list(part.running)
        part.running.clear()
        return calls


def _kind(part: Part) -> tuple[int, int, int]:
    return part.segment.buckets.start, part.segment.buckets.stop, size_class(part.size)
