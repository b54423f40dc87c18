"""The window against a log of a given speed and delay, in simulated time."""

import pytest

from penstock.publishers.window import FIRST_BYTES, LEAST_BYTES, MOST_BYTES, TARGET_US, Window


def run(window, *, rate, delay_us, seconds, step_us=2_000, busy=True):
    """A log that takes `rate` bytes a second, each `delay_us` after it was sent or later. Returns bytes acknowledged."""
    now, flying, acknowledged, credit = 0, [], 0, 0.0
    while now < seconds * 1_000_000:
        credit = min(credit + rate * step_us / 1e6, rate * 0.01 + sum(size for _, size in flying))
        while flying and flying[0][0] + delay_us <= now and flying[0][1] <= credit:
            _, size = flying.pop(0)
            credit -= size
            acknowledged += size
        window.observe(acknowledged, waiting=1 if busy else 0, now=now)
        under_way = sum(size for _, size in flying)
        for _ in range(window.room(under_way) // 10_000 if busy else 0):
            flying.append((now, 10_000))
        now += step_us
    return acknowledged


@pytest.mark.parametrize("rate", [10_000_000, 40_000_000, 200_000_000])
def test_it_is_what_the_log_takes_in_the_target_time(rate):
    window = Window(1 << 30)
    acknowledged = run(window, rate=rate, delay_us=4_000, seconds=3)
    assert acknowledged > 0.75 * rate * 3, "the log is kept busy"
    assert window.nbytes < 2.5 * rate * TARGET_US / 1e6, "and its queue is short"
    assert 0.6 * rate < window.rate < 1.5 * rate


def test_what_is_quiet_changes_nothing():
    window = Window(1 << 30)
    run(window, rate=1_000_000, delay_us=4_000, seconds=1, busy=False)
    assert (window.nbytes, window.rate) == (FIRST_BYTES, 0.0)


def test_a_log_that_was_away_counts_as_fast_as_before():
    window = Window(1 << 30)
    run(window, rate=40_000_000, delay_us=4_000, seconds=2)
    before = window.rate, window.nbytes
    window.observe(0, waiting=0, now=0)
    for now in range(0, 20_000_000, 2_000):
        window.observe(0, waiting=1, now=now)
    assert (window.rate, window.nbytes) == before


def test_invariant_14_it_is_bounded():
    assert Window(1000).nbytes == 500
    window = Window(1 << 30)
    run(window, rate=20_000, delay_us=4_000, seconds=20)
    assert window.nbytes == LEAST_BYTES
    run(window := Window(1 << 30), rate=5_000_000_000, delay_us=10_000, seconds=1)
    assert window.nbytes == MOST_BYTES


def test_when_it_is_full_nothing_goes_out_until_a_quarter_is_free():
    window = Window(1 << 30)
    assert window.room(0) == FIRST_BYTES
    assert window.room(FIRST_BYTES // 2) == FIRST_BYTES // 2
    assert window.room(FIRST_BYTES - 1000) == 0
    assert window.room(2 * FIRST_BYTES) == 0


def test_a_clock_that_goes_back_begins_anew():
    window = Window(1 << 30)
    window.observe(0, waiting=1, now=10 * TARGET_US)
    window.observe(1_000_000, waiting=1, now=0)
    window.observe(2_000_000, waiting=1, now=TARGET_US)
    assert window.rate == pytest.approx(1_000_000 / (TARGET_US / 1e6))
