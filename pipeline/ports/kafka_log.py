"""The update log in a Kafka topic, one Kafka partition a partition.

No consumer group and no committed offsets: whoever reads says where. Offsets grow by one a record because the topic is
neither compacted nor written by transactions; a jump is refused as corruption. The modules named `kafka_…` are the only ones
that import kafka.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import kafka.errors as kafka_errors
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, OffsetSpec
from kafka.consumer.fetcher import ConsumerRecord

from ..core.errors import Corrupt, InvalidInput, NotFound, PenstockError, PositionGone
from ..core.ids import Offset, Partition
from ..core.times import WallTime
from .backlog import DEFAULT_BYTES, QueuedAppend
from .kafka_options import connection_options
from .kafka_producing import BATCH_BYTES, Producing
from .kafka_topic import RECORD_OVERHEAD, Topic, check_topic, create_topic, described_topic, topic_shape, used_of
from .kafka_wire import connected, open_admin, translated
from .log import LogEntry
from .log_checks import ENTRY_BYTES, LogSettings, above_end, another_log, below_begin, checked_partition, checked_payload, in_turn

VERIFY_S = 0.2
"""How old the last proof may be that the topic is still this log, and that a broker answers. Shorter than it takes to
delete a topic, make it again and fill it beyond a reader's offset; the fetch protocol of the client names no topic ids."""
AHEAD_S = VERIFY_S / 2
"""How old it gets before the next one is asked for, beside whoever reads."""
FETCH_WAIT_MS = 50
FETCH_BYTES = 8 << 20
POLL_RECORDS = 4096
LARGE_BYTES = 1 << 20
"""Whoever is given so much at once is behind: more is fetched while it is taken in, for this long at most."""


_Found = Mapping[TopicPartition, Sequence[ConsumerRecord]]


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
        self._producing = Producing(self.url, topic, self._options, backlog_bytes=backlog_bytes)
        self._mutex = Lock()
        self._polling = Lock()
        self._consumer: KafkaConsumer | None = None
        self._next: dict[Partition, Offset] = {}
        self._held: dict[Partition, deque[LogEntry]] = {}
        self._verified_at = time.monotonic()
        self._ahead = ThreadPoolExecutor(2, "penstock-kafka")
        self._asked: Future[None] | None = None
        self._fetched: Future[_Found] | None = None
        self._assigned: frozenset[Partition] = frozenset()
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
        self._check_open()
        return self._producing.append(partition, payload)

    def flush(self, timeout_s: float) -> None:
        self._producing.drain(timeout_s)
        self._verify(max_age_s=0.0)

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
                if self._fetched is not None:
                    self._fetch(consumer, wanted, FETCH_WAIT_MS / 1000)
                self._seek(consumer, wanted)
                while not any(self._held[partition] for partition in wanted):
                    self._fetch(consumer, wanted, max(0.0, deadline - time.monotonic()))
                    if time.monotonic() >= deadline:
                        break
                self._verify()
                self._verify_ahead()
            except PenstockError:
                self._held.clear()
                self._next.clear()
                raise
            taken = self._taken(wanted, max_bytes)
            if _size(taken) >= LARGE_BYTES and _size(self._held) < FETCH_BYTES:
                # The client is not for several threads: until this has ended nobody else may ask it.
                self._fetched = self._ahead.submit(_polled, consumer, FETCH_WAIT_MS / 1000)
            return taken

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
        self._producing.close()
        with self._polling:
            self._ahead.shutdown(cancel_futures=True)
            if self._consumer is not None:
                self._consumer.close()
        self._admin.close()

    def _offset(self, partition: Partition, spec: OffsetSpec) -> Offset:
        at = TopicPartition(self._topic.name, checked_partition(self, partition))
        self._verify()
        with translated(self.url):
            return Offset(self._admin.list_partition_offsets({at: spec})[at].offset)

    def _verify(self, *, max_age_s: float = VERIFY_S) -> None:
        """`PositionGone` once the topic was deleted or made again: its offsets are not those of this log."""
        if time.monotonic() - self._verified_at < max_age_s:
            return
        begun = time.monotonic()
        try:
            with translated(self.url):
                identity, _, _ = topic_shape(self._admin, self._topic.name)
        except NotFound:
            identity = ""
        if identity != self.identity:
            raise another_log(self.url, self.identity)
        self._verified_at = begun

    def _verify_ahead(self) -> None:
        """Asks in time, so that a reader need not wait for the answer. What fails is found by who has to wait for it."""
        if time.monotonic() - self._verified_at >= AHEAD_S and (self._asked is None or self._asked.done()):
            self._asked = self._ahead.submit(self._verify, max_age_s=0.0)

    def _seek(self, consumer: KafkaConsumer, wanted: Mapping[Partition, Offset]) -> None:
        """Leads the consumer to where it is not yet; what was fetched for other offsets is forgotten."""
        with translated(self.url):
            if self._assigned != wanted.keys():
                consumer.assign([TopicPartition(self._topic.name, partition) for partition in wanted])
                self._assigned = frozenset(wanted)
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
        """Adds what has come to what is held, or what was fetched ahead."""
        ahead, self._fetched = self._fetched, None
        with translated(self.url):
            try:
                self._hold(_polled(consumer, timeout_s) if ahead is None else ahead.result())
            except (kafka_errors.OffsetOutOfRangeError, kafka_errors.LogTruncationError):
                raise self._gone(wanted) from None

    def _hold(self, found: _Found) -> None:
        """The next offset expected is proof of order."""
        for at, records in found.items():
            partition, held = Partition(at.partition), self._held[Partition(at.partition)]
            expected = self._next[partition]
            for record in records:
                if record.offset != expected:
                    raise Corrupt(
                        f"{self.url} partition {partition}: offset {record.offset} follows where {expected} was expected",
                        hint="the topic must be neither compacted nor written by transactions",
                    )
                held.append(LogEntry(expected, WallTime(record.timestamp * 1000), record.value or b""))
                expected = self._next[partition] = Offset(expected + 1)

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

    def _opened_consumer(self) -> KafkaConsumer:
        with self._mutex:
            self._check_open()
            if self._consumer is None:
                with translated(self.url):
                    self._consumer = connected(
                        KafkaConsumer,
                        self._options,
                        group_id=None,
                        enable_auto_commit=False,
                        auto_offset_reset="none",
                        fetch_min_bytes=1,
                        fetch_max_wait_ms=FETCH_WAIT_MS,
                        fetch_max_bytes=FETCH_BYTES,
                        # A record has a checksum of its own.
                        check_crcs=False,
                        max_partition_fetch_bytes=max(BATCH_BYTES, self._topic.max_message_bytes),
                        allow_auto_create_topics=False,
                        metrics_enabled=False,
                    )
            return self._consumer

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidInput(f"{self.url}: this log object is closed")


def _size(entries: Mapping[Partition, Iterable[LogEntry]]) -> int:
    """Payload bytes."""
    return sum(len(entry.payload) for own in entries.values() for entry in own)


def _polled(consumer: KafkaConsumer, timeout_s: float) -> _Found:
    found: _Found = consumer.poll(timeout_ms=timeout_s * 1000, max_records=POLL_RECORDS)
    return found


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
    return KafkaLog(servers, used_of(described, partitions), admin=admin, options=options or {})
