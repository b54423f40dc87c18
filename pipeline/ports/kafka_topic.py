"""The Kafka topic that a log is: its creation, the settings that it must have, and what the client's errors mean.

With `kafka_log` the only module that imports kafka. The identity of a log is the topic's own id (KIP-516), which a topic
made again under the same name does not share.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import kafka.errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from ..core.errors import Corrupt, InvalidInput, NotFound, Refused, Unreachable, Unsupported
from .log_checks import LogSettings

RECORD_OVERHEAD = 256
"""Bytes of `max.message.bytes` that are kept free for the batch and record headers."""
REQUEST_TIMEOUT_MS = 5_000
"""How long one request may take; what a hanging broker can add to any call."""
RECONNECT_MS = 500
"""The longest pause between attempts to connect, so that a broker that is back is found at once."""
_REQUIRED = {
    "cleanup.policy": "delete",
    "message.timestamp.type": "LogAppendTime",
    "unclean.leader.election.enable": "false",
}
_TEXT_OPTIONS = frozenset(
    (
        "security_protocol",
        "ssl_cafile",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_crlfile",
        "ssl_password",
        "ssl_ciphers",
        "sasl_mechanism",
        "sasl_plain_username",
        "sasl_plain_password",
        "sasl_kerberos_service_name",
        "sasl_kerberos_domain_name",
        "proxy_url",
    )
)
_SWITCH_OPTIONS = {"ssl_check_hostname": {"true": True, "false": False}}
_REFUSALS = (
    kafka_errors.AuthorizationError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.PolicyViolationError,
    kafka_errors.InvalidReplicationFactorError,
    kafka_errors.InvalidConfigurationError,
    kafka_errors.InvalidTopicError,
    kafka_errors.InvalidPartitionsError,
    kafka_errors.InvalidRequestError,
)


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


def connection_options(options: Mapping[str, str]) -> dict[str, str | bool]:
    """The security options as kafka-python takes them; `InvalidInput` names one that is unknown."""
    found: dict[str, str | bool] = {}
    for name, text in options.items():
        if name in _TEXT_OPTIONS:
            found[name] = text
        elif text.lower() in (choices := _SWITCH_OPTIONS.get(name, {})):
            found[name] = choices[text.lower()]
        else:
            known = ", ".join(sorted(_TEXT_OPTIONS | _SWITCH_OPTIONS.keys()))
            raise InvalidInput(f"Kafka option {name!r} is unknown or no {'/'.join(choices) or 'option'}", hint=f"one of {known}")
    return found


@contextmanager
def translated(subject: str) -> Iterator[None]:
    """Turns a client error inside into the error of the tree that it means; `subject` says what was asked of whom."""
    try:
        yield
    except _REFUSALS as error:
        raise Refused(f"{subject}: {error}") from error
    except kafka_errors.UnsupportedVersionError as error:
        raise Unsupported(f"{subject}: {error}") from error
    except kafka_errors.CorruptRecordError as error:
        raise Corrupt(f"{subject}: {error}") from error
    except kafka_errors.KafkaConfigurationError as error:
        raise InvalidInput(f"{subject}: {error}") from error
    except (kafka_errors.KafkaError, OSError) as error:
        raise Unreachable(f"{subject} does not answer: {error}") from error


def open_admin(servers: str, options: Mapping[str, str]) -> KafkaAdminClient:
    """A client for `host:port,…`; `Unreachable` when none of them answers."""
    with translated(f"kafka://{servers}"):
        return KafkaAdminClient(
            bootstrap_servers=servers.split(","),
            bootstrap_timeout_ms=REQUEST_TIMEOUT_MS,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            reconnect_backoff_max_ms=RECONNECT_MS,
            **connection_options(options),
        )


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


def check_topic(topic: Topic, *, partitions: int | None, settings: LogSettings | None) -> None:
    """`Refused` names the first setting under which the topic would lose, reorder or refuse updates."""
    if partitions is not None and topic.partitions != partitions:
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


def _boundless(text: str) -> float:
    """The number of a setting, -1 being more than any."""
    return float("inf") if text == "-1" else float(text)
