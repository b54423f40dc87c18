"""Who may look up now, who waits, and who is turned away: bounded in calls, in what is looked up at once, in what waits and for
how long, and in the bytes of answers. Knows no network and no table."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from penstock.pipeline.core.errors import Overloaded, Refused

GONE_S = 0.05
"""How often one that waits looks whether it is still waited for."""
BASE_KEYS = 1000
"""What a lookup costs beside its keys, in keys."""
LEARNED = 0.1
LONGEST_RETRY_S = 10.0
Shed = Literal["room", "deadline", "gone"]


def never() -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`calls`: open at once, however far they are; `running`: lookups at once; `waiting`: those for whom there is no room yet,
    none for longer than `wait_s`; `nbytes`: of the answers that are not sent yet, and so of a single one."""

    calls: int
    running: int
    waiting: int
    wait_s: float
    nbytes: int


@dataclass(slots=True, eq=False)
class Turn:
    """One lookup: first it holds a place among those that run, and until its end the bytes of its answer."""

    cost: int
    nbytes: int
    admission: Admission
    called: threading.Event = field(default_factory=threading.Event)
    began_at: float = 0.0
    runs: bool = False

    def looked_up(self) -> None:
        """What is left is to send the answer: the next one may look up."""
        self.admission.end_run(self)


class Admission:
    """First come, first served. `clock`: monotonic seconds."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self._clock = limits, clock
        self._changing = threading.Lock()
        self.shed: dict[Shed, int] = {"room": 0, "deadline": 0, "gone": 0}
        """Those turned away, by what they came short of; "gone": nobody waited for the answer any more."""
        self._queue: deque[Turn] = deque()
        self._calls = self._running = self._running_cost = self._nbytes = 0
        self._s_per_key = 0.0

    @property
    def calls(self) -> int:
        """Open now."""
        return self._calls

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @contextmanager
    def call(self) -> Iterator[None]:
        """A call from its first byte to its last; `Overloaded` if there are too many."""
        with self._changing:
            if self._calls >= self.limits.calls:
                raise self._overloaded("room", f"{self._calls} calls are open, which is the limit", self._expected_s(0))
            self._calls += 1
        try:
            yield
        finally:
            with self._changing:
                self._calls -= 1

    @contextmanager
    def turn(
        self, keys: int, nbytes: int, *, timeout_s: float | None = None, is_gone: Callable[[], bool] = never
    ) -> Iterator[Turn]:
        """Waits for its turn, and holds it. `Overloaded` at once if the queue is full or the turn would come too late for
        `timeout_s`, and when the time is over or the caller `is_gone`; `Refused` for an answer that is larger than all may be."""
        if nbytes > self.limits.nbytes:
            raise Refused(f"an answer of {nbytes} bytes, at most {self.limits.nbytes}", hint="ask for the keys in parts")
        turn = Turn(keys + BASE_KEYS, nbytes, self)
        self._wait(turn, self.limits.wait_s if timeout_s is None else min(timeout_s, self.limits.wait_s), is_gone)
        try:
            yield turn
        finally:
            self.end_run(turn)
            with self._changing:
                self._nbytes -= nbytes
                self._advance()

    def end_run(self, turn: Turn) -> None:
        """The lookup of this turn is done; doing it twice is doing it once."""
        with self._changing:
            if not turn.runs:
                return
            turn.runs = False
            self._running -= 1
            self._running_cost -= turn.cost
            took = (self._clock() - turn.began_at) / turn.cost
            self._s_per_key += LEARNED * (took - self._s_per_key) if self._s_per_key else took
            self._advance()

    def _wait(self, turn: Turn, patience_s: float, is_gone: Callable[[], bool]) -> None:
        until = self._clock() + patience_s
        with self._changing:
            if patience_s <= 0:
                raise self._overloaded("deadline", "its time was over when it came", 0.0)
            if not self._queue and self._fits(turn):
                self._begin(turn)
                return
            expected_s = self._expected_s(turn.cost)
            if len(self._queue) >= self.limits.waiting:
                raise self._overloaded("room", f"{len(self._queue)} lookups wait, which is the limit", expected_s)
            if expected_s > patience_s:
                said = f"it would take {expected_s:.3f} s, and {patience_s:.3f} s are left"
                raise self._overloaded("deadline", said, expected_s)
            self._queue.append(turn)
        while not turn.called.wait(max(0.0, min(GONE_S, until - self._clock()))):
            gone = is_gone()
            with self._changing:
                if turn.runs or not (gone or self._clock() >= until):
                    continue
                self._queue.remove(turn)
                self._advance()  # it may have been what the others waited behind
                said = "whoever asked has gone" if gone else f"no turn within {patience_s:.3f} s"
                raise self._overloaded("gone" if gone else "deadline", said, self._expected_s(0))

    def _fits(self, turn: Turn) -> bool:
        return self._running < self.limits.running and self._nbytes + turn.nbytes <= self.limits.nbytes

    def _begin(self, turn: Turn) -> None:
        turn.runs, turn.began_at = True, self._clock()
        self._running += 1
        self._running_cost += turn.cost
        self._nbytes += turn.nbytes
        turn.called.set()

    def _advance(self) -> None:
        while self._queue and self._fits(self._queue[0]):
            self._begin(self._queue.popleft())

    def _expected_s(self, cost: int) -> float:
        """Until one that comes now would be done: those that run are half done, on average."""
        ahead = self._running_cost / 2 + sum(turn.cost for turn in self._queue)
        return self._s_per_key * (ahead / self.limits.running + cost)

    def _overloaded(self, kind: Shed, why: str, retry_s: float) -> Overloaded:
        self.shed[kind] += 1
        return Overloaded(f"refused: {why}", retry_after_ms=max(1, round(1000 * min(retry_s, LONGEST_RETRY_S))))
