"""The update log in a Kafka topic, one Kafka partition a partition.

No consumer group and no committed offsets: whoever reads says where. Offsets grow by one a record because the topic is
neither compacted nor written by transactions; a jump is refused as corruption. With `kafka_topic` the only module that
imports kafka.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Lock

import kafka.errors as kafka_errors
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, OffsetSpec
from kafka.producer.future import FutureRecordMetadata, RecordMetadata

from ..core.errors import Corrupt, InvalidInput, NotFound, OutcomeUnknown, PenstockError, PositionGone, Refused
from ..core.ids import Offset, Partition
from ..core.times import WallTime
from .backlog import DEFAULT_BYTES, Backlog, QueuedAppend
from .kafka_topic import (
    RECONNECT_MS,
    RECORD_OVERHEAD,
    REQUEST_TIMEOUT_MS,
    Topic,
    check_topic,
    connection_options,
    create_topic,
    described_topic,
    open_admin,
    topic_shape,
    translated,
)
from .log import LogEntry
from .log_checks import ENTRY_BYTES, LogSettings, above_end, another_log, below_begin, checked_partition, checked_payload, in_turn

DELIVERY_TIMEOUT_MS = 30_000
"""How long the client tries to deliver a record before its outcome is unknown."""
VERIFY_S = 0.2
"""How old the last proof may be that the topic is still this log, and that a broker answers. Shorter than it takes to
delete a topic, make it again and fill it beyond a reader's offset; the fetch protocol of the client names no topic ids."""
FETCH_WAIT_MS = 50
FETCH_BYTES = 16 << 20
BATCH_BYTES = 1 << 20
POLL_RECORDS = 4096


class KafkaLog:
    """An existing topic that was checked; `open_kafka_log` does. `options` are kafka-python's security options."""

    def __init__(
        self,
        servers: str,
        topic: Topic,
        *,
        admin: KafkaAdminClient,
        options: Mapping[str, str],
        backlog_bytes: int = DEFAULT_BYTES,
    ) -> None:
        self._servers = servers
        self._topic = topic
        self._admin = admin
        self._options = {"bootstrap_servers": servers.split(","), **connection_options(options)}
        self._backlog = Backlog(backlog_bytes)
        self._mutex = Lock()
        self._polling = Lock()
        self._producer: KafkaProducer | None = None
        self._consumer: KafkaConsumer | None = None
        self._next: dict[Partition, Offset] = {}
        self._held: dict[Partition, deque[LogEntry]] = {}
        self._verified_at = time.monotonic()
        self._turn = 0
        self._closed = False

    @property
    def url(self) -> str:
        return f"kafka://{self._servers}/{self._topic.name}"

    @property
    def identity(self) -> str:
        return self._topic.identity

    @property
    def partitions(self) -> int:
        return self._topic.partitions

    @property
    def max_record_bytes(self) -> int:
        return self._topic.max_message_bytes - RECORD_OVERHEAD

    def append(self, partition: Partition, payload: bytes) -> QueuedAppend:
        checked_partition(self, partition)
        checked_payload(self, payload)
        producer = self._opened_producer()
        pending = self._backlog.enter(len(payload))
        try:
            with translated(self.url):
                sent: FutureRecordMetadata = producer.send(self._topic.name, payload, partition=partition)
        except PenstockError as error:
            self._backlog.settle([(pending, error)])
            raise
        sent.add_callback(self._delivered, pending)
        sent.add_errback(self._undelivered, pending)
        return pending

    def flush(self, timeout_s: float) -> None:
        self._backlog.drain(timeout_s)
        self._verify()

    def begin(self, partition: Partition) -> Offset:
        return self._offset(partition, OffsetSpec.EARLIEST)

    def end(self, partition: Partition) -> Offset:
        return self._offset(partition, OffsetSpec.LATEST)

    def poll(
        self, wanted: Mapping[Partition, Offset], *, timeout_s: float, max_bytes: int = 8 << 20
    ) -> Mapping[Partition, Sequence[LogEntry]]:
        """One caller at a time. `Unreachable` when no broker answers; that may take the client's request timeout longer."""
        deadline = time.monotonic() + timeout_s
        for partition in wanted:
            checked_partition(self, partition)
        with self._polling:
            consumer = self._opened_consumer()
            try:
                self._seek(consumer, wanted)
                while not any(self._held[partition] for partition in wanted):
                    self._fetch(consumer, wanted, max(0.0, deadline - time.monotonic()))
                    if time.monotonic() >= deadline:
                        break
                self._verify()
            except PenstockError:
                self._held.clear()
                self._next.clear()
                raise
            return self._taken(wanted, max_bytes)

    def truncate(self, partition: Partition, before: Offset) -> None:
        checked_partition(self, partition)
        self._verify(max_age_s=0.0)
        with translated(self.url):
            try:
                self._admin.delete_records({TopicPartition(self._topic.name, partition): before})
            except kafka_errors.OffsetOutOfRangeError:
                raise above_end(self.url, partition, before, self.end(partition)) from None

    def close(self) -> None:
        """Delivers what was queued, within the client's delivery timeout, then disconnects."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
        with suppress(OutcomeUnknown):
            self._backlog.drain(DELIVERY_TIMEOUT_MS / 1000)
        if self._producer is not None:
            self._producer.close(timeout=1)
        self._backlog.give_up(OutcomeUnknown(f"{self.url}: closed before the record was acknowledged"))
        if self._consumer is not None:
            with self._polling:
                self._consumer.close()
        self._admin.close()

    def _delivered(self, pending: QueuedAppend, metadata: RecordMetadata) -> None:
        self._backlog.settle([(pending, Offset(metadata.offset))])

    def _undelivered(self, pending: QueuedAppend, error: Exception) -> None:
        """Only errors by which the broker refused the record itself are a refusal; after all others it may be there."""
        meaning: PenstockError
        if isinstance(error, (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)):
            meaning = InvalidInput(f"{self.url}: {error}")
        elif isinstance(error, kafka_errors.AuthorizationError):
            meaning = Refused(f"{self.url}: {error}")
        else:
            meaning = OutcomeUnknown(f"{self.url}: {error}")
        self._backlog.settle([(pending, meaning)])

    def _offset(self, partition: Partition, spec: OffsetSpec) -> Offset:
        at = TopicPartition(self._topic.name, checked_partition(self, partition))
        self._verify()
        with translated(self.url):
            return Offset(self._admin.list_partition_offsets({at: spec})[at].offset)

    def _verify(self, *, max_age_s: float = VERIFY_S) -> None:
        """`PositionGone` once the topic was deleted or made again: its offsets are not those of this log."""
        if time.monotonic() - self._verified_at < max_age_s:
            return
        try:
            with translated(self.url):
                identity, _, _ = topic_shape(self._admin, self._topic.name)
        except NotFound:
            identity = ""
        if identity != self.identity:
            raise another_log(self.url, self.identity)
        self._verified_at = time.monotonic()

    def _seek(self, consumer: KafkaConsumer, wanted: Mapping[Partition, Offset]) -> None:
        """Leads the consumer to where it is not yet; what was fetched for other offsets is forgotten."""
        with translated(self.url):
            consumer.assign([TopicPartition(self._topic.name, partition) for partition in wanted])
            for partition in self._held.keys() | self._next.keys():
                if partition not in wanted:
                    self._held.pop(partition, None)
                    self._next.pop(partition, None)
            for partition, offset in wanted.items():
                held = self._held.setdefault(partition, deque())
                if held and held[0].offset == offset:
                    continue
                if held or self._next.get(partition) != offset:
                    if offset < 0:
                        raise below_begin(self.url, partition, offset, self.begin(partition))
                    held.clear()
                    consumer.seek(TopicPartition(self._topic.name, partition), offset)
                    self._next[partition] = offset

    def _fetch(self, consumer: KafkaConsumer, wanted: Mapping[Partition, Offset], timeout_s: float) -> None:
        """Adds what has come to what is held, the next offset expected being proof of order."""
        with translated(self.url):
            try:
                found = consumer.poll(timeout_ms=timeout_s * 1000, max_records=POLL_RECORDS)
            except (kafka_errors.OffsetOutOfRangeError, kafka_errors.LogTruncationError):
                raise self._gone(wanted) from None
        for at, records in found.items():
            partition = Partition(at.partition)
            for record in records:
                if record.offset != (expected := self._next[partition]):
                    raise Corrupt(
                        f"{self.url} partition {partition}: offset {record.offset} follows where {expected} was expected",
                        hint="the topic must be neither compacted nor written by transactions",
                    )
                entry = LogEntry(Offset(record.offset), WallTime(record.timestamp * 1000), record.value or b"")
                self._held[partition].append(entry)
                self._next[partition] = Offset(record.offset + 1)

    def _gone(self, wanted: Mapping[Partition, Offset]) -> PositionGone:
        self._verify(max_age_s=0.0)
        for partition, offset in wanted.items():
            if offset < (begin := self.begin(partition)):
                return below_begin(self.url, partition, offset, begin)
            if offset > (end := self.end(partition)):
                return above_end(self.url, partition, offset, end)
        return PositionGone(f"{self.url}: the brokers have truncated the log under a reader")

    def _taken(self, wanted: Mapping[Partition, Offset], max_bytes: int) -> dict[Partition, list[LogEntry]]:
        taken: dict[Partition, list[LogEntry]] = {}
        self._turn += 1
        for partition in in_turn(wanted, self._turn):
            held = self._held[partition]
            while held:
                max_bytes -= ENTRY_BYTES + len(held[0].payload)
                if taken and max_bytes < 0:
                    return taken
                taken.setdefault(partition, []).append(held.popleft())
        return taken

    def _opened_producer(self) -> KafkaProducer:
        with self._mutex:
            self._check_open()
            if self._producer is None:
                with translated(self.url):
                    self._producer = KafkaProducer(
                        **self._options,
                        acks="all",
                        enable_idempotence=True,
                        linger_ms=0,
                        batch_size=min(BATCH_BYTES, self._topic.max_message_bytes),
                        max_request_size=self._topic.max_message_bytes,
                        delivery_timeout_ms=DELIVERY_TIMEOUT_MS,
                        request_timeout_ms=REQUEST_TIMEOUT_MS,
                        bootstrap_timeout_ms=REQUEST_TIMEOUT_MS,
                        max_block_ms=REQUEST_TIMEOUT_MS,
                        reconnect_backoff_max_ms=RECONNECT_MS,
                        allow_auto_create_topics=False,
                        metrics_enabled=False,
                    )
            return self._producer

    def _opened_consumer(self) -> KafkaConsumer:
        with self._mutex:
            self._check_open()
            if self._consumer is None:
                with translated(self.url):
                    self._consumer = KafkaConsumer(
                        **self._options,
                        group_id=None,
                        enable_auto_commit=False,
                        auto_offset_reset="none",
                        fetch_min_bytes=1,
                        fetch_max_wait_ms=FETCH_WAIT_MS,
                        fetch_max_bytes=FETCH_BYTES,
                        max_partition_fetch_bytes=max(BATCH_BYTES, self._topic.max_message_bytes),
                        request_timeout_ms=REQUEST_TIMEOUT_MS,
                        bootstrap_timeout_ms=REQUEST_TIMEOUT_MS,
                        reconnect_backoff_max_ms=RECONNECT_MS,
                        allow_auto_create_topics=False,
                        metrics_enabled=False,
                    )
            return self._consumer

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidInput(f"{self.url}: this log object is closed")


def open_kafka_log(
    servers: str,
    topic: str,
    *,
    partitions: int | None,
    create: LogSettings | None,
    options: Mapping[str, str] | None = None,
) -> KafkaLog:
    """The log in `topic`, created first if `create` says with what; `NotFound` if not. `Refused` names the setting of an
    existing topic under which updates would be lost, or which gives less than asked for."""
    admin = open_admin(servers, options or {})
    try:
        with translated(f"kafka://{servers}/{topic}"):
            try:
                described = described_topic(admin, topic)
            except NotFound:
                if create is None:
                    raise
                if partitions is None:
                    raise InvalidInput(f"topic {topic}: to create a log, say how many partitions it has") from None
                create_topic(admin, topic, partitions=partitions, settings=create)
                described = described_topic(admin, topic)
        check_topic(described, partitions=partitions, settings=create)
    except BaseException:
        admin.close()
        raise
    return KafkaLog(servers, described, admin=admin, options=options or {})
