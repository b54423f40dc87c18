"""What a replica measures is what happened to it."""

import urllib.request

import pytest
from served import counted, published, step, world_of
from told_metrics import told, total

from penstock.pipeline.core.times import NEVER
from penstock.pipeline.metrics import REPLICA, Spread
from penstock.serving.measuring import Measured
from penstock.serving.metrics import ReplicaMetrics
from penstock.serving.partition import Arrival
from penstock.serving.probes import Probes
from penstock.serving.replica import Replica
from penstock.serving.server import Server


@pytest.fixture
def world():
    return world_of()


def test_rows_are_counted_by_tier_table_and_lag(world):
    writer = published(world)
    replica = Replica(world.environment(), name="r")
    before = told(ReplicaMetrics(replica))
    assert total(before, "penstock_applied_rows_total", tier="snapshot") == 24
    assert total(before, "penstock_applied_rows_total", tier="realtime") == 0
    assert not [name for name, _ in before if name.startswith("penstock_update_lag")]
    writer.put("item", 2, 1, 2, 3)
    writer.put("user", 2, deleted=(4,))
    world.now += 3_000_000
    step(replica)
    found = told(ReplicaMetrics(replica))
    assert total(found, "penstock_applied_rows_total", tier="realtime") == 4 == counted(replica, "rows")
    assert total(found, "penstock_applied_bytes_total", tier="realtime") == 3 * (8 + 8) + 8
    assert total(found, "penstock_update_lag_seconds_count", table="item") == 3
    assert total(found, "penstock_update_lag_seconds_count", table="user") == 1
    assert total(found, "penstock_update_lag_seconds_sum", table="item") == pytest.approx(9.0)
    assert total(found, "penstock_update_lag_seconds_bucket", table="item", le="2.0") == 0
    assert total(found, "penstock_update_lag_seconds_bucket", table="item", le="5.0") == 3
    assert total(found, "penstock_update_freshness_seconds_count") == 4
    assert total(found, "penstock_replica_versions_behind") == 0
    assert {dict(labels)["replica"] for name, labels in found if name.startswith("penstock_")} == {"r"}


def test_what_was_there_before_it_began_is_not_late(world):
    writer = published(world)
    writer.put("item", 2, 1, 2, 3)
    world.now += 3_000_000
    replica = Replica(world.environment(), name="r")
    step(replica)
    found = told(ReplicaMetrics(replica))
    assert total(found, "penstock_applied_rows_total", tier="realtime") == 3
    assert not [name for name, _ in found if name.startswith("penstock_update_lag")]


def test_versions_are_counted_by_how_they_were_adopted(world):
    writer = published(world)
    replica = Replica(world.environment(), name="r")
    writer.put("item", 2, 1, 2)
    checkpoint = world.mark(writer)
    step(replica)
    world.commit(checkpoint)
    metrics = ReplicaMetrics(replica)
    replica.refresh()
    replica._learn()
    assert total(told(metrics), "penstock_replica_versions_behind") == 1
    step(replica)
    found = told(metrics)
    assert total(found, "penstock_replica_adoptions_total", how="free") == len(replica.follower.partitions)
    assert total(found, "penstock_replica_version") == replica.version
    assert total(found, "penstock_replica_digest_disagreements_total") == 0
    assert total(found, "penstock_replica_table_rows", table="item") == replica.follower.tables["item"].row_count


def test_lookups_are_counted_and_timed(world):
    published(world)
    replica = Replica(world.environment(), name="r")
    server = Server(replica, host="127.0.0.1", port=0)
    try:
        server.tally.answered(100, 0.003)
        server.tally.answered(50, 0.5)
        server.tally.was_refused()
        server.admission.shed["deadline"] += 1
        found = told(ReplicaMetrics(replica, server))
    finally:
        server.drain()
    assert total(found, "penstock_lookups_total") == total(found, "penstock_lookup_seconds_count") == 2
    assert total(found, "penstock_lookup_keys_total") == 150
    assert total(found, "penstock_lookup_seconds_sum") == pytest.approx(0.503)
    assert total(found, "penstock_lookup_seconds_bucket", le="0.004096") == 1
    assert total(found, "penstock_lookups_shed_total", why="deadline") == 1
    assert total(found, "penstock_lookups_shed_total", why="room") == 0
    assert total(found, "penstock_lookups_refused_total") == 1


def test_every_metric_of_the_catalogue_is_told(world):
    writer = published(world)
    replica = Replica(world.environment(), name="r")
    writer.put("item", 2, 1)
    step(replica)
    server = Server(replica, host="127.0.0.1", port=0)
    try:
        names = {name for name, _ in told(ReplicaMetrics(replica, server))}
    finally:
        server.drain()
    assert {name for metric in REPLICA.metrics for name in metric.series} <= names


def test_the_probes_tell_them(world):
    published(world)
    replica = Replica(world.environment(), name="r")
    probes = Probes(host="127.0.0.1", port=0)
    try:
        url = f"http://127.0.0.1:{probes.port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert b"process_resident_memory_bytes" in (loading := answer.read())
        assert b"penstock_" not in loading
        probes.tell(lambda: None, ReplicaMetrics(replica))
        request = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
            assert answer.read().endswith(b"# EOF\n")
    finally:
        probes.close()


def test_a_spread_counts_what_lies_on_a_bound_below_it():
    spread = Spread((1.0, 2.0))
    for value, weight in ((0.0, 1), (1.0, 2), (1.5, 4), (2.0, 8), (9.0, 16)):
        spread.add(value, weight)
    assert spread.counts == [3, 12, 16]
    assert spread.total == 1.0 * 2 + 1.5 * 4 + 2.0 * 8 + 9.0 * 16


def test_rows_without_event_time_have_no_freshness():
    measured = Measured({}, {0: 5})
    measured.add(0, [Arrival("t", 3, 1_000_000, NEVER)], since=5, now=2_000_000)
    measured.add(0, [Arrival("t", 3, 1_000_000, NEVER)], since=4, now=2_000_000)
    assert sum(measured.lag["t", 0].counts) == 3
    assert measured.freshness == {}
    assert measured.lag["t", 0].total == 3.0
