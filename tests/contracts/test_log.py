"""What every update log promises, asked of each adapter; Kafka is a real broker."""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient

from penstock.pipeline.core.errors import InvalidInput, NotFound, PositionGone, Refused
from penstock.pipeline.core.ids import Offset, Partition
from penstock.pipeline.ports.kafka_log import VERIFY_S
from penstock.pipeline.ports.log import LogEntry, Pending, UpdateLog
from penstock.pipeline.ports.log_checks import ENTRY_BYTES, LogSettings
from penstock.pipeline.ports.memory_log import MemoryLog
from penstock.pipeline.ports.open_log import open_log

PARTITIONS = 3
SETTINGS = LogSettings(max_record_bytes=64 << 10, segment_bytes=4 << 10)
P0, P1, P2 = (Partition(number) for number in range(PARTITIONS))
WAIT_S = 60.0


class Place:
    """Where a log of one name is: opened any number of times, deleted, made again."""

    def __init__(self, url: str, delete: Callable[[str], None]) -> None:
        self.url = url
        self.name = f"contract-{uuid.uuid4().hex[:12]}"
        self._delete = delete
        self._opened: list[UpdateLog] = []

    def open(self, *, partitions: int | None = PARTITIONS, create: LogSettings | None = SETTINGS) -> UpdateLog:
        log = open_log(self.url, name=self.name, partitions=partitions, create=create)
        self._opened.append(log)
        return log

    def delete(self) -> None:
        self._delete(self.name)

    def close(self) -> None:
        for log in self._opened:
            log.close()


def delete_topic(bootstrap: str, name: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.delete_topics([f"penstock-{name}"])
        deadline = time.monotonic() + WAIT_S
        while f"penstock-{name}" in admin.list_topics():
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)
    finally:
        admin.close()


@pytest.fixture(params=["file", pytest.param("kafka", marks=pytest.mark.kafka)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "file":
        made = Place((tmp_path / "log").as_uri(), lambda name: shutil.rmtree(tmp_path / "log" / name))
    else:
        bootstrap: str = request.getfixturevalue("kafka_server")
        made = Place(f"kafka://{bootstrap}", lambda name: delete_topic(bootstrap, name))
    yield made
    made.close()


@pytest.fixture(params=["memory", "file", pytest.param("kafka", marks=pytest.mark.kafka)])
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], UpdateLog]]:
    """Opens the same, at first empty, log; each time another object where processes would have their own."""
    if request.param == "memory":
        shared = MemoryLog(PARTITIONS, max_record_bytes=SETTINGS.max_record_bytes)
        yield lambda: shared
        return
    url = (tmp_path / "log").as_uri() if request.param == "file" else f"kafka://{request.getfixturevalue('kafka_server')}"
    made = Place(url, lambda name: None)
    yield made.open
    made.close()


@pytest.fixture
def log(open_again: Callable[[], UpdateLog]) -> UpdateLog:
    return open_again()


def append_all(log: UpdateLog, partition: Partition, payloads: Sequence[bytes]) -> list[Offset]:
    pending = [log.append(partition, payload) for payload in payloads]
    return [append.result(WAIT_S) for append in pending]


def read_all(
    log: UpdateLog, wanted: Mapping[Partition, Offset], counts: Mapping[Partition, int], *, max_bytes: int = 8 << 20
) -> dict[Partition, list[LogEntry]]:
    """So many records of each partition, over as many polls as it takes, each checked against the bound."""
    positions, found = dict(wanted), {partition: list[LogEntry]() for partition in wanted}
    deadline = time.monotonic() + WAIT_S
    while any(len(found[partition]) < count for partition, count in counts.items()):
        assert time.monotonic() < deadline, f"read { ({p: len(entries) for p, entries in found.items()}) } of {counts}"
        polled = log.poll(positions, timeout_s=1.0, max_bytes=max_bytes)
        records = [entry for entries in polled.values() for entry in entries]
        assert all(polled.values()), "a partition without records is left out"
        assert len(records) <= 1 or sum(ENTRY_BYTES + len(entry.payload) for entry in records) <= max_bytes
        for partition, entries in polled.items():
            assert [entry.offset for entry in entries] == list(range(positions[partition], positions[partition] + len(entries)))
            found[partition] += entries
            positions[partition] = Offset(entries[-1].offset + 1)
    return found


def payloads_of(entries: Sequence[LogEntry]) -> list[bytes]:
    return [bytes(entry.payload) for entry in entries]


def acknowledged_and_flushed(log: UpdateLog, pending: Pending) -> None:
    """A record counts once both have returned."""
    pending.result(WAIT_S)
    log.flush(WAIT_S)


def test_offsets_grow_by_one_and_records_keep_their_order(log: UpdateLog) -> None:
    sent = [b"%d" % number * 50 for number in range(200)]
    assert append_all(log, P0, sent) == list(range(200))
    assert append_all(log, P2, [b"alone"]) == [0]
    found = read_all(log, {P0: Offset(0), P1: Offset(0), P2: Offset(0)}, {P0: 200, P2: 1})
    assert payloads_of(found[P0]) == sent
    assert payloads_of(found[P2]) == [b"alone"]
    assert found[P1] == []


def test_begin_and_end(log: UpdateLog) -> None:
    assert [log.begin(P0), log.end(P0), log.end(P1)] == [0, 0, 0]
    append_all(log, P0, [b"a", b"b"])
    assert [log.begin(P0), log.end(P0), log.end(P1)] == [0, 2, 0]


def test_another_object_sees_what_was_acknowledged_and_goes_on_from_there(open_again: Callable[[], UpdateLog]) -> None:
    first, second = open_again(), open_again()
    assert append_all(first, P0, [b"1", b"2"]) == [0, 1]
    assert second.end(P0) == 2
    assert append_all(second, P0, [b"3"]) == [2]
    assert append_all(first, P0, [b"4"]) == [3]
    assert payloads_of(read_all(second, {P0: Offset(0)}, {P0: 4})[P0]) == [b"1", b"2", b"3", b"4"]


def test_concurrent_appenders_each_keep_their_order(open_again: Callable[[], UpdateLog]) -> None:
    shared, own = open_again(), open_again()

    def appender(name: int) -> list[Offset]:
        return append_all(own if name == 3 else shared, P1, [b"%d:%d" % (name, number) for number in range(100)])

    with ThreadPoolExecutor(4) as pool:
        offsets = list(pool.map(appender, range(4)))
    assert sorted(offset for each in offsets for offset in each) == list(range(400))
    entries = read_all(shared, {P1: Offset(0)}, {P1: 400})[P1]
    for name, given in enumerate(offsets):
        assert given == sorted(given)
        assert [bytes(entries[offset].payload) for offset in given] == [b"%d:%d" % (name, n) for n in range(100)]


def test_poll_from_the_middle_and_again(log: UpdateLog) -> None:
    sent = [b"%04d" % number * 30 for number in range(300)]
    append_all(log, P0, sent)
    for start in (299, 0, 150, 151, 7):
        wanted = {P0: Offset(start)}
        assert payloads_of(read_all(log, wanted, {P0: 300 - start})[P0]) == sent[start:]
    assert payloads_of(read_all(log, {P0: Offset(290)}, {P0: 10})[P0]) == sent[290:]


def test_a_poll_is_bounded_by_bytes(log: UpdateLog) -> None:
    sent = [bytes([number]) * 1000 for number in range(50)]
    append_all(log, P0, sent)
    for most in (1, 1500, 4000, 10_000):
        found = read_all(log, {P0: Offset(0)}, {P0: 50}, max_bytes=most)
        assert payloads_of(found[P0]) == sent


def test_empty_payloads_are_records_and_are_bounded_too(log: UpdateLog) -> None:
    append_all(log, P0, [b""] * 100)
    found = read_all(log, {P0: Offset(0)}, {P0: 100}, max_bytes=10 * ENTRY_BYTES)
    assert payloads_of(found[P0]) == [b""] * 100


def test_a_full_partition_does_not_keep_another_waiting(log: UpdateLog) -> None:
    append_all(log, P0, [b"x" * 1000] * 100)
    append_all(log, P1, [b"y"])
    positions = {P0: Offset(0), P1: Offset(0)}
    for _ in range(60):
        polled = log.poll(positions, timeout_s=1.0, max_bytes=2000)
        if P1 in polled:
            assert payloads_of(polled[P1]) == [b"y"]
            return
        positions[P0] = Offset(positions[P0] + len(polled.get(P0, ())))
    pytest.fail("the other partition was not served")


def test_the_set_of_partitions_may_change_from_poll_to_poll(log: UpdateLog) -> None:
    for partition in (P0, P1, P2):
        append_all(log, partition, [b"%d:%d" % (partition, number) for number in range(20)])
    for wanted in ({P0: 0}, {P0: 10, P1: 3}, {P2: 19, P1: 0}, {P0: 5, P1: 5, P2: 5}):
        start = {partition: Offset(offset) for partition, offset in wanted.items()}
        found = read_all(log, start, {partition: 20 - offset for partition, offset in wanted.items()})
        for partition, offset in wanted.items():
            assert payloads_of(found[partition]) == [b"%d:%d" % (partition, number) for number in range(offset, 20)]


def test_an_empty_poll_ends_after_its_timeout(log: UpdateLog) -> None:
    append_all(log, P0, [b"x"])
    started = time.monotonic()
    assert log.poll({P0: Offset(1), P1: Offset(0)}, timeout_s=0.2) == {}
    assert time.monotonic() - started >= 0.19
    assert log.poll({P0: Offset(1)}, timeout_s=0.0) == {}
    assert log.poll({}, timeout_s=0.0) == {}


def test_a_waiting_poll_returns_with_the_first_record(open_again: Callable[[], UpdateLog]) -> None:
    reader, writer = open_again(), open_again()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(reader.poll, {P0: Offset(0), P1: Offset(0)}, timeout_s=WAIT_S)
        append_all(writer, P1, [b"came"])
        polled = waiting.result(WAIT_S)
    assert payloads_of(polled[P1]) == [b"came"]


def test_payloads_stay_as_they_are_while_they_are_held(log: UpdateLog) -> None:
    sent = [bytes([number]) * 3000 for number in range(100)]
    append_all(log, P0, sent)
    found = read_all(log, {P0: Offset(0)}, {P0: 100})[P0]
    log.truncate(P0, Offset(100))
    append_all(log, P0, [b"z" * 3000] * 10)
    read_all(log, {P0: Offset(100)}, {P0: 10})
    log.close()
    assert payloads_of(found) == sent


def test_appended_at_is_wall_time(log: UpdateLog) -> None:
    before = time.time_ns() // 1_000_000 * 1000
    append_all(log, P0, [b"x"])
    after = time.time_ns() // 1000
    (entry,) = read_all(log, {P0: Offset(0)}, {P0: 1})[P0]
    assert before <= entry.appended_at <= after


def test_positions_that_the_log_does_not_hold_are_refused_with_both_numbers(log: UpdateLog) -> None:
    append_all(log, P0, [b"x"] * 7)
    with pytest.raises(PositionGone, match=r"\b8\b.*\b7\b"):
        log.poll({P0: Offset(8)}, timeout_s=5.0)
    with pytest.raises(PositionGone, match=r"-1\b.*\b0\b"):
        log.poll({P0: Offset(-1)}, timeout_s=5.0)
    assert len(read_all(log, {P0: Offset(0)}, {P0: 7})[P0]) == 7


def test_truncation_gives_up_whole_segments_and_nothing_at_or_beyond(open_again: Callable[[], UpdateLog]) -> None:
    log, other = open_again(), open_again()
    sent = [bytes([number]) * 1000 for number in range(40)]
    for payload in sent:
        append_all(log, P0, [payload])
    log.truncate(P0, Offset(20))
    begin = other.begin(P0)
    assert 0 < begin <= 20
    assert other.end(P0) == 40
    with pytest.raises(PositionGone, match=rf"\b{begin - 1}\b.*\b{begin}\b"):
        other.poll({P0: Offset(begin - 1)}, timeout_s=5.0)
    assert payloads_of(read_all(other, {P0: begin}, {P0: 40 - begin})[P0]) == sent[begin:]
    log.truncate(P0, Offset(3))
    assert log.begin(P0) == begin
    log.truncate(P0, Offset(40))
    assert log.end(P0) == 40
    assert append_all(log, P0, [b"next"]) == [40]
    with pytest.raises(PositionGone, match=r"\b42\b.*\b41\b"):
        log.truncate(P0, Offset(42))


def test_an_oversized_payload_is_refused_and_nothing_is_appended(log: UpdateLog) -> None:
    with pytest.raises(InvalidInput, match=str(log.max_record_bytes)):
        log.append(P0, bytes(log.max_record_bytes + 1))
    assert log.end(P0) == 0
    largest = bytes(range(256)) * (log.max_record_bytes // 256)
    assert append_all(log, P0, [b"small", largest, b"small"]) == [0, 1, 2]
    assert payloads_of(read_all(log, {P0: Offset(0)}, {P0: 3}, max_bytes=100)[P0]) == [b"small", largest, b"small"]


def test_unknown_partitions_are_refused(log: UpdateLog) -> None:
    for wrong in (Partition(PARTITIONS), Partition(-1)):
        for call in (
            lambda wrong=wrong: log.append(wrong, b""),
            lambda wrong=wrong: log.begin(wrong),
            lambda wrong=wrong: log.end(wrong),
            lambda wrong=wrong: log.truncate(wrong, Offset(0)),
            lambda wrong=wrong: log.poll({wrong: Offset(0)}, timeout_s=0.0),
        ):
            with pytest.raises(InvalidInput, match="partitions 0 to 2"):
                call()


def test_flush_waits_for_all_that_was_queued(log: UpdateLog) -> None:
    log.flush(1.0)
    pending = [log.append(Partition(number % PARTITIONS), b"x" * 500) for number in range(300)]
    log.flush(WAIT_S)
    assert all(append.done() for append in pending)
    assert [append.result(0.0) for append in pending] == [number // PARTITIONS for number in range(300)]


def test_the_identity_is_the_same_for_all_who_open_it(open_again: Callable[[], UpdateLog]) -> None:
    assert open_again().identity == open_again().identity != ""
    assert open_again().partitions == PARTITIONS


def test_a_log_that_is_made_again_is_another_one(place: Place) -> None:
    old = place.open()
    append_all(old, P0, [b"old"] * 3)
    assert place.open().identity == old.identity
    read_all(old, {P0: Offset(0)}, {P0: 3})
    place.delete()
    new = place.open()
    assert new.identity != old.identity
    append_all(new, P0, [b"new"] * 10)
    threading.Event().wait(VERIFY_S)
    with pytest.raises(PositionGone, match=old.identity):
        old.poll({P0: Offset(3)}, timeout_s=1.0)
    with pytest.raises(PositionGone, match=old.identity):
        old.end(P0)
    with pytest.raises(PositionGone, match=old.identity):
        old.truncate(P0, Offset(1))
    assert payloads_of(read_all(new, {P0: Offset(0)}, {P0: 10})[P0]) == [b"new"] * 10
    astray = old.append(P0, b"astray")
    with pytest.raises(PositionGone, match=old.identity):
        acknowledged_and_flushed(old, astray)


def test_a_log_is_created_only_where_that_is_asked_for(place: Place) -> None:
    with pytest.raises(NotFound):
        place.open(create=None)
    with pytest.raises(InvalidInput, match="partitions"):
        place.open(partitions=None)
    place.open()
    assert place.open(partitions=None, create=None).partitions == PARTITIONS


def test_another_number_of_partitions_is_refused(place: Place) -> None:
    place.open()
    with pytest.raises(Refused, match=f"{PARTITIONS} partitions, {PARTITIONS + 1} "):
        place.open(partitions=PARTITIONS + 1)
    with pytest.raises(Refused, match="bytes"):
        place.open(create=LogSettings(max_record_bytes=1 << 20))


def test_of_several_who_create_it_at_once_all_get_the_same(place: Place) -> None:
    with ThreadPoolExecutor(4) as pool:
        logs = list(pool.map(lambda _: place.open(), range(4)))
    assert len({log.identity for log in logs}) == 1
    assert sorted(offset for log in logs for offset in append_all(log, P0, [b"x"])) == [0, 1, 2, 3]
