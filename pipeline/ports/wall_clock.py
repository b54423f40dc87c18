"""The system clock, read at the edge. Whatever takes a clock takes it as a value and defaults to this one."""

from __future__ import annotations

import time

from ..core.times import WallTime


def system_clock() -> WallTime:
    """Now, in microseconds since 1970-01-01T00:00:00Z."""
    return WallTime(time.time_ns() // 1_000)
