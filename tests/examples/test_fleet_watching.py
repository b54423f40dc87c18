"""What the fleet's story measures."""

from __future__ import annotations

import math

import pytest

from penstock.examples.fleet.trainer import Learned
from penstock.examples.fleet.watching import Journal, joined, quantile, update_lag
from penstock.pipeline.core.times import EventTime
from penstock.pipeline.exposition import METRICS_PATH, Exposition, MetricsServer

INF = float("inf")


def test_the_journal_gives_whole_lines_once(tmp_path):
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.read()
    assert journal.lines == []
    path.write_text('{"batch":1,"through":5,"is_poisoned":false}\n{"batch":2,"thr')
    journal.read()
    journal.read()
    assert journal.lines == [Learned(batch=1, through=EventTime(5), is_poisoned=False)]
    path.write_text(path.read_text() + 'ough":6,"is_poisoned":true}\n')
    journal.read()
    assert journal.lines[1:] == [Learned(batch=2, through=EventTime(6), is_poisoned=True)]


def test_quantiles_are_those_of_prometheus():
    buckets = {0.1: 50.0, 0.2: 90.0, 0.5: 100.0, INF: 100.0}
    assert quantile(buckets, 0.5) == pytest.approx(0.1)
    assert quantile(buckets, 0.7) == pytest.approx(0.15)
    assert quantile(buckets, 0.99) == pytest.approx(0.47)
    assert quantile({0.1: 1.0, INF: 4.0}, 0.9) == 0.1
    assert math.isnan(quantile({}, 0.5))
    assert math.isnan(quantile({0.1: 0.0, INF: 0.0}, 0.5))


def test_replicas_are_added_and_what_was_before_is_left_out():
    now, before = [{0.1: 5.0, INF: 9.0}, {INF: 3.0}], [{0.1: 1.0, INF: 2.0}, {}]
    assert joined(now, before) == {0.1: 4.0, INF: 10.0}


def test_lag_is_read_from_what_a_replica_tells():
    from prometheus_client.core import HistogramMetricFamily

    class Told:
        def collect(self):
            family = HistogramMetricFamily("penstock_update_lag_seconds", "Lag.", labels=["table"])
            family.add_metric(["a"], buckets=[("0.1", 1), ("+Inf", 4)], sum_value=1.0)
            family.add_metric(["b"], buckets=[("0.1", 2), ("+Inf", 2)], sum_value=1.0)
            yield family

    server = MetricsServer(Exposition(Told()), host="127.0.0.1", port=0)
    try:
        assert update_lag(f"http://127.0.0.1:{server.port}") == {0.1: 3.0, INF: 6.0}
    finally:
        server.close()
    assert METRICS_PATH == "/metrics"
