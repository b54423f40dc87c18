from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.pipeline.core.errors import InvalidInput, NaiveTime
from penstock.pipeline.core.times import (
    FIRST_US,
    LAST_US,
    NEVER,
    event_time,
    format_time,
    microseconds,
    parse_duration,
    parse_time,
)


def test_invariant_11_a_naive_time_is_refused_everywhere():
    for refused in (
        lambda: parse_time("2026-11-21T10:07:00"),
        lambda: microseconds(datetime(2026, 11, 21)),  # noqa: DTZ001
        lambda: event_time("2026-11-21"),
    ):
        with pytest.raises(NaiveTime, match="no offset"):
            refused()


def test_offsets_name_the_same_moment():
    assert parse_time("2026-11-21T12:07:00+02:00") == parse_time("2026-11-21T10:07:00Z") == 1795255620000000
    assert event_time(datetime(2026, 11, 21, 12, 7, tzinfo=timezone(timedelta(hours=2)))) == 1795255620000000


@given(st.datetimes(min_value=datetime(1800, 1, 1), max_value=datetime(3000, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_text_and_microseconds_are_inverse(moment):
    assert parse_time(format_time(microseconds(moment))) == microseconds(moment)


def test_what_no_calendar_holds_is_shown_all_the_same():
    assert format_time(FIRST_US) == "0001-01-01T00:00:00Z"
    assert format_time(LAST_US) == "9999-12-31T23:59:59.999999Z"
    assert format_time(LAST_US + 1) == f"{LAST_US + 1} us"
    assert format_time(2**63 - 1) == "9223372036854775807 us"


def test_never_is_older_than_anything():
    assert format_time(NEVER) == "never"
    assert parse_time("0001-01-01T00:00:00Z") > NEVER


@pytest.mark.parametrize(
    ("text", "us"),
    [("500us", 500), ("2ms", 2000), ("1.5s", 1_500_000), ("10m", 600_000_000), ("1h", 3_600_000_000), ("7d", 604_800_000_000)],
)
def test_durations(text, us):
    assert parse_duration(text) == us


@pytest.mark.parametrize("text", ["", "10", "m", "-5s", "5 weeks", "1e3s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(InvalidInput, match="not a duration"):
        parse_duration(text)
