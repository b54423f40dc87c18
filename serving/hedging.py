"""When a slow answer is worth asking a second replica, and how often that may be. Pure: knows no clock, no network."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

REMEMBERED = 256
NEEDED = 20
"""Answers that must have come before it is known what is slow."""
LATE = 0.95
KINDS = 256
MOST_SAVED = 10.0


def size_class(keys: int) -> int:
    """Lookups within a factor of four of each other should take about as long."""
    return keys.bit_length() // 2


@dataclass(slots=True)
class Latencies:
    """What answers of one kind took lately, in seconds. `late` is sorted out anew only now and then."""

    taken: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    _late: float | None = None
    _since: int = 0

    def add(self, seconds: float) -> None:
        self.taken.append(seconds)
        self._since += 1
        if len(self.taken) >= NEEDED and (self._late is None or self._since >= NEEDED):
            self._late, self._since = sorted(self.taken)[int(LATE * len(self.taken))], 0

    @property
    def late(self) -> float | None:
        """After how many seconds all but a twentieth had come; None: that is not known yet."""
        return self._late


class Hedging:
    """`share`: second requests for each first one, at most; what is not used is saved, a little. Safe to share among threads."""

    def __init__(self, share: float, *, least_s: float = 0.001) -> None:
        self.share, self.least_s = share, least_s
        self._saved = 0.0
        self._kinds: dict[Hashable, Latencies] = {}
        self._changing = threading.Lock()

    def late_s(self, kind: Hashable) -> float | None:
        """After how many seconds an answer of this kind is late; None: never, as far as is known."""
        with self._changing:
            found = self._kinds.get(kind)
            late = None if found is None else found.late
        return None if late is None or not self.share else max(late, self.least_s)

    def asked(self) -> None:
        with self._changing:
            self._saved = min(self._saved + self.share, MOST_SAVED)

    def answered(self, kind: Hashable, seconds: float) -> None:
        with self._changing:
            if kind not in self._kinds and len(self._kinds) >= KINDS:
                self._kinds.clear()  # the ranges of shards have changed often: begin anew
            self._kinds.setdefault(kind, Latencies()).add(seconds)

    def may_ask_again(self) -> bool:
        """Whether the budget has room for one more; takes it."""
        with self._changing:
            if self._saved < 1:
                return False
            self._saved -= 1
            return True
