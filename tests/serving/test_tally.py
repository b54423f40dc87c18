"""Counters and latencies of a server."""

import numpy as np
import pytest

from penstock.serving.status import Latency
from penstock.serving.tally import Tally


def test_counters():
    tally = Tally()
    tally.answered(10, 0.001)
    tally.answered(20, 0.001)
    tally.was_shed()
    tally.was_refused()
    tally.has_failed()
    assert (tally.lookups, tally.keys, tally.shed, tally.refused, tally.failed) == (2, 30, 1, 1, 1)


def test_latencies_of_nothing():
    assert Tally().latency() == Latency(lookups=0, p50_ms=None, p99_ms=None)


@pytest.mark.parametrize("scale", [2e-6, 1e-3, 0.5])
def test_latencies_are_never_less_than_they_were_and_not_much_more(scale):
    tally, rng = Tally(), np.random.default_rng(3)
    took = rng.lognormal(0, 1, 2000) * scale
    for each in took:
        tally.answered(1, each)
    found = tally.latency()
    assert found.lookups == 2000
    for said, share in ((found.p50_ms, 50), (found.p99_ms, 99)):
        actual = 1000 * np.percentile(took, share, method="inverted_cdf")
        assert actual <= said * 1.0001
        assert said <= actual * 2 ** (1 / 8) * 1.0001


@pytest.mark.parametrize(("took", "said"), [(0.0, 0.001), (1e9, None)])
def test_extremes_are_counted(took, said):
    tally = Tally()
    tally.answered(1, took)
    found = tally.latency().p99_ms
    assert found == said if said is not None else found > 100_000


def test_only_the_last_minute_counts():
    now = [0.0]
    tally = Tally(lambda: now[0])
    tally.answered(1, 1.0)
    now[0] = 55.0
    tally.answered(1, 0.001)
    assert tally.latency().p99_ms > 900
    now[0] = 65.0
    found = tally.latency()
    assert found.lookups == 1
    assert found.p99_ms < 2
    now[0] = 200.0
    assert tally.latency().p50_ms is None
    assert tally.lookups == 2
