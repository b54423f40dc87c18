"""The Kafka topic that a log is: its creation, and the settings that it must have.

The identity of a log is the topic's own id (KIP-516), which a topic made again under the same name does not share.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import kafka.errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from ..core.errors import NotFound, Refused, Unsupported
from .kafka_wire import REQUEST_TIMEOUT_MS, open_admin, translated
from .log_checks import LogSettings

log = logging.getLogger(__name__)
PAUSE_S = 0.05
RECORD_OVERHEAD = 256
"""Bytes of `max.message.bytes` that are kept free for the batch and record headers."""
_REQUIRED = {
    "cleanup.policy": "delete",
    "message.timestamp.type": "LogAppendTime",
    "unclean.leader.election.enable": "false",
}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the cluster describes it."""

    name: str
    identity: str
    partitions: int
    replication_factor: int
    settings: Mapping[str, str]

    @property
    def max_message_bytes(self) -> int:
        return int(self.settings["max.message.bytes"])


def described_topic(admin: KafkaAdminClient, name: str) -> Topic:
    """`NotFound` when there is no such topic."""
    identity, partitions, replicas = topic_shape(admin, name)
    resource = ConfigResource(ConfigResourceType.TOPIC, name)
    described = admin.describe_configs([resource], config_filter="all")["topic"][name]
    settings = {key: str(config["value"]) for key, config in described.items()}
    return Topic(name, identity, partitions, replicas, settings)


def topic_shape(admin: KafkaAdminClient, name: str) -> tuple[str, int, int]:
    """Identity, partitions, and the smallest number of replicas of any; `NotFound` when there is no such topic."""
    (found,) = admin.describe_topics([name])
    if found["error_code"] == kafka_errors.UnknownTopicOrPartitionError.errno or not found["partitions"]:
        raise NotFound(f"there is no Kafka topic {name}")
    if found["error_code"]:
        raise kafka_errors.for_code(found["error_code"])(name)
    topic_id = uuid.UUID(str(found["topic_id"]))
    if not topic_id.int:
        raise Unsupported(f"topic {name} has no id: the brokers must be Kafka 2.8 or newer")
    return topic_id.hex, len(found["partitions"]), min(len(part["replica_nodes"]) for part in found["partitions"])


def create_topic(admin: KafkaAdminClient, name: str, *, partitions: int, settings: LogSettings) -> None:
    """Makes the topic and waits for its leaders; leaves one alone that is there already."""
    configs = {
        **_REQUIRED,
        "max.message.bytes": str(settings.max_record_bytes + RECORD_OVERHEAD),
        "min.insync.replicas": str(settings.min_insync_replicas),
        "retention.ms": str(settings.retention_ms),
        "retention.bytes": "-1",
    }
    wanted = {"num_partitions": partitions, "replication_factor": settings.replication_factor, "configs": configs}
    try:
        admin.create_topics({name: wanted}, timeout_ms=REQUEST_TIMEOUT_MS)
    except kafka_errors.TopicAlreadyExistsError:
        return
    admin.wait_for_topics([name], timeout_ms=REQUEST_TIMEOUT_MS)


def remove_topic(servers: str, name: str, options: Mapping[str, str]) -> None:
    """Deletes the topic with what is in it, and waits until the brokers know; one that is not there is left at that."""
    admin, deadline = open_admin(servers, options), time.monotonic() + REQUEST_TIMEOUT_MS / 1000
    try:
        with translated(f"kafka://{servers}/{name}"), suppress(kafka_errors.UnknownTopicOrPartitionError, NotFound):
            admin.delete_topics([name], timeout_ms=REQUEST_TIMEOUT_MS)
            while topic_shape(admin, name) and time.monotonic() < deadline:
                time.sleep(PAUSE_S)
    finally:
        admin.close()


def check_topic(topic: Topic, *, partitions: int | None, settings: LogSettings | None) -> None:
    """`Refused` names the first setting under which the topic would lose, reorder or refuse updates."""
    if partitions is not None and topic.partitions < partitions:
        raise Refused(f"topic {topic.name} was born with {topic.partitions} partitions, {partitions} were asked for")
    for name, wanted in _REQUIRED.items():
        if topic.settings[name] != wanted:
            raise Refused(f"topic {topic.name}: {name} is {topic.settings[name]}, it must be {wanted}")
    if settings is None:
        return
    if topic.replication_factor < settings.replication_factor:
        raise Refused(
            f"topic {topic.name}: replication factor is {topic.replication_factor}, {settings.replication_factor} was asked for"
        )
    at_least = {
        "max.message.bytes": settings.max_record_bytes + RECORD_OVERHEAD,
        "min.insync.replicas": settings.min_insync_replicas,
        "retention.ms": settings.retention_ms,
    }
    for name, least in at_least.items():
        if _boundless(topic.settings[name]) < _boundless(str(least)):
            raise Refused(f"topic {topic.name}: {name} is {topic.settings[name]}, {least} were asked for")


def used_of(topic: Topic, partitions: int | None) -> Topic:
    """The topic with the partitions that the log has. Those that somebody has added stay empty, as each record says where it
    goes; and none can be taken away, so to refuse the topic would help nobody."""
    if partitions is None or topic.partitions == partitions:
        return topic
    log.warning("topic %s has %d partitions, of which its log uses %d", topic.name, topic.partitions, partitions)
    return replace(topic, partitions=partitions)


def _boundless(text: str) -> float:
    """The number of a setting, -1 being more than any."""
    return float("inf") if text == "-1" else float(text)
