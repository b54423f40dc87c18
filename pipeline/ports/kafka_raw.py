"""kafka-python alone, as a measure for what stands on it: the settings are those of the log, the rest is the client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from .kafka_options import connection_options
from .kafka_producing import BATCH_BYTES, sending
from .kafka_wire import connected, translated


@dataclass(frozen=True, slots=True)
class RawTopic:
    """`options` are kafka-python's security options; no message is larger than `most_bytes`."""

    servers: str
    name: str
    options: Mapping[str, str]
    most_bytes: int

    @property
    def url(self) -> str:
        return f"kafka://{self.servers}/{self.name}"

    @property
    def connection(self) -> dict[str, object]:
        return {"bootstrap_servers": self.servers.split(","), **connection_options(self.options), "metrics_enabled": False}


class RawSender:
    """Sends messages as the log does."""

    def __init__(self, topic: RawTopic) -> None:
        self._topic = topic
        with translated(topic.url):
            self._producer = connected(KafkaProducer, topic.connection, **sending(topic.most_bytes))

    def send(self, partition: int, message: bytes) -> None:
        with translated(self._topic.url):
            self._producer.send(self._topic.name, message, partition=partition)

    def close(self) -> None:
        with translated(self._topic.url):
            self._producer.flush(30)
        self._producer.close(timeout=5)


class RawReceiver:
    """Receives what comes after it was made."""

    def __init__(self, topic: RawTopic, *, partitions: int) -> None:
        self._topic, at = topic, [TopicPartition(topic.name, p) for p in range(partitions)]
        with translated(topic.url):
            self._consumer = connected(
                KafkaConsumer, topic.connection, group_id=None, enable_auto_commit=False, auto_offset_reset="none",
                max_partition_fetch_bytes=max(BATCH_BYTES, topic.most_bytes),
            )  # fmt: skip
            self._consumer.assign(at)
            for partition, offset in self._consumer.end_offsets(at).items():
                self._consumer.seek(partition, offset)

    def receive(self, timeout_s: float) -> dict[int, Sequence[bytes]]:
        """Messages by partition, as soon as there are any."""
        with translated(self._topic.url):
            found = self._consumer.poll(timeout_ms=timeout_s * 1000)
        return {at.partition: [record.value for record in records] for at, records in found.items()}

    def close(self) -> None:
        self._consumer.close()
