"""How much may be under way to the log, so that the rest waits where it can still be folded and ranked. Pure; times are given.

What is under way is what the log takes in `TARGET_US`: less would leave it idle, more would only lengthen its queue. The speed is
measured while something waits, from what was acknowledged, as BBR does (Cardwell et al., 2016): a window that is too small for
the log is acknowledged faster than the target, and grows by that ratio.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.pipeline.core.times import WallTime

TARGET_US = 50_000
"""How long a record may be under way when the log is the bottleneck."""
STALL_US = 1_000_000
"""A log that acknowledged nothing for this long was away, not slow."""
LEAST_BYTES, FIRST_BYTES, MOST_BYTES = 256 << 10, 1 << 20, 32 << 20


@dataclass(slots=True)
class Window:
    """`queue_bytes` bounds it too. `nbytes` is the window; `rate` in bytes a second is what the log took when it was last the
    bottleneck, 0.0 if it never was."""

    queue_bytes: int
    nbytes: int = field(init=False)
    rate: float = 0.0
    _since: WallTime | None = None
    _acknowledged: int = 0

    def __post_init__(self) -> None:
        self.nbytes = self._bounded(FIRST_BYTES)

    def room(self, under_way: int) -> int:
        """Bytes that may go out now: none until a quarter is free, as many small records would cost more than a few large."""
        free = self.nbytes - under_way
        return max(free, 1) if not under_way else free if 4 * free >= self.nbytes else 0

    def observe(self, acknowledged: int, *, waiting: int, now: WallTime) -> None:
        """`acknowledged` bytes so far, of all times; `waiting` bytes are held back by the window."""
        if self._since is None or not waiting or now < self._since:
            self._since, self._acknowledged = (now if waiting else None), acknowledged
            return
        elapsed, taken = now - self._since, acknowledged - self._acknowledged
        if elapsed < TARGET_US or (not taken and elapsed < STALL_US):
            return
        self._since, self._acknowledged = now, acknowledged
        if taken:
            speed = taken * 1e6 / elapsed
            self.rate = self.rate + (speed - self.rate) / 4 if self.rate else speed
            self.nbytes = self._bounded(max(int(speed * TARGET_US / 1e6), self.nbytes // 2))

    def _bounded(self, nbytes: int) -> int:
        return max(1, min(max(nbytes, LEAST_BYTES), MOST_BYTES, self.queue_bytes // 2))
