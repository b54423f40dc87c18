"""The file log beyond the contract: policies, several processes, seeks, damage, full disks. Crashes: test_file_crashes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.pipeline.core.errors import Corrupt, InvalidInput, OutcomeUnknown, Refused, StorageFull, Unreachable, Unsupported
from penstock.pipeline.core.ids import Offset, Partition
from penstock.pipeline.core.times import WallTime
from penstock.pipeline.ports import file_partition
from penstock.pipeline.ports.file_birth import create_file_log
from penstock.pipeline.ports.file_format import HEADER, INDEX_STEP, SLOT_BYTES, TAIL_FILE, index_name, segment_name
from penstock.pipeline.ports.file_log import FileLog, open_file_log
from penstock.pipeline.ports.log import LogEntry
from penstock.pipeline.ports.log_checks import ENTRY_BYTES, LogSettings

P0 = Partition(0)
WAIT_S = 60.0
SMALL = LogSettings(max_record_bytes=256 << 10, segment_bytes=256 << 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_file_log(tmp_path / "log", partitions=1, settings=SMALL)
    return tmp_path / "log"


@pytest.fixture
def log(folder: Path) -> Iterator[FileLog]:
    opened = FileLog(folder)
    yield opened
    opened.close()


def append_all(log: FileLog, payloads: list[bytes]) -> list[Offset]:
    pending = [log.append(P0, payload) for payload in payloads]
    return [append.result(WAIT_S) for append in pending]


def read_all(log: FileLog, start: int = 0, *, max_bytes: int = 1 << 20) -> list[LogEntry]:
    found: list[LogEntry] = []
    position = Offset(start)
    while polled := log.poll({P0: position}, timeout_s=0.0, max_bytes=max_bytes):
        found += polled[P0]
        position = Offset(found[-1].offset + 1)
    return found


def payloads_of(entries: list[LogEntry]) -> list[bytes]:
    return [bytes(entry.payload) for entry in entries]


@given(
    sizes=st.lists(st.integers(0, 200) | st.integers(0, 100_000), min_size=1, max_size=40),
    segment_bytes=st.sampled_from([1, 1000, 150_000, 1 << 30]),
    starts=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    max_bytes=st.sampled_from([0, 500, 90_000, 1 << 22]),
    split=st.integers(1, 40),
)
@settings(max_examples=40, deadline=None)
def test_any_offset_is_found_in_any_layout(tmp_path_factory, sizes, segment_bytes, starts, max_bytes, split) -> None:
    folder = tmp_path_factory.mktemp("layout") / "log"
    settings = LogSettings(max_record_bytes=100_000, segment_bytes=segment_bytes)
    create_file_log(folder, partitions=1, settings=settings)
    payloads = [os.urandom(size) for size in sizes]
    writer = FileLog(folder, fsync="never")
    for first in range(0, len(payloads), split):
        append_all(writer, payloads[first : first + split])
    reader = FileLog(folder)
    for start in [0, *(int(part * (len(payloads) - 1)) for part in starts)]:
        entries = read_all(reader, start, max_bytes=max_bytes)
        assert [entry.offset for entry in entries] == list(range(start, len(payloads)))
        assert payloads_of(entries) == payloads[start:]
    reader.close()
    writer.close()


def test_a_seek_reads_little_and_needs_no_index(folder: Path, log: FileLog, monkeypatch: pytest.MonkeyPatch) -> None:
    payloads = [b"%06d" % number * 10 for number in range(3000)]
    append_all(log, payloads)
    index = folder / "0" / index_name(Offset(0))
    whole, read = index.read_bytes(), 0
    pread = os.pread

    def counted(descriptor: int, size: int, position: int) -> bytes:
        nonlocal read
        read += size
        return pread(descriptor, size, position)

    monkeypatch.setattr(os, "pread", counted)
    assert payloads_of(list(FileLog(folder).poll({P0: Offset(2900)}, timeout_s=0.0, max_bytes=1000)[P0]))[0] == payloads[2900]
    assert read < 4 * INDEX_STEP
    for damaged in (None, b"", whole[:7], os.urandom(len(whole)), whole[::-1], whole + whole[:16]):
        index.unlink(missing_ok=True)
        if damaged is not None:
            index.write_bytes(damaged)
        for start in (0, 1500, 2999):
            assert payloads_of(read_all(FileLog(folder), start)) == payloads[start:]


APPENDER = """
import sys
from pathlib import Path
from penstock.pipeline.ports.file_log import FileLog
log = FileLog(Path(sys.argv[1]), fsync=sys.argv[2])
pending = [log.append(0, b"%s:%d" % (sys.argv[3].encode(), number)) for number in range(int(sys.argv[4]))]
print(*[append.result(60.0) for append in pending])
log.close()
"""


def test_processes_append_to_one_partition_while_others_read(folder: Path, log: FileLog) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", APPENDER, folder, policy, name, "300"], stdout=subprocess.PIPE, text=True)
        for name, policy in (("a", "batch"), ("b", "never"), ("c", "always"))
    ]
    entries: list[LogEntry] = []
    while len(entries) < 900:
        polled = log.poll({P0: Offset(len(entries))}, timeout_s=WAIT_S)
        assert polled, "a reader waits for nothing while writers run"
        entries += polled[P0]
    assert [entry.offset for entry in entries] == list(range(900))
    for name, process in zip("abc", processes, strict=True):
        offsets = [int(text) for text in process.communicate(timeout=WAIT_S)[0].split()]
        assert offsets == sorted(offsets)
        assert [bytes(entries[offset].payload) for offset in offsets] == [b"%s:%d" % (name.encode(), n) for n in range(300)]


@pytest.mark.parametrize(("policy", "least", "most"), [("always", 100, 100), ("batch", 1, 3), ("never", 0, 0)])
def test_how_often_records_are_forced(folder: Path, monkeypatch: pytest.MonkeyPatch, policy, least, most) -> None:
    log = FileLog(folder, fsync=policy)
    forced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", forced.append)
    with (folder / "0" / "lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with ThreadPoolExecutor(1) as pool:
            queued = pool.submit(lambda: [log.append(P0, b"x") for _ in range(100)])
            with pytest.raises((OutcomeUnknown, TimeoutError)):
                queued.result(0.2)[0].result(0.1)
            fcntl.flock(held, fcntl.LOCK_UN)
            assert [append.result(WAIT_S) for append in queued.result(WAIT_S)] == list(range(100))
    assert least <= len(forced) <= most
    log.close()


def test_nobody_sees_a_record_before_it_is_durable(folder: Path, log: FileLog, monkeypatch: pytest.MonkeyPatch) -> None:
    forcing, go_on = threading.Event(), threading.Event()

    def waiting(descriptor: int) -> None:
        forcing.set()
        assert go_on.wait(WAIT_S)

    monkeypatch.setattr(os, "fdatasync", waiting)
    pending = log.append(P0, b"x")
    assert forcing.wait(WAIT_S)
    assert log.end(P0) == 0
    assert log.poll({P0: Offset(0)}, timeout_s=0.05) == {}
    with pytest.raises(OutcomeUnknown):
        pending.result(0.01)
    go_on.set()
    assert pending.result(WAIT_S) == 0
    assert payloads_of(read_all(log)) == [b"x"]


def test_a_device_that_fails_leaves_nothing_behind(folder: Path, log: FileLog, monkeypatch: pytest.MonkeyPatch) -> None:
    append_all(log, [b"before"])
    with monkeypatch.context() as broken:

        def failing(descriptor: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        broken.setattr(os, "fdatasync", failing)
        with pytest.raises(OutcomeUnknown, match="Input/output error"):
            log.append(P0, b"lost").result(WAIT_S)
    assert append_all(log, [b"after"]) == [1]
    assert payloads_of(read_all(log)) == [b"before", b"after"]


FILLER = """
import resource, signal, sys
from pathlib import Path
from penstock.pipeline.core.errors import StorageFull
from penstock.pipeline.ports.file_log import FileLog
log = FileLog(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
appended = 0
try:
    while True:
        log.append(0, bytes([appended]) * 7000).result(60.0)
        appended += 1
except StorageFull:
    pass
assert log.end(0) == appended and log.poll({0: appended}, timeout_s=0.0) == {}
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert log.append(0, b"room again").result(60.0) == appended
log.close()
print(appended)
"""


def test_a_full_disk_refuses_records_and_the_log_stays_good(folder: Path, log: FileLog) -> None:
    ended = subprocess.run([sys.executable, "-c", FILLER, folder], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    appended = int(ended.stdout)
    assert appended == 100_000 // (7000 + HEADER.size)
    assert payloads_of(read_all(log)) == [bytes([number]) * 7000 for number in range(appended)] + [b"room again"]


def test_no_room_for_a_new_segment(folder: Path, log: FileLog, monkeypatch: pytest.MonkeyPatch) -> None:
    append_all(log, [b"x" * 200_000])
    opened = os.open
    with monkeypatch.context() as full:

        def refusing(path: Path, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_CREAT:
                raise OSError(errno.ENOSPC, "No space left on device")
            return opened(path, flags, mode)

        full.setattr(os, "open", refusing)
        with pytest.raises(StorageFull, match="No space left"):
            log.append(P0, b"y" * 100_000).result(WAIT_S)
    assert append_all(log, [b"z" * 100_000]) == [1]
    assert [len(entry.payload) for entry in read_all(log)] == [200_000, 100_000]


def test_every_flipped_bit_is_corruption_and_no_wrong_payload_is_returned(folder: Path, log: FileLog) -> None:
    payloads = [b"first", b"", b"third record"]
    append_all(log, payloads)
    segment = folder / "0" / segment_name(Offset(0))
    good = segment.read_bytes()
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        segment.write_bytes(bad)
        reader, found, refused = FileLog(folder), 0, None
        while refused is None:
            try:
                entries = reader.poll({P0: Offset(found)}, timeout_s=0.0)[P0]
            except Corrupt as error:
                refused = str(error)
            else:
                assert payloads_of(list(entries)) == payloads[found : found + len(entries)]
                found += len(entries)
        assert f"partition 0: offset {found}" in refused
        reader.close()
    segment.write_bytes(good)
    assert payloads_of(read_all(log)) == payloads


def test_a_damaged_tail_slot_costs_nothing(folder: Path, log: FileLog) -> None:
    payloads = [b"1", b"2", b"3"]
    for payload in payloads:
        append_all(log, [payload])
    tail = folder / "0" / TAIL_FILE
    good = tail.read_bytes()
    for slot in (0, 1):
        bad = bytearray(good)
        bad[slot * SLOT_BYTES + 9] ^= 0x40
        tail.write_bytes(bad)
        assert payloads_of(read_all(FileLog(folder))) == payloads
        tail.write_bytes(good)
    tail.write_bytes(bytes(len(good)))
    with pytest.raises(Corrupt, match="neither slot"):
        FileLog(folder).end(P0)
    tail.write_bytes(good[:50])
    with pytest.raises(Corrupt, match="shorter"):
        FileLog(folder).end(P0)
    tail.write_bytes(good)


def test_missing_bytes_and_segments_are_corruption(folder: Path, log: FileLog) -> None:
    for number in range(8):
        append_all(log, [bytes([number]) * 100_000])
    part = folder / "0"
    names = sorted(path.name for path in part.glob("*.log"))
    assert len(names) == 4
    aside = part / "aside"
    (part / names[1]).rename(aside)
    assert [entry.offset for entry in log.poll({P0: Offset(0)}, timeout_s=0.0)[P0]] == [0, 1]
    with pytest.raises(Corrupt, match="offset 2"):
        log.poll({P0: Offset(2)}, timeout_s=0.0)
    aside.rename(part / names[1])
    assert len(read_all(FileLog(folder))) == 8
    os.truncate(part / names[3], 150_000)
    with pytest.raises(Corrupt, match="were acknowledged"):
        FileLog(folder).end(P0)
    with pytest.raises(Corrupt, match="were acknowledged"):
        log.append(P0, b"x").result(WAIT_S)


def test_the_birth_certificate_is_read_strictly(folder: Path) -> None:
    path = folder / "log.json"
    good = json.loads(path.read_text())
    for change, refusal in (
        ({"format": 2}, Unsupported),
        ({"partitions": 0}, Corrupt),
        ({"partitions": "1"}, Corrupt),
        ({"segment_bytes": True}, Corrupt),
        ({"identity": 5}, Corrupt),
        ({"more": 1}, Corrupt),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(refusal):
            FileLog(folder)
    for text in ("", "[]", "{}", '{"format": 1}'):
        path.write_text(text)
        with pytest.raises(Corrupt):
            FileLog(folder)


def test_a_folder_that_is_no_log_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(Refused, match="no log"):
        open_file_log(tmp_path / "mine", partitions=1, create=SMALL)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


def test_a_lock_that_is_never_released_ends_in_an_error(folder: Path, log: FileLog, monkeypatch: pytest.MonkeyPatch) -> None:
    append_all(log, [b"x"])
    monkeypatch.setattr(file_partition, "LOCK_TIMEOUT_S", 0.1)
    with (folder / "0" / "lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Unreachable, match="held the lock"):
            log.append(P0, b"y").result(WAIT_S)
        assert payloads_of(read_all(log)) == [b"x"]
    assert append_all(log, [b"z"]) == [1]


def test_close_commits_what_was_queued_and_ends_the_object(folder: Path) -> None:
    log = FileLog(folder)
    pending = [log.append(P0, b"%d" % number) for number in range(500)]
    log.close()
    assert [append.result(0.0) for append in pending] == list(range(500))
    for call in (
        lambda: log.append(P0, b""),
        lambda: log.end(P0),
        lambda: log.poll({P0: Offset(0)}, timeout_s=0.0),
        lambda: log.truncate(P0, Offset(0)),
    ):
        with pytest.raises(InvalidInput, match="closed"):
            call()
    log.close()
    assert len(read_all(FileLog(folder))) == 500


def test_the_clock_is_the_callers(folder: Path) -> None:
    times = iter([WallTime(5), WallTime(3)])
    log = FileLog(folder, clock=lambda: next(times))
    append_all(log, [b"a"])
    append_all(log, [b"b"])
    assert [entry.appended_at for entry in read_all(log)] == [5, 3]
    log.close()


def test_waiting_appends_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FileLog(folder, backlog_bytes=10_000)
    go_on = threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: go_on.wait(WAIT_S))
    with ThreadPoolExecutor(1) as pool:
        appending = pool.submit(lambda: [log.append(P0, bytes(3000)) for _ in range(20)])
        with pytest.raises(TimeoutError):
            appending.result(0.2)
        go_on.set()
        assert [append.result(WAIT_S) for append in appending.result(WAIT_S)] == list(range(20))
    log.close()


def test_records_count_in_a_poll_as_they_do_in_the_file() -> None:
    assert HEADER.size == ENTRY_BYTES
