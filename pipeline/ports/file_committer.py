"""The thread that commits one partition's queued appends, as many at once as there are; it knows nothing of files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Protocol

from ..core.errors import OutcomeUnknown, PenstockError
from ..core.ids import Offset
from ..core.times import WallTime
from .backlog import Backlog, QueuedAppend

GROUP_BYTES = 4 << 20
"""A group is closed once it has this many payload bytes."""


class Appendable(Protocol):
    def append(self, payloads: Sequence[bytes], appended_at: WallTime) -> Offset:
        """Commits all of them and returns the offset of the first, or raises."""


class Committer:
    """Starts its thread with the first append, and a new one should that ever die."""

    def __init__(self, partition: Appendable, backlog: Backlog, *, clock: Callable[[], WallTime], most_records: int) -> None:
        self._partition = partition
        self._backlog = backlog
        self._clock = clock
        self._most_records = most_records
        self._queue: SimpleQueue[tuple[QueuedAppend, bytes] | None] = SimpleQueue()
        self._mutex = Lock()
        self._thread: Thread | None = None

    def put(self, pending: QueuedAppend, payload: bytes) -> None:
        self._queue.put((pending, payload))
        if self._thread is None or not self._thread.is_alive():
            self._start()

    def stop(self, timeout_s: float) -> bool:
        """Ends the thread behind what was queued; what is not settled by then may be in the log. False: it goes on."""
        if self._thread is None:
            return True
        self._queue.put(None)
        self._thread.join(max(0.0, timeout_s))
        if self._thread.is_alive():
            self._backlog.give_up(OutcomeUnknown("the log was closed before the record was acknowledged"))
        return not self._thread.is_alive()

    def _start(self) -> None:
        with self._mutex:
            if self._thread is None or not self._thread.is_alive():
                self._thread = Thread(target=self._run, name="log committer", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            group, goes_on = self._group(first)
            self._commit(group)
            if not goes_on:
                return

    def _group(self, first: tuple[QueuedAppend, bytes]) -> tuple[list[tuple[QueuedAppend, bytes]], bool]:
        """What is queued now, within the bounds, and whether the thread goes on afterwards."""
        group, size = [first], len(first[1])
        while len(group) < self._most_records and size < GROUP_BYTES:
            try:
                queued = self._queue.get_nowait()
            except Empty:
                break
            if queued is None:
                return group, False
            group.append(queued)
            size += len(queued[1])
        return group, True

    def _commit(self, group: list[tuple[QueuedAppend, bytes]]) -> None:
        outcomes: list[tuple[QueuedAppend, Offset | PenstockError]] = [
            (pending, OutcomeUnknown("the commit of this record broke off")) for pending, _ in group
        ]
        try:
            first = self._partition.append([payload for _, payload in group], self._clock())
            outcomes = [(pending, Offset(first + index)) for index, (pending, _) in enumerate(group)]
        except PenstockError as error:
            outcomes = [(pending, error) for pending, _ in group]
        finally:
            self._backlog.settle(outcomes)
