"""The replicas that a client knows: who they are, what they hold, how they do. One thread asks them, and where they are.

Knows no lookup: those who do tell it what became of a try. Who fails is asked how it does again, sooner or later, and answers no
lookup meanwhile where another one holds the same.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from penstock.pipeline.core.errors import InvalidInput, Overloaded, PenstockError, Unreachable
from penstock.pipeline.core.ids import Timeline, Version

from .connecting import Access, Connection
from .members import Member, backoff_s, conflict
from .rooms import Rooms
from .routing import Held, Rank, Routing, Segment, routed
from .sources import Listed, Source
from .status import Health

EVERY_S = 1.0
"""How often a replica is asked how it does."""
HEALTH_S = 2.0
"""How long it may take to tell."""
SETTLING_S = 0.25
"""How long the first lookup waits for those who do not answer at once, so that it asks the best there is."""
SOON_S = 0.25
"""How often it is asked who there is, while nobody is known."""
SLOW = 3
"""Losses after which others are preferred for a while."""
ASKING_AT_ONCE = 8


@dataclass(slots=True)
class Fleet:
    """`rooms`: for the answers of replicas that are near. `model`: the one whose replicas count; None: there is only one. Every
    method may be called from any thread."""

    source: Source
    access: Access
    rooms: Rooms | None
    model: str | None
    timeout_s: float
    timeline: Timeline = Timeline(0)
    """The newest that an answer came from."""

    _newest: Timeline = Timeline(0)
    """The newest that any replica said that it is on: those who are, are preferred."""
    _members: dict[str, Member] = field(default_factory=dict)
    _routing: Routing | None = None
    _untold: PenstockError | None = None
    """Why it is not known who there is."""
    _conflict: PenstockError | None = None
    """Why those who are known make no fleet."""
    _source_due_at: float = 0.0
    _looked_up_at: float = 0.0
    _closed: bool = False
    _watching: bool = False
    _has_begun: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _wake: threading.Event = field(default_factory=threading.Event)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(ASKING_AT_ONCE, "penstock-health"))
    __weakref__: object = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.source, Listed):
            self._name(self.source.urls())

    # ---- who there is --------------------------------------------------------------------------------------------------

    @property
    def urls(self) -> list[str]:
        """Those that would be asked first, first."""
        with self._changed:
            return [m.url for m in sorted(self._members.values(), key=self._rank)]

    def members(self) -> list[tuple[str, Health | None]]:
        """What each said of itself last."""
        with self._changed:
            return [(m.url, m.health) for m in self._members.values()]

    def known(self, until: float) -> list[Member]:
        """Those that would be asked first, first; waits until there are some. `Unreachable` when there are none by then."""
        self._watch()
        with self._changed:
            self._changed.wait_for(lambda: self._members or self._closed, max(0.0, until - time.monotonic()))
            if not self._members:
                raise self._why()
            return sorted(self._members.values(), key=self._rank)

    def routing(self, until: float) -> Routing:
        """How to reach every bucket; waits until that is known. Else `Unreachable`, or what the replicas say that is no good."""
        self._watch()
        with self._changed:
            if not self._has_begun:
                self._changed.wait_for(self._all_heard, min(SETTLING_S, max(0.0, until - time.monotonic())))
                self._has_begun = True
            while self._closed or self._conflict is not None or (found := self._routing) is None or found.missing:
                left = until - time.monotonic()
                if self._closed or self._conflict is not None or left <= 0 or self._is_hopeless():
                    raise self._why()
                self._look_up_soon()
                self._changed.wait(left)
            return found

    @property
    def is_settled(self) -> bool:
        """Whether each replica has been heard of by now, be it that it does not answer."""
        with self._changed:
            return self._all_heard()

    def _all_heard(self) -> bool:
        return all(m.health is not None or m.trouble is not None for m in self._members.values())

    def common_version(self, routing: Routing) -> Version:
        """The newest that somebody in every segment has come to, as far as is known."""
        with self._changed:
            return min(
                max((m.version for m in self._of(segment) if self._rank(m) < Rank.DOWN), default=Version(0))
                for segment in routing.segments
            )

    def _of(self, segment: Segment) -> list[Member]:
        return [self._members[url] for url in segment.urls if url in self._members]

    def _is_hopeless(self) -> bool:
        """Whether all have answered, and none with anything that time could mend."""
        troubles = [m.trouble for m in self._members.values()]
        return bool(troubles) and all(trouble is not None and not trouble.retriable for trouble in troubles)

    def _why(self) -> PenstockError:
        if self._closed:
            return InvalidInput("the client is closed")
        if self._conflict is not None:
            return self._conflict
        if self._is_hopeless():
            return next(m.trouble for m in self._members.values() if m.trouble is not None)
        said = [str(m.trouble) for m in self._members.values() if m.trouble is not None]
        if self._untold is not None:
            said.append(f"{self.source.name}: {self._untold}")
        if not self._members:
            return Unreachable("; ".join([f"{self.source.name} has no replica", *said]), hint="start one with `penstock replica`")
        ranges = [] if self._routing is None else self._routing.missing
        what = f"buckets {', '.join(f'{r.start}-{r.stop - 1}' for r in ranges)}" if ranges else "anything"
        return Unreachable("; ".join([f"no replica that answers holds {what}", *said]))

    # ---- whom to ask ---------------------------------------------------------------------------------------------------

    def take(self, segment: Segment, tried: Collection[str], worst: Rank) -> Member | None:
        """Of two drawn from the best that are left, the one with less to do; to be given back. None: nobody of that rank."""
        now = time.monotonic()
        with self._changed:
            left = [(self._rank(m), m.busy_until > now, m) for m in self._of(segment) if m.url not in tried]
            best = min((each[:2] for each in left), default=None)
            if best is None or best[0] > worst:
                return None
            equals = [m for *rank, m in left if tuple(rank) == best]
            drawn = equals if len(equals) < 3 else random.sample(equals, 2)
            random.shuffle(drawn)
            found = min(drawn, key=lambda m: m.outstanding)
            found.outstanding += 1
            return found

    def give_back(self, member: Member) -> None:
        with self._changed:
            member.outstanding -= 1

    def answered(self, member: Member, *, ready: bool, version: Version | None, timeline: Timeline) -> None:
        """What a reply said of the replica."""
        with self._changed:
            before = self._rank(member)
            member.trouble, member.failures, member.losses, member.heard, member.ready = None, 0, 0, True, ready
            member.version, member.timeline = version or member.version, max(timeline, member.timeline)
            self._learn(timeline)
            if self._rank(member) != before:
                self._route()

    def failed(self, member: Member, error: PenstockError) -> None:
        """A try brought nothing."""
        with self._changed:
            if isinstance(error, Overloaded):
                member.busy_until = time.monotonic() + error.retry_after_ms / 1e3
                return
            self._lost(member, error)
            member.due_at = min(member.due_at, time.monotonic() + backoff_s(member.failures - 1))
            self._look_up_soon()
            self._route()
        member.connection.renew()
        self._wake.set()

    def was_slow(self, member: Member) -> None:
        """Another one, which was asked later, has answered first."""
        with self._changed:
            member.losses += 1
            if member.losses >= SLOW:
                member.busy_until = time.monotonic() + backoff_s(member.losses)

    def seen(self, timeline: Timeline) -> Timeline:
        """An answer came from `timeline`; the newest that ever did."""
        with self._changed:
            if timeline > self.timeline:
                self.timeline = timeline
                self._learn(timeline)
            return self.timeline

    def hurry(self) -> None:
        """Asks all how they do, now."""
        with self._changed:
            for member in self._members.values():
                member.due_at = 0.0
        self._wake.set()

    def look_again(self, member: Member, *, timeout_s: float) -> bool:
        """Asks one how it does; whether it holds other buckets than was believed."""
        with self._changed:
            before = member.health
        self._told(member, lambda: member.connection.health(timeout_s=timeout_s))
        with self._changed:
            after = member.health
        return before is None or after is None or before.buckets != after.buckets

    def _rank(self, member: Member) -> Rank:
        if member.trouble is not None:
            return Rank.DOWN
        return Rank.LATE if not member.ready or (member.heard and member.timeline < self._newest) else Rank.GOOD

    def _learn(self, timeline: Timeline) -> None:
        if timeline > self._newest:
            self._newest = timeline
            self._route()

    def _lost(self, member: Member, error: PenstockError) -> None:
        member.trouble, member.failures = error, member.failures + 1

    def _route(self) -> None:
        told = [(m, m.health) for m in self._members.values() if m.health is not None]
        if self.model is not None:
            told = [(m, health) for m, health in told if health.model == self.model]
        self._conflict = conflict([health for _, health in told])
        if told:
            holders = [Held(m.url, range(*health.buckets), self._rank(m)) for m, health in told]
            self._routing = routed(holders, told[0][1].bucket_count)
        self._changed.notify_all()

    # ---- watching ------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        with self._changed:
            if self._watching or self._closed:
                return
            self._watching = True
        threading.Thread(target=_watching, args=(weakref.ref(self), self._wake), name="penstock-fleet", daemon=True).start()

    def tend(self) -> float:
        """Asks those who are due; seconds until the next are."""
        now = time.monotonic()
        if now >= self._source_due_at:
            self._look_up()
        with self._changed:
            due = [m for m in self._members.values() if not m.asking and m.due_at <= now]
            for member in due:
                member.asking = True
                self._pool.submit(self._ask, member)
            times = [self._source_due_at, *(m.due_at for m in self._members.values() if not m.asking)]
        return max(0.0, min(times) - time.monotonic())

    def _look_up_soon(self) -> None:
        """Something is missing: there may be others by now."""
        self._source_due_at = min(self._source_due_at, self._looked_up_at + SOON_S)
        self._wake.set()

    def _look_up(self) -> None:
        try:
            self.access.renew()
            found, self._untold = self.source.urls(), None
        except PenstockError as error:  # who was known stays known
            found, self._untold = [], error
        pause_s = self.source.every_s or EVERY_S
        with self._changed:
            self._looked_up_at = time.monotonic()
            self._source_due_at = self._looked_up_at + (pause_s if found else min(pause_s, EVERY_S if self._members else SOON_S))
            if found:
                for url in [u for u, m in self._members.items() if u not in found and m.trouble is not None]:
                    del self._members[url]
                self._name(found)
            self._route()

    def _name(self, urls: Collection[str]) -> None:
        for url in urls:
            if url not in self._members:
                self._members[url] = Member(Connection(url, self.access, self.rooms))

    def _ask(self, member: Member) -> None:
        self._told(member, lambda: member.connection.health(timeout_s=min(HEALTH_S, self.timeout_s)))

    def _told(self, member: Member, ask: Callable[[], Health]) -> None:
        try:
            health = ask()
        except PenstockError as error:
            with self._changed:
                self._lost(member, error)
                member.asking, member.due_at = False, time.monotonic() + backoff_s(member.failures)
                self._route()
            member.connection.renew()
            return
        with self._changed:
            member.health, member.trouble, member.ready, member.heard = health, None, health.ready, True
            member.version, member.timeline = Version(health.version), Timeline(health.timeline)
            member.asking, member.due_at = False, time.monotonic() + EVERY_S * random.uniform(0.75, 1.25)
            self._newest = max(self._newest, member.timeline)
            self._route()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            members = list(self._members.values())
            self._changed.notify_all()
        self._wake.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for member in members:
            member.connection.close()

    @property
    def is_closed(self) -> bool:
        return self._closed


def _watching(fleet: weakref.ref[Fleet], wake: threading.Event) -> None:
    """Until the fleet is closed, or nobody has it any more."""
    while (found := fleet()) is not None and not found.is_closed:
        try:
            pause = found.tend()
        except RuntimeError:
            return  # closed meanwhile: its pool takes nothing any more
        del found
        wake.wait(min(pause, EVERY_S))
        wake.clear()
