"""What one log object has under way to its topic.

The client's idempotent producer never gets over a batch whose time ran out while its fate was unknown: it takes records and
sends none. So a producer that has lost its way is given up with all that it holds, and another one takes its place. What the old
one may still deliver is for the terms of the publishers to tell.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import kafka.errors as kafka_errors
from kafka import KafkaProducer
from kafka.producer.future import FutureRecordMetadata, RecordMetadata

from ..core.errors import InvalidInput, OutcomeUnknown, PenstockError, Refused
from ..core.ids import Offset, Partition
from .backlog import Backlog, QueuedAppend
from .kafka_topic import Topic
from .kafka_wire import REQUEST_TIMEOUT_MS, connected, translated

DELIVERY_TIMEOUT_MS = 30_000
"""How long the client tries to deliver a record before its outcome is unknown."""
BATCH_BYTES = 1 << 20


def sending(most_bytes: int) -> dict[str, Any]:
    """How a producer sends messages of at most so many bytes: at once, acknowledged by all, none twice."""
    return {
        "acks": "all", "enable_idempotence": True, "linger_ms": 0, "batch_size": min(BATCH_BYTES, most_bytes),
        "max_request_size": most_bytes,
    }  # fmt: skip


class Producing:
    """`options` as `connected` takes them. Safe for any number of threads."""

    def __init__(self, url: str, topic: Topic, options: Mapping[str, Any], *, backlog_bytes: int) -> None:
        self._url, self._topic, self._options = url, topic, options
        self._backlog = Backlog(backlog_bytes)
        self._opening = threading.Lock()
        self._producer: KafkaProducer | None = None
        self._closed = False

    def append(self, partition: Partition, payload: bytes) -> QueuedAppend:
        if self._backlog.oldest_s > 2 * DELIVERY_TIMEOUT_MS / 1000 and self._producer is not None:
            self._give_up(self._producer, "a record was neither delivered nor refused in time")
        producer = self._opened()
        pending = self._backlog.enter(len(payload))
        try:
            with translated(self._url):
                sent: FutureRecordMetadata = producer.send(self._topic.name, payload, partition=partition)
        except PenstockError as error:
            self._backlog.settle([(pending, error)])
            raise
        sent.add_callback(self._delivered, pending)
        sent.add_errback(self._undelivered, producer, pending)
        return pending

    def drain(self, timeout_s: float) -> None:
        """Waits until all that was appended so far is settled; `OutcomeUnknown` if it is not in time."""
        self._backlog.drain(timeout_s)

    def close(self) -> None:
        """Delivers what was queued, within the client's delivery timeout, then disconnects."""
        with suppress(OutcomeUnknown):
            self._backlog.drain(DELIVERY_TIMEOUT_MS / 1000)
        with self._opening:
            self._closed = True
            producer = self._producer
        if producer is not None:
            self._give_up(producer, "closed before the record was acknowledged")

    def _delivered(self, pending: QueuedAppend, metadata: RecordMetadata) -> None:
        self._backlog.settle([(pending, Offset(metadata.offset))])

    def _undelivered(self, producer: KafkaProducer, pending: QueuedAppend, error: Exception) -> None:
        """Only errors by which the broker refused the record itself are a refusal; after all others it may be there."""
        meaning: PenstockError
        if isinstance(error, (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)):
            meaning = InvalidInput(f"{self._url}: {error}")
        elif isinstance(error, kafka_errors.AuthorizationError):
            meaning = Refused(f"{self._url}: {error}")
        else:
            meaning = OutcomeUnknown(f"{self._url}: {error}")
        self._backlog.settle([(pending, meaning)])
        if isinstance(meaning, OutcomeUnknown):
            self._give_up(producer, str(error))

    def _give_up(self, producer: KafkaProducer, why: str) -> None:
        """Nothing more is sent by this producer as far as that can be told; what it holds may be in the log or not."""
        with self._opening:
            if self._producer is not producer:
                return
            self._producer = None
        self._backlog.give_up(OutcomeUnknown(f"{self._url}: {why}"))
        # This may be the producer's own thread, which cannot wait for its end.
        threading.Thread(target=_ended, args=(producer,), name="penstock-kafka-end", daemon=True).start()

    def _opened(self) -> KafkaProducer:
        with self._opening:
            if self._closed:
                raise InvalidInput(f"{self._url}: this log object is closed")
            if self._producer is None:
                with translated(self._url):
                    self._producer = connected(
                        KafkaProducer,
                        self._options,
                        **sending(self._topic.max_message_bytes),
                        delivery_timeout_ms=DELIVERY_TIMEOUT_MS,
                        max_block_ms=REQUEST_TIMEOUT_MS,
                        allow_auto_create_topics=False,
                        metrics_enabled=False,
                    )
            return self._producer


def _ended(producer: KafkaProducer) -> None:
    """Without this the client would wait for what it never sends."""
    producer._sender.force_close()
    producer._sender.join(1.0)
    try:
        producer.close(timeout=0)
    except kafka_errors.KafkaError:
        producer._closed = True  # else it closes once more where it is collected, and raises there
