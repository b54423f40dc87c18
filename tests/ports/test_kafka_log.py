"""The Kafka log beyond the contract: what it asks of a topic, and a broker that dies, hangs and comes back."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from servers.kafka import KafkaBroker

from penstock.pipeline.config import Config, LogConfig, ModelConfig, RealtimeConfig, RecoveryConfig, StoreConfig
from penstock.pipeline.core.errors import InvalidInput, OutcomeUnknown, Refused, Unreachable
from penstock.pipeline.core.ids import Offset, Partition
from penstock.pipeline.environment import create_environment
from penstock.pipeline.ports.kafka_log import VERIFY_S, KafkaLog, open_kafka_log
from penstock.pipeline.ports.kafka_topic import RECORD_OVERHEAD
from penstock.pipeline.ports.log_checks import LogSettings

pytestmark = pytest.mark.kafka
P0 = Partition(0)
WAIT_S = 60.0
REQUIRED = {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime", "unclean.leader.election.enable": "false"}


@pytest.fixture
def admin(kafka_server: str) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=kafka_server)
    yield client
    client.close()


@pytest.fixture
def own_log(own_kafka: KafkaBroker) -> Iterator[KafkaLog]:
    log = open_kafka_log(own_kafka.bootstrap, "penstock-own", partitions=2, create=LogSettings())
    yield log
    own_kafka.resume()
    log.close()


def read_all(log: KafkaLog, count: int) -> list[bytes]:
    found: list[bytes] = []
    deadline = time.monotonic() + WAIT_S
    while len(found) < count:
        assert time.monotonic() < deadline
        try:
            polled = log.poll({P0: Offset(len(found))}, timeout_s=1.0)
        except Unreachable:
            continue
        found += [bytes(entry.payload) for entry in polled.get(P0, ())]
    return found


def test_a_topic_is_created_with_what_a_log_needs(kafka_server: str, admin: KafkaAdminClient) -> None:
    name = f"penstock-{uuid.uuid4().hex}"
    settings = LogSettings(max_record_bytes=100_000, retention_ms=3_600_000)
    log = open_kafka_log(kafka_server, name, partitions=5, create=settings)
    (topic,) = admin.describe_topics([name])
    assert len(topic["partitions"]) == log.partitions == 5
    assert log.identity == uuid.UUID(str(topic["topic_id"])).hex
    assert log.max_record_bytes == 100_000
    configs = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)], config_filter="all")["topic"][name]
    wanted = REQUIRED | {"retention.ms": "3600000", "min.insync.replicas": "1", "retention.bytes": "-1"}
    assert {key: configs[key]["value"] for key in wanted} == wanted
    log.close()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("cleanup.policy", "compact"),
        ("message.timestamp.type", "CreateTime"),
        ("unclean.leader.election.enable", "true"),
        ("retention.ms", "1000"),
        ("max.message.bytes", "50000"),
        ("min.insync.replicas", None),
    ],
)
def test_a_topic_that_would_lose_updates_is_refused_by_the_name_of_its_setting(
    kafka_server: str, admin: KafkaAdminClient, setting: str, value: str | None
) -> None:
    name = f"penstock-{uuid.uuid4().hex}"
    configs = REQUIRED | ({setting: value} if value else {})
    admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1, "configs": configs}}, wait_for_metadata=True)
    asked = LogSettings(max_record_bytes=50_001 - RECORD_OVERHEAD)
    if value is None:
        asked = LogSettings(max_record_bytes=1000, replication_factor=2, min_insync_replicas=2)
        setting = "replication factor"
    with pytest.raises(Refused, match=setting):
        open_kafka_log(kafka_server, name, partitions=1, create=asked)


def test_a_model_asks_of_its_topic_what_its_config_says(kafka_server: str, tmp_path: Path) -> None:
    """The window is kept twice, the largest record fits, and a topic that gives less is refused by name at the next start."""
    name = uuid.uuid4().hex
    settings = {"retention.ms": "7200000", "max.message.bytes": str((5 << 20) + RECORD_OVERHEAD), "min.insync.replicas": "1"}
    config = Config(
        store=StoreConfig(url=tmp_path.as_uri()), log=LogConfig(url=f"kafka://{kafka_server}", partitions=2),
        models={name: ModelConfig()}, realtime=RealtimeConfig(record_bytes=5 << 20), recovery=RecoveryConfig(window="1h"),
    )  # fmt: skip
    with create_environment(config, name) as env:
        assert env.log.max_record_bytes == 5 << 20
    client = KafkaAdminClient(bootstrap_servers=kafka_server)
    resource = ConfigResource(ConfigResourceType.TOPIC, f"penstock-{name}")
    found = client.describe_configs([resource], config_filter="all")["topic"][f"penstock-{name}"]
    client.close()
    assert {key: found[key]["value"] for key in settings} == settings
    longer = msgspec.structs.replace(config, recovery=RecoveryConfig(window="2h"))
    larger = msgspec.structs.replace(config, realtime=RealtimeConfig(record_bytes=6 << 20))
    safer = msgspec.structs.replace(config, log=msgspec.structs.replace(config.log, replicas=2, min_insync_replicas=2))
    for asked, setting in ((longer, "retention.ms"), (larger, "max.message.bytes"), (safer, "replication factor")):
        with pytest.raises(Refused, match=setting), create_environment(asked, name):
            raise AssertionError("it was opened")


def test_what_the_cluster_cannot_do_is_refused(kafka_server: str) -> None:
    settings = LogSettings(replication_factor=99)
    with pytest.raises(Refused, match="eplication"):
        open_kafka_log(kafka_server, f"penstock-{uuid.uuid4().hex}", partitions=1, create=settings)


@pytest.mark.slow
def test_a_killed_broker_loses_nothing_acknowledged_and_all_goes_on_when_it_is_back(
    own_kafka: KafkaBroker, own_log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.pipeline.ports.kafka_producing.DELIVERY_TIMEOUT_MS", 120_000)  # a busy machine starts it slowly
    sent = [b"%d" % number * 1000 for number in range(300)]
    pending = [own_log.append(P0, payload) for payload in sent[:200]]
    pending[99].result(WAIT_S)
    own_kafka.kill()
    pending += [own_log.append(P0, payload) for payload in sent[200:]]
    with pytest.raises(Unreachable, match="does not answer"):
        own_log.poll({P0: Offset(200)}, timeout_s=2 * VERIFY_S)
    with pytest.raises(Unreachable, match="does not answer"):
        own_log.end(P0)
    own_kafka.start()
    outcomes = [append.result(2 * WAIT_S) for append in pending]
    assert outcomes == list(range(300))
    assert read_all(own_log, 300) == sent
    own_log.flush(WAIT_S)
    assert own_log.end(P0) == 300


@pytest.mark.slow
def test_a_broker_that_was_away_for_longer_than_records_wait_takes_those_that_come_later(
    own_kafka: KafkaBroker, own_log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was on its way may be there or not; what is appended later is not held up by it."""
    monkeypatch.setattr("penstock.pipeline.ports.kafka_producing.DELIVERY_TIMEOUT_MS", 6000)
    assert own_log.append(P0, b"before").result(WAIT_S) == 0
    own_kafka.pause()
    pending = [own_log.append(Partition(number % 2), b"on its way %d" % number) for number in range(6)]
    with pytest.raises(OutcomeUnknown, match="not acknowledged within"):
        pending[0].result(0.5)
    own_kafka.kill()
    for append in pending:
        with pytest.raises(OutcomeUnknown, match="Expiring"):
            append.result(WAIT_S)
    with pytest.raises(Unreachable):
        own_log.append(P0, b"nobody is there")
    own_kafka.start()
    until, late = time.monotonic() + WAIT_S, None
    while late is None:
        assert time.monotonic() < until
        with suppress(Unreachable):
            late = own_log.append(P0, b"late").result(WAIT_S)
    assert read_all(own_log, late + 1)[0::late] == [b"before", b"late"]
    own_log.flush(WAIT_S)


@pytest.mark.slow
def test_a_record_that_a_hanging_broker_holds_is_unknown_until_it_answers(own_kafka: KafkaBroker, own_log: KafkaLog) -> None:
    assert own_log.append(P0, b"before").result(WAIT_S) == 0
    own_kafka.pause()
    pending = own_log.append(P0, b"held")
    with pytest.raises(OutcomeUnknown, match="not acknowledged within"):
        pending.result(0.3)
    with pytest.raises(OutcomeUnknown, match="1 records"):
        own_log.flush(0.1)
    assert not pending.done()
    own_kafka.resume()
    assert pending.result(WAIT_S) == 1
    assert read_all(own_log, 2) == [b"before", b"held"]


def test_whoever_is_behind_gets_all_in_order_wherever_it_goes_meanwhile(kafka_server: str) -> None:
    """More is fetched while it takes in what it has: that must never be taken for what it asks for next."""
    log = open_kafka_log(kafka_server, f"penstock-{uuid.uuid4().hex}", partitions=2, create=LogSettings())
    count, size = 60, 300_000
    pending = [log.append(Partition(p), bytes([n]) * size) for n in range(count) for p in (0, 1)]
    log.flush(WAIT_S)
    assert [append.result(0.0) for append in pending] == [n for n in range(count) for _ in (0, 1)]
    at, read, deadline = {P0: Offset(0), Partition(1): Offset(0)}, 0, time.monotonic() + WAIT_S
    jumps = {20: (P0, 3), 45: (Partition(1), 50), 70: (P0, 0), 90: (Partition(1), 0)}
    while any(offset < count for offset in at.values()) or jumps:
        assert time.monotonic() < deadline
        for partition, entries in log.poll(at, timeout_s=0.2).items():
            for entry in entries:
                assert entry.offset == at[partition]
                assert entry.payload == bytes([entry.offset]) * size
                at[partition], read = Offset(entry.offset + 1), read + 1
        for when in [when for when in jumps if when <= read]:
            partition, offset = jumps.pop(when)
            at[partition] = Offset(offset)
        if read > 100 and len(at) == 2 and at[P0] == count:
            del at[P0]
    log.close()
    with pytest.raises(InvalidInput, match="closed"):
        log.poll(at, timeout_s=0.0)
