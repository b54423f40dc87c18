"""Tells lookups that some time has passed: one thread for all of a client. Knows nothing of what they then do."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
import weakref
from typing import Any, Protocol


class Waiting(Protocol):
    def is_late(self, part: Any, /) -> None: ...


class Timers:
    """What is over before its time is forgotten, and not kept alive by being waited for."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, weakref.ref[Waiting], weakref.ref[Any]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = self._running = False

    def at(self, when: float, waiting: Waiting, part: object) -> None:
        """Calls `waiting.is_late(part)` at `when` (`time.monotonic`), unless one of them is gone by then."""
        with self._changed:
            if self._closed:
                return
            heapq.heappush(self._due, (when, next(self._numbers), weakref.ref(waiting), weakref.ref(part)))
            if not self._running:
                self._running = True
                threading.Thread(target=_run, args=(weakref.ref(self), self._changed), name="penstock-late", daemon=True).start()
            elif self._due[0][0] == when:
                self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify()

    def _take(self) -> tuple[list[tuple[Waiting | None, Any]], float]:
        """Those whose time has come, and how long the next one has; under the lock."""
        now, found = time.monotonic(), []
        while self._due and self._due[0][0] <= now:
            _, _, waiting, part = heapq.heappop(self._due)
            found.append((waiting(), part()))
        return found, self._due[0][0] - now if self._due else IDLE_S


IDLE_S = 1.0
"""How often a thread with nothing to wait for looks whether it is still wanted."""


def _run(timers: weakref.ref[Timers], changed: threading.Condition) -> None:
    while True:
        with changed:
            owner = timers()
            if owner is None or owner._closed:
                return
            late, pause = owner._take()
            del owner
            if not late:
                changed.wait(min(pause, IDLE_S))
                continue
        for waiting, part in late:
            if waiting is not None and part is not None:
                waiting.is_late(part)
        del late
