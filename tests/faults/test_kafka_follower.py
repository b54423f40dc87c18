"""What may happen to a topic behind the back of those who use it: it is made again, cut off, grown, or it loses its end. A
replica says so, loads anew what it can, and serves what it has meanwhile."""

from __future__ import annotations

import logging
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewPartitions
from servers.kafka import KafkaBroker
from waiting import reached

from penstock.pipeline.config import Config, LogConfig, ModelConfig, RealtimeConfig, RecoveryConfig, StoreConfig
from penstock.pipeline.core.errors import NotFound, PositionGone, Refused, Unreachable
from penstock.pipeline.core.ids import Offset, Partition
from penstock.pipeline.environment import create_environment, open_environment
from penstock.publishers import FRESH, Delivery
from penstock.serving.replica import Replica

pytestmark = pytest.mark.kafka
KEYS = np.arange(60)
PARTITIONS = 2
WAIT_S = 90.0
HOUR_MS = 3_600_000
REQUIRED = {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime", "unclean.leader.election.enable": "false"}


def config_of(folder: Path, servers: str, model: str) -> Config:
    return Config(
        store=StoreConfig(url=(folder / "store").as_uri()), log=LogConfig(url=f"kafka://{servers}", partitions=PARTITIONS),
        models={model: ModelConfig(buckets=8)}, recovery=RecoveryConfig(window="1h"),
        realtime=RealtimeConfig(flush_timeout="10s"),
    )  # fmt: skip


@dataclass
class Shop:
    """A trainer and a replica, both in this process. `have`: the value of each key's row, as the trainer has them."""

    config: Config
    model: str
    servers: str
    delivery: Delivery
    replica: Replica
    have: dict[int, float] = field(default_factory=dict)

    @property
    def topic(self) -> str:
        return f"penstock-{self.model}"

    def put(self, value: float, keys: np.ndarray = KEYS) -> None:
        self.delivery.updates().put("item", keys, np.full((len(keys), 4), value, np.float32))
        self.delivery.updates().flush()
        self.have |= {int(key): value for key in keys}

    def deliver(self) -> int:
        sidecar = self.delivery.updates().mark()
        keys, values = np.array(list(self.have)), np.array(list(self.have.values()), np.float32)
        return self.delivery.publish_delta({"item": (keys, np.repeat(values[:, None], 4, axis=1))}, sidecar=sidecar).version

    def served(self, replica: Replica | None = None) -> dict[int, float]:
        answer = (replica or self.replica).lookup("item", KEYS)
        return {int(k): float(row[0]) for k, row, there in zip(KEYS, answer.rows, answer.found, strict=True) if there}

    def follows(self, replica: Replica | None = None) -> None:
        """Steps until what is served is what the trainer has."""
        self.steps(lambda: self.served(replica) == self.have, replica)

    def steps(self, done, replica: Replica | None = None) -> None:
        until = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < until, [
                (state.offset, state.alarm) for state in (replica or self.replica).follower.partitions.values()
            ]
            try:
                (replica or self.replica).refresh()
                (replica or self.replica).step(0.1)
            except Unreachable:
                continue

    @property
    def alarms(self) -> list[str]:
        return [state.alarm for state in self.replica.follower.partitions.values()]

    @property
    def reloaded(self) -> int:
        return sum(state.counters.reloaded for state in self.replica.follower.partitions.values())

    @contextmanager
    def admin(self) -> Iterator[KafkaAdminClient]:
        client = KafkaAdminClient(bootstrap_servers=self.servers)
        yield client
        client.close()

    def cut_off(self, *, keep: int) -> None:
        """All but the newest `keep` records of each partition are gone, as when retention ends."""
        log = self.delivery.environment.log
        for partition in map(Partition, range(PARTITIONS)):
            log.truncate(partition, Offset(log.end(partition) - keep))

    @contextmanager
    def newborn(self) -> Iterator[Replica]:
        with open_environment(self.config, self.model) as env:
            yield Replica(env, name="newborn")


@contextmanager
def opened(folder: Path, servers: str) -> Iterator[Shop]:
    """With one version and some updates behind it, which the replica has read."""
    model = f"shop-{uuid.uuid4().hex[:8]}"
    config = config_of(folder, servers, model)
    with Delivery.open(config, publisher="trainer", resume=FRESH, model=model) as delivery:
        first = dict.fromkeys(KEYS.tolist(), 1.0)
        delivery.updates().put("item", KEYS, np.ones((len(KEYS), 4), np.float32), trained_through="2026-11-01T10:00:00Z")
        delivery.publish_delta({"item": (KEYS, np.ones((len(KEYS), 4), np.float32))}, sidecar=delivery.updates().mark())
        with open_environment(config, model) as env:
            shop = Shop(config, model, servers, delivery, Replica(env, name="r"), first)
            shop.put(2.0, KEYS[:20])
            shop.follows()
            yield shop
            shop.replica.close()
        delivery.close()


@pytest.fixture
def shop(tmp_path: Path, kafka_server: str) -> Iterator[Shop]:
    with opened(tmp_path, kafka_server) as found:
        yield found


def test_a_position_that_is_cut_off_is_loaded_anew_from_the_chain(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.put(3.0, KEYS[10:40])
    shop.deliver()
    shop.put(4.0, KEYS[30:50])
    shop.cut_off(keep=2)
    shop.follows()
    assert shop.reloaded == PARTITIONS
    assert shop.alarms == [""] * PARTITIONS
    assert "is gone, the log begins at" in caplog.text
    with shop.newborn() as newborn:
        shop.follows(newborn)


def test_a_log_that_is_cut_off_beyond_the_newest_version_is_an_alarm_until_the_next_one(shop: Shop) -> None:
    shop.put(3.0, KEYS[10:40])
    served = shop.served()
    shop.cut_off(keep=0)
    shop.steps(lambda: all(shop.alarms))
    assert all("neither" in alarm and "has offsets" in alarm for alarm in shop.alarms)
    assert not shop.replica.ready(shop.replica.env.clock())
    assert shop.served() == served
    shop.put(4.0, KEYS[50:])
    shop.deliver()
    shop.follows()
    assert shop.alarms == [""] * PARTITIONS
    with shop.newborn() as newborn:
        shop.follows(newborn)


@pytest.mark.slow
def test_retention_that_somebody_shortens_takes_what_a_slow_replica_has_not_read(shop: Shop) -> None:
    """The broker itself removes the records; the next start of a trainer is told the setting's name."""
    shop.put(3.0, KEYS[10:40])
    shop.deliver()
    ends = {p: shop.delivery.environment.log.end(p) for p in map(Partition, range(PARTITIONS))}
    resource = ConfigResource(ConfigResourceType.TOPIC, shop.topic, configs={"retention.ms": "500", "segment.ms": "500"})
    with shop.admin() as admin:
        admin.alter_configs([resource])
        log, followed = shop.delivery.environment.log, shop.replica.follower.partitions
        reached(lambda: all(log.begin(p) > followed[p].offset for p in ends), seconds=WAIT_S)
    with pytest.raises(Refused, match="retention.ms is 500"), create_environment(shop.config, shop.model):
        raise AssertionError("it was opened")
    with shop.admin() as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, shop.topic, configs={"retention.ms": str(2 * HOUR_MS)})])
    shop.put(4.0, KEYS[50:])
    shop.deliver()
    shop.follows()
    assert shop.reloaded >= PARTITIONS
    with shop.newborn() as newborn:
        shop.follows(newborn)


def test_a_topic_that_is_made_again_stops_every_partition_while_the_rows_are_served_on(shop: Shop) -> None:
    served = shop.served()
    with shop.admin() as admin:
        admin.delete_topics([shop.topic])
        reached(lambda: shop.topic not in admin.list_topics(), seconds=WAIT_S)
        made = {"num_partitions": PARTITIONS, "replication_factor": 1, "configs": dict(REQUIRED)}
        admin.create_topics({shop.topic: made}, wait_for_metadata=True)
    shop.steps(lambda: all(shop.alarms))
    assert all("no longer the log" in alarm for alarm in shop.alarms)
    assert not shop.replica.ready(shop.replica.env.clock())
    assert shop.served() == served
    with pytest.raises(NotFound, match="counts its positions in log"), shop.newborn():
        raise AssertionError("it was opened")
    for call in (lambda: shop.put(9.0), shop.deliver):
        with pytest.raises(PositionGone, match="no longer the log"):
            call()
    assert shop.served() == served


def test_partitions_that_somebody_adds_stay_empty_and_stop_nobody(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    with shop.admin() as admin:
        admin.create_partitions({shop.topic: NewPartitions(total_count=PARTITIONS + 3)})
        reached(lambda: len(admin.describe_topics([shop.topic])[0]["partitions"]) == PARTITIONS + 3, seconds=WAIT_S)
    shop.put(3.0, KEYS[10:40])
    shop.deliver()
    shop.put(4.0, KEYS[30:50])
    shop.follows()
    assert (shop.alarms, shop.reloaded) == ([""] * PARTITIONS, 0)
    with shop.newborn() as newborn:
        shop.follows(newborn)
        assert newborn.env.log.partitions == PARTITIONS
        assert newborn.follower.refs.trunk == shop.replica.follower.refs.trunk
    assert f"has {PARTITIONS + 3} partitions, of which its log uses {PARTITIONS}" in caplog.text
    with create_environment(shop.config, shop.model) as env:
        assert env.log.partitions == PARTITIONS


@pytest.mark.slow
def test_a_log_that_lost_its_end_is_loaded_anew_and_made_good_by_the_next_delta(
    own_kafka: KafkaBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after an unclean change of leaders: the broker comes back with older data, below what was acknowledged and read."""
    with opened(tmp_path, own_kafka.bootstrap) as shop:
        own_kafka.stop()
        shutil.copytree(own_kafka.data, tmp_path / "older")
        own_kafka.start()
        for value in (3.0, 4.0, 5.0):
            shop.put(value, KEYS[10:40])
            shop.follows()
        before = shop.reloaded
        own_kafka.kill()
        shutil.rmtree(own_kafka.data)
        shutil.copytree(tmp_path / "older", own_kafka.data)
        own_kafka.start()
        shop.steps(lambda: shop.reloaded >= before + PARTITIONS)
        assert "does not exist, the log ends at" in caplog.text
        caplog.set_level(logging.INFO)
        shop.put(6.0, KEYS[35:])
        shop.deliver()
        shop.follows()
        assert shop.alarms == [""] * PARTITIONS
        with shop.newborn() as newborn:
            shop.follows(newborn)
