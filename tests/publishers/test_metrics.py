"""What a publisher measures is what it did; and where it is told."""

import urllib.request

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from servers.s3 import free_port
from told_metrics import told, total

from penstock.pipeline.config import MetricsConfig, parse_config
from penstock.pipeline.core.errors import InvalidInput, Superseded, Unreachable
from penstock.pipeline.metrics import PUBLISHER
from penstock.publishers import FRESH, Delivery

CONFIG = """
[store]
url = "file://{folder}/store"
[log]
url = "file://{folder}/log"
partitions = 2
[models.shop]
buckets = 16
"""
DIM, KEYS = 4, np.arange(10)
ROWS = np.ones((len(KEYS), DIM), np.float32)


@pytest.fixture
def config(tmp_path):
    return parse_config(CONFIG.format(folder=tmp_path), "config")


def opened(config, resume=FRESH):
    return Delivery.open(config, publisher="trainer", resume=resume)


def test_rows_errors_and_versions_are_counted(config):
    with opened(config) as delivery:
        updates = delivery.updates()
        updates.put("item", KEYS, ROWS, trained_through="2026-11-01T10:00:00Z")
        with pytest.raises(InvalidInput):
            updates.put("item", KEYS, ROWS[:3])
        updates.flush()
        updates.delete("item", KEYS[:2])
        updates.flush()
        delivery.publish_snapshot({"item": (KEYS[2:], ROWS[2:])})
        updates.touch("item", KEYS[5:])
        found = told(delivery.metrics)
    assert total(found, "penstock_publisher_put_rows_total") == total(found, "penstock_publisher_acknowledged_rows_total") == 12
    assert total(found, "penstock_publisher_acknowledged_records_total") > 0
    assert total(found, "penstock_publisher_owed_rows") == 5
    assert total(found, "penstock_publisher_shed_rows_total") == 0
    assert total(found, "penstock_publisher_errors_total", call="put", error="InvalidInput") == 1
    assert total(found, "penstock_publisher_versions_total", tier="snapshot") == 1
    assert total(found, "penstock_publisher_terms_total") == 1
    assert total(found, "penstock_publisher_ended") == 0
    assert total(found, "penstock_publisher_freshness_seconds") > 0
    assert {name for metric in PUBLISHER.metrics for name in metric.series} <= {name for name, _ in found}


def test_its_end_is_told(config):
    with opened(config) as first:
        first.updates().put("item", KEYS, ROWS, trained_through="2026-11-01T10:00:00Z")
        sidecar = first.updates().mark()
        with opened(config, sidecar), pytest.raises(Superseded):
            first.updates().flush()
        found = told(first.metrics)
        assert total(found, "penstock_publisher_ended", why="Superseded") == total(found, "penstock_publisher_ended") == 1
        first.close()


def test_it_is_told_where_the_config_says_until_it_is_closed(config):
    port = free_port()
    listening = msgspec.structs.replace(config, metrics=MetricsConfig(listen=f"127.0.0.1:{port}"))
    url = f"http://127.0.0.1:{port}/metrics"
    with opened(listening) as delivery:
        delivery.updates().put("item", KEYS, ROWS, trained_through="2026-11-01T10:00:00Z")
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert b'penstock_publisher_put_rows_total{model="shop",publisher="trainer"} 10.0' in answer.read()
        with pytest.raises(Unreachable, match="cannot listen"):
            Delivery.open(listening, publisher="other", resume=FRESH)
    with pytest.raises(OSError):  # noqa: PT011 (refused, however the system says it)
        urllib.request.urlopen(url, timeout=10)


def test_a_place_that_is_none_is_refused_before_anything_is_born(config, tmp_path):
    with pytest.raises(InvalidInput, match=r"metrics\.listen"):
        opened(msgspec.structs.replace(config, metrics=MetricsConfig(listen="nowhere")))
    assert not (tmp_path / "store/shop").exists()


def test_it_goes_into_a_registry_of_the_trainer(config):
    registry = CollectorRegistry()
    with opened(config) as delivery:
        registry.register(delivery.metrics)
        assert b"penstock_publisher_put_rows_total" in generate_latest(registry)
