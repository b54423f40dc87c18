"""The file log when a writer dies: at each of its system calls, at random moments, and with the power."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.pipeline.core.ids import Offset, Partition
from penstock.pipeline.core.times import WallTime
from penstock.pipeline.ports.file_birth import create_file_log
from penstock.pipeline.ports.file_format import HEADER, TAIL_FILE, segment_name
from penstock.pipeline.ports.file_log import FileLog
from penstock.pipeline.ports.file_partition import FilePartition
from penstock.pipeline.ports.log_checks import LogSettings

P0 = Partition(0)
WAIT_S = 60.0
SEGMENT_BYTES = 400
PAYLOADS = [[b"a" * 100, b"b" * 30], [b"c" * 150], [b"d" * 120, b""], [b"e" * 500], [b"f"]]
SENT = [payload for group in PAYLOADS for payload in group]
CRASH = 77
CALLS = ("open", "pwrite", "write", "ftruncate", "fdatasync", "fsync", "unlink")


def read_all(log: FileLog) -> list[bytes]:
    found: list[bytes] = []
    while polled := log.poll({P0: Offset(len(found))}, timeout_s=0.0):
        assert [entry.offset for entry in polled[P0]] == list(range(len(found), len(found) + len(polled[P0])))
        found += [bytes(entry.payload) for entry in polled[P0]]
    return found


def dying_at(number: int) -> Iterator[None]:
    """From now on in this process: the `number`-th of the calls is its last, done before, after, or (a write) by half."""
    count = 0

    def wrapped(call: Callable[..., object], name: str) -> Callable[..., object]:
        def counted(*arguments: object) -> object:
            nonlocal count
            count += 1
            if count != number // 3:
                return call(*arguments)
            try:
                if number % 3 == 1:
                    call(*arguments)
                elif number % 3 == 2 and name in ("pwrite", "write"):
                    descriptor, block, *rest = arguments
                    call(descriptor, memoryview(block)[: len(block) // 2], *rest)  # type: ignore[arg-type]
            finally:
                os._exit(CRASH)

        return counted

    for name in CALLS:
        setattr(os, name, wrapped(getattr(os, name), name))
    yield


def crashed(folder: Path, number: int) -> tuple[bool, int]:
    """Appends in a process that dies at its `number`-th call; whether it did, and how many records it had acknowledged."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        report = os.write
        try:
            next(dying_at(number))
            partition = FilePartition(
                folder / "0", url="", identity="", segment_bytes=SEGMENT_BYTES, max_record_bytes=1000, durable=True
            )
            for group in PAYLOADS:
                partition.append(group, WallTime(1))
                report(writing, bytes([len(group)]))
            partition.truncate(Offset(5))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as acknowledged:
        count = sum(acknowledged.read())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == CRASH, count


def test_a_writer_may_die_at_any_call(tmp_path: Path) -> None:
    settings = LogSettings(max_record_bytes=1000, segment_bytes=SEGMENT_BYTES)
    create_file_log(tmp_path / "empty", partitions=1, settings=settings)
    number, died = 3, True
    while died:
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "empty", folder)
        died, acknowledged = crashed(folder, number)
        log = FileLog(folder, fsync="never")
        begin, end = log.begin(P0), log.end(P0)
        assert acknowledged <= end <= len(SENT)
        assert begin <= 5
        assert log.append(P0, b"next").result(WAIT_S) == end
        entries = log.poll({P0: begin}, timeout_s=0.0)[P0]
        assert [bytes(entry.payload) for entry in entries] == [*SENT[begin:end], b"next"]
        for entry in reversed(entries):
            assert log.poll({P0: entry.offset}, timeout_s=0.0)[P0][0] == entry
        log.close()
        number += 1
    assert number > 3 * 45
    assert acknowledged == len(SENT)


def test_a_tail_that_the_power_cut_set_back(tmp_path: Path) -> None:
    """The last record cut at each of its bytes, the tail being that of before, as after a lost page of it."""
    folder = tmp_path / "log"
    create_file_log(folder, partitions=1, settings=LogSettings(segment_bytes=1 << 20))
    log = FileLog(folder)
    for payload in (b"first", b"second"):
        log.append(P0, payload).result(WAIT_S)
    before = (folder / "0" / TAIL_FILE).read_bytes()
    log.append(P0, b"the last one").result(WAIT_S)
    log.close()
    whole = (folder / "0" / segment_name(Offset(0))).read_bytes()
    last = HEADER.size + len(b"the last one")
    for kept in range(last + 1):
        for filler in (b"", b"\0" * (last - kept), b"\xff" * (last - kept)):
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            (copy / "0" / TAIL_FILE).write_bytes(before)
            torn = whole[: len(whole) - last + kept] + filler
            (copy / "0" / segment_name(Offset(0))).write_bytes(torn)
            survives = torn == whole
            reopened = FileLog(copy, fsync="never")
            expected = [b"first", b"second", *([b"the last one"] if survives else [])]
            assert read_all(reopened) == expected
            assert reopened.append(P0, b"after").result(WAIT_S) == len(expected)
            assert read_all(reopened) == [*expected, b"after"]
            reopened.close()


WRITER = """
import os, random, sys, zlib
from pathlib import Path
from penstock.pipeline.ports.file_log import FileLog
log, name, dice = FileLog(Path(sys.argv[1]), fsync=sys.argv[2]), int(sys.argv[3]), random.Random(int(sys.argv[3]))
report = os.open(sys.argv[4], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
number = 0
while True:
    sent = []
    for _ in range(dice.randrange(1, 20)):
        payload = b"%d:%d:" % (name, number) + bytes([number % 251]) * dice.randrange(5000)
        sent.append((log.append(0, payload), payload))
        number += 1
    for pending, payload in sent:
        os.write(report, b"%d %d\\n" % (pending.result(60.0), zlib.crc32(payload)))
"""


@pytest.mark.parametrize("policy", ["batch", "never"])
def test_writers_killed_at_random_moments_lose_nothing_acknowledged(tmp_path: Path, policy: str) -> None:
    folder = tmp_path / "log"
    create_file_log(folder, partitions=1, settings=LogSettings(segment_bytes=100_000))
    dice = random.Random(5)
    acknowledged: dict[int, int] = {}
    for turn in range(10):
        reports = [tmp_path / f"report-{turn}-{name}" for name in range(2)]
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, folder, policy, str(2 * turn + name), reports[name]])
            for name in range(2)
        ]
        log = FileLog(folder)
        start = log.end(P0)
        assert log.poll({P0: start}, timeout_s=WAIT_S)
        target = start + dice.randrange(5, 400)
        while log.end(P0) < target:
            log.poll({P0: log.end(P0)}, timeout_s=0.01)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait(WAIT_S)
        log.close()
        for report in reports:
            if report.exists():
                for line in report.read_bytes().split(b"\n")[:-1]:
                    offset, crc = line.split()
                    assert int(offset) not in acknowledged
                    acknowledged[int(offset)] = int(crc)
    entries = read_all(FileLog(folder))
    assert len(acknowledged) > 50
    for offset, crc in acknowledged.items():
        assert zlib.crc32(entries[offset]) == crc
    by_writer: dict[bytes, list[int]] = {}
    for payload in entries:
        name, number, filling = payload.split(b":", 2)
        assert set(filling) <= {int(number) % 251}
        by_writer.setdefault(name, []).append(int(number))
    assert all(numbers == list(range(len(numbers))) for numbers in by_writer.values())
