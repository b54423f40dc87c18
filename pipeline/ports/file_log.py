"""The update log in a folder of one machine: several processes append and read at the same time.

A thread a partition commits what was queued, all that is there at once (group commit); an append is acknowledged, and
becomes visible to readers, only after its commit. Formats and the rules of recovery: file_format.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Literal, get_args

from ..core.errors import InvalidInput, Refused
from ..core.ids import Offset, Partition
from ..core.times import WallTime
from .backlog import DEFAULT_BYTES, Backlog, QueuedAppend
from .file_birth import create_file_log, read_birth
from .file_committer import Committer
from .file_format import LOG_FILE
from .file_partition import FilePartition
from .file_reader import PartitionReader
from .log import LogEntry
from .log_checks import ENTRY_BYTES, LogSettings, another_log, checked_partition, checked_payload, in_turn
from .wall_clock import system_clock

Fsync = Literal["always", "batch", "never"]
"""When a record is forced to the disk: each for itself; those that were queued together at once; when the system likes."""
FSYNC_POLICIES: tuple[Fsync, ...] = get_args(Fsync)
SHORTEST_PAUSE_S, LONGEST_PAUSE_S, PAUSE_GROWTH = 0.0002, 0.005, 1.1
"""A waiting reader looks at the tails (in memory) at first often, then less and less so."""
CLOSE_TIMEOUT_S = 30.0


class FileLog:
    """An existing log; `create_file_log` makes one. `fsync`, `clock` and `backlog_bytes` are this object's own."""

    def __init__(
        self,
        folder: Path,
        *,
        fsync: Fsync = "batch",
        clock: Callable[[], WallTime] = system_clock,
        backlog_bytes: int = DEFAULT_BYTES,
    ) -> None:
        if fsync not in FSYNC_POLICIES:
            raise InvalidInput(f"fsync {fsync!r} is none of {', '.join(FSYNC_POLICIES)}")
        self._folder = folder.absolute()
        self._url = self._folder.as_uri()
        self._birth = read_birth(self._folder)
        self._fsync = fsync
        self._clock = clock
        self._backlog = Backlog(backlog_bytes)
        self._mutex = Lock()
        self._partitions: dict[Partition, FilePartition] = {}
        self._readers: dict[Partition, PartitionReader] = {}
        self._committers: dict[Partition, Committer] = {}
        self._pause_s = SHORTEST_PAUSE_S
        self._turn = 0
        self._closed = False

    @property
    def url(self) -> str:
        return self._url

    @property
    def identity(self) -> str:
        return self._birth.identity

    @property
    def partitions(self) -> int:
        return self._birth.partitions

    @property
    def max_record_bytes(self) -> int:
        return self._birth.max_record_bytes

    def append(self, partition: Partition, payload: bytes) -> QueuedAppend:
        checked_payload(self, payload)
        committer = self._committer(checked_partition(self, partition))
        pending = self._backlog.enter(len(payload))
        committer.put(pending, payload)
        return pending

    def flush(self, timeout_s: float) -> None:
        self._backlog.drain(timeout_s)

    def begin(self, partition: Partition) -> Offset:
        store = self._partition(partition)
        store.check_not_replaced()
        return store.begin()

    def end(self, partition: Partition) -> Offset:
        store = self._partition(partition)
        store.check_not_replaced()
        return store.tail.read().offset

    def poll(
        self, wanted: Mapping[Partition, Offset], *, timeout_s: float, max_bytes: int = 8 << 20
    ) -> Mapping[Partition, Sequence[LogEntry]]:
        deadline = time.monotonic() + timeout_s
        while not (found := self._read(wanted, max_bytes)):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                for partition in wanted:
                    self._partition(partition).check_not_replaced()
                return found
            time.sleep(min(self._pause_s, remaining))
            self._pause_s = min(self._pause_s * PAUSE_GROWTH, LONGEST_PAUSE_S)
        self._pause_s = SHORTEST_PAUSE_S
        return found

    def truncate(self, partition: Partition, before: Offset) -> None:
        self._partition(partition).truncate(before)

    def close(self) -> None:
        """Commits what was queued, then gives threads and files back. Entries that were read stay valid."""
        with self._mutex:
            self._closed = True
            committers = list(self._committers.values())
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        stopped = [committer.stop(deadline - time.monotonic()) for committer in committers]
        with self._mutex:
            for reader in self._readers.values():
                reader.close()
            if all(stopped):
                for partition in self._partitions.values():
                    partition.close()
            self._readers.clear()
            self._partitions.clear()

    def _read(self, wanted: Mapping[Partition, Offset], max_bytes: int) -> dict[Partition, list[LogEntry]]:
        found: dict[Partition, list[LogEntry]] = {}
        self._turn += 1
        for partition in in_turn(wanted, self._turn):
            entries = self._reader(partition).read(wanted[partition], most_bytes=max(0, max_bytes), at_least=0 if found else 1)
            if entries:
                found[partition] = entries
                max_bytes -= sum(ENTRY_BYTES + len(entry.payload) for entry in entries)
        return found

    def _partition(self, partition: Partition) -> FilePartition:
        if (opened := self._partitions.get(partition)) is not None:
            return opened
        checked_partition(self, partition)
        with self._mutex:
            self._check_open()
            if partition not in self._partitions:
                opened = FilePartition(
                    self._folder / str(partition),
                    url=self.url,
                    identity=self.identity,
                    segment_bytes=self._birth.segment_bytes,
                    max_record_bytes=self._birth.max_record_bytes,
                    durable=self._fsync != "never",
                )
                if read_birth(self._folder).identity != self.identity:
                    opened.close()
                    raise another_log(self.url, self.identity)
                opened.settle()
                self._partitions[partition] = opened
            return self._partitions[partition]

    def _reader(self, partition: Partition) -> PartitionReader:
        if (reader := self._readers.get(partition)) is not None:
            return reader
        store = self._partition(partition)
        with self._mutex:
            self._check_open()
            return self._readers.setdefault(
                partition,
                PartitionReader(
                    self._folder / str(partition),
                    url=self.url,
                    partition=partition,
                    store=store,
                    max_record_bytes=self.max_record_bytes,
                ),
            )

    def _committer(self, partition: Partition) -> Committer:
        if (committer := self._committers.get(partition)) is not None and not self._closed:
            return committer
        opened = self._partition(partition)
        with self._mutex:
            self._check_open()
            return self._committers.setdefault(
                partition,
                Committer(opened, self._backlog, clock=self._clock, most_records=1 if self._fsync == "always" else 4096),
            )

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidInput(f"{self.url}: this log object is closed")


def open_file_log(folder: Path, *, partitions: int | None, create: LogSettings | None, fsync: Fsync = "batch") -> FileLog:
    """The log in `folder`, created first if `create` says with what. `Refused` when it has another number of partitions
    than asked for, or takes smaller records."""
    if create is not None and not (folder / LOG_FILE).exists():
        if partitions is None:
            raise InvalidInput(f"{folder}: to create a log, say how many partitions it has")
        create_file_log(folder, partitions=partitions, settings=create)
    birth = read_birth(folder)
    if partitions is not None and birth.partitions != partitions:
        raise Refused(f"the log in {folder} was born with {birth.partitions} partitions, {partitions} were asked for")
    if create is not None and birth.max_record_bytes < create.max_record_bytes:
        raise Refused(
            f"the log in {folder} takes records of {birth.max_record_bytes} bytes, max_record_bytes is {create.max_record_bytes}"
        )
    return FileLog(folder, fsync=fsync)


def fsync_policy(options: Mapping[str, str]) -> Fsync:
    """The file log's only option; `InvalidInput` names any other."""
    for name in options:
        if name != "fsync":
            raise InvalidInput(f"file log option {name!r} is unknown", hint="the only one is fsync")
    for policy in FSYNC_POLICIES:
        if policy == options.get("fsync", "batch"):
            return policy
    raise InvalidInput(f"fsync {options['fsync']!r} is none of {', '.join(FSYNC_POLICIES)}")
