"""Appends under way: what was queued, not yet acknowledged, and how many bytes of it there may be.

Both log adapters that acknowledge later (file, Kafka) keep one. It knows nothing of how records are written.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from threading import Condition

from ..core.errors import OutcomeUnknown, PenstockError, Unreachable
from ..core.ids import Offset

DEFAULT_BYTES = 64 << 20
"""Payload bytes that may be under way in one log object."""
FULL_TIMEOUT_S = 30.0
"""How long an append waits for room before it is refused."""


class QueuedAppend:
    """The `Pending` of a record that was queued; settled once, with its offset or with an error."""

    __slots__ = ("_backlog", "outcome", "since", "size", "ticket")

    def __init__(self, backlog: Backlog, ticket: int, size: int) -> None:
        self._backlog = backlog
        self.ticket = ticket
        self.size = size
        self.since = time.monotonic()
        self.outcome: Offset | PenstockError | None = None

    def done(self) -> bool:
        return self.outcome is not None

    def result(self, timeout_s: float) -> Offset:
        if self.outcome is None:
            self._backlog.wait_for(self, timeout_s)
        if self.outcome is None:
            raise OutcomeUnknown(f"a record of {self.size} bytes was not acknowledged within {timeout_s} s")
        if isinstance(self.outcome, PenstockError):
            raise self.outcome
        return self.outcome


class Backlog:
    """Bounded by payload bytes; one record is always let in, however large. Safe for any number of threads."""

    def __init__(self, limit_bytes: int = DEFAULT_BYTES) -> None:
        self._limit = limit_bytes
        self._changed = Condition()
        self._outstanding: dict[int, QueuedAppend] = {}
        self._bytes = 0
        self._tickets = 0

    @property
    def queued_bytes(self) -> int:
        """Payload bytes under way, for a metric."""
        return self._bytes

    @property
    def oldest_s(self) -> float:
        """For how long the oldest append has been under way; 0.0 when none is."""
        with self._changed:
            oldest = next(iter(self._outstanding.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest.since

    def enter(self, size: int, *, timeout_s: float = FULL_TIMEOUT_S) -> QueuedAppend:
        """Waits for room; `Unreachable` (nothing was queued) when there is none within `timeout_s`."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._bytes or self._bytes + size <= self._limit, timeout_s):
                raise Unreachable(f"the log has not kept up: {self._bytes} bytes are under way, the bound is {self._limit}")
            self._tickets += 1
            append = QueuedAppend(self, self._tickets, size)
            self._outstanding[append.ticket] = append
            self._bytes += size
            return append

    def settle(self, outcomes: Iterable[tuple[QueuedAppend, Offset | PenstockError]]) -> None:
        """Reports the outcome of appends; the first report of each counts."""
        with self._changed:
            for append, outcome in outcomes:
                if self._outstanding.pop(append.ticket, None) is not None:
                    self._bytes -= append.size
                    append.outcome = outcome
            self._changed.notify_all()

    def wait_for(self, append: QueuedAppend, timeout_s: float) -> None:
        with self._changed:
            self._changed.wait_for(append.done, timeout_s)

    def drain(self, timeout_s: float) -> None:
        """Waits until all that has entered so far is settled; `OutcomeUnknown` if it is not within `timeout_s`."""
        with self._changed:
            last = self._tickets
            if not self._changed.wait_for(lambda: next(iter(self._outstanding), last + 1) > last, timeout_s):
                waiting = sum(ticket <= last for ticket in self._outstanding)
                raise OutcomeUnknown(f"{waiting} records were not acknowledged within {timeout_s} s")

    def give_up(self, error: PenstockError) -> None:
        """Settles whatever is left with `error`."""
        with self._changed:
            left = list(self._outstanding.values())
        self.settle((append, error) for append in left)
