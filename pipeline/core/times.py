"""Time is a value. Event time and wall time are different types, both int microseconds since 1970-01-01T00:00:00Z.

Nothing here reads a clock; whoever needs `now` is given it. A time without an offset is refused.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NewType

from .errors import InvalidInput, NaiveTime

EventTime = NewType("EventTime", int)
"""When something happened in the world that the model learns from, in microseconds."""
WallTime = NewType("WallTime", int)
"""When something happened to Penstock, in microseconds."""

NEVER = EventTime(-(2**63))
"""The event time of a state that has learned from nothing."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""What a calendar of the years 1 to 9999 holds."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)\Z")
_UNIT_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


def microseconds(moment: datetime) -> int:
    """`moment` in microseconds; `NaiveTime` if it has no offset."""
    if moment.tzinfo is None:
        raise NaiveTime(f"time {moment.isoformat()} has no offset")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def parse_time(text: str) -> int:
    """Microseconds of an RFC 3339 time with an offset; `NaiveTime` without one, `InvalidInput` for anything else."""
    try:
        return microseconds(datetime.fromisoformat(text))
    except ValueError:
        raise InvalidInput(f"{text!r} is not a time", hint=NaiveTime.default_hint) from None


def event_time(value: EventTime | datetime | str) -> EventTime:
    """What a caller may give as an event time: microseconds, an aware datetime, or RFC 3339 text."""
    if isinstance(value, datetime):
        return EventTime(microseconds(value))
    return EventTime(parse_time(value)) if isinstance(value, str) else EventTime(int(value))


def format_time(us: int) -> str:
    """RFC 3339 in UTC with as many digits as needed; "never" for `NEVER`, a number and "us" for what no calendar holds."""
    if us == NEVER:
        return "never"
    if not FIRST_US <= us <= LAST_US:
        return f"{us} us"
    moment = _EPOCH + timedelta(microseconds=us)
    return moment.isoformat(timespec="microseconds" if us % 1_000_000 else "seconds").replace("+00:00", "Z")


def parse_duration(text: str) -> int:
    """Microseconds of a duration such as "500ms", "10m", "7d"."""
    if not (found := _DURATION.match(text.strip())):
        raise InvalidInput(f"{text!r} is not a duration", hint="a number and a unit: us, ms, s, m, h, d, as in 10m")
    return int(float(found[1]) * _UNIT_US[found[2]])
