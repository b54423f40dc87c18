"""A replica in a process of its own that is read while it follows. When it has taken in what came, the probes are looked up: what
is found there could be read from the moment on at which the replica had gone on from its partition. Told what to do by
`bench_readers`."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from penstock.serving.replica import Replica

from ..config import Config
from ..core.ids import Offset, Partition
from ..environment import open_environment
from ..ports.log import LogEntry, Pending, UpdateLog
from .bench_probes import TABLE, Load, Noted
from .bench_readers import LOST_S, CatchUp, CaughtUp, Observed, Watch

PAUSE_S = 0.02


class Given(dict[Partition, Sequence[LogEntry]]):
    """What a poll gave, by partition; it is noted when its reader goes on from each."""

    def __init__(self, found: Mapping[Partition, Sequence[LogEntry]]) -> None:
        super().__init__(found)
        self.taken_ns: dict[Partition, int] = {}

    def items(self) -> Iterator[tuple[Partition, Sequence[LogEntry]]]:  # type: ignore[override]
        for partition, entries in super().items():
            yield partition, entries
            self.taken_ns[partition] = time.monotonic_ns()


class WatchedLog:
    """An update log whose reader is watched: `taken` is called with when it had taken in each partition of a poll, once it comes
    back for more."""

    def __init__(self, log: UpdateLog) -> None:
        self.taken: Callable[[Mapping[Partition, int]], object] = _nothing
        self._log, self._given = log, Given({})

    @property
    def url(self) -> str:
        return self._log.url

    @property
    def identity(self) -> str:
        return self._log.identity

    @property
    def partitions(self) -> int:
        return self._log.partitions

    @property
    def max_record_bytes(self) -> int:
        return self._log.max_record_bytes

    def append(self, partition: Partition, payload: bytes) -> Pending:
        return self._log.append(partition, payload)

    def flush(self, timeout_s: float) -> None:
        self._log.flush(timeout_s)

    def begin(self, partition: Partition) -> Offset:
        return self._log.begin(partition)

    def end(self, partition: Partition) -> Offset:
        return self._log.end(partition)

    def poll(
        self, wanted: Mapping[Partition, Offset], *, timeout_s: float, max_bytes: int = 8 << 20
    ) -> Mapping[Partition, Sequence[LogEntry]]:
        if self._given.taken_ns:
            self.taken(self._given.taken_ns)
        self._given = Given(self._log.poll(wanted, timeout_s=timeout_s, max_bytes=max_bytes))
        return self._given

    def truncate(self, partition: Partition, before: Offset) -> None:
        self._log.truncate(partition, before)

    def close(self) -> None:
        self._log.close()


def serve(pipe: Connection, config: Config, model: str, load: Load) -> None:
    """Begins, says "ready", then does what is asked. It follows from the first watch on."""
    with open_environment(config, model) as env:
        log = WatchedLog(env.log)
        replica, follows = Replica(dataclasses.replace(env, log=log), name="bench"), False
        try:
            pipe.send("ready")
            while True:
                asked = pipe.recv()
                if isinstance(asked, CatchUp):
                    pipe.send(_caught_up(replica, asked.stages))
                else:
                    if not follows:
                        replica.start()
                        follows = True
                    pipe.send(_observed(pipe, replica, log, load, asked))
        finally:
            replica.close()


def _caught_up(replica: Replica, stages: Iterable[Mapping[Partition, Offset]]) -> list[CaughtUp]:
    """From the first rows on, as it has to connect before."""
    states, found, started = replica.follower.partitions, [], 0.0
    for ends in stages:
        rows = 0
        while any(states[p].offset < end and not states[p].alarm for p, end in ends.items()):
            taken = replica.step(PAUSE_S)
            rows, started = (rows + taken, started) if started else (0, time.perf_counter() if taken else 0.0)
        now = time.perf_counter()
        found.append(CaughtUp(rows, now - started if started else 0.0))
        started = now if started else 0.0
    return found


def _observed(pipe: Connection, replica: Replica, log: WatchedLog, load: Load, asked: Watch) -> Observed:
    probes, noted = load.probes(), Noted(load.partitions)
    stopped, lookups_ms = threading.Event(), list[float]()

    def look(taken_ns: Mapping[Partition, int]) -> None:
        found, at = replica.lookup(TABLE, probes).rows[:, 0].astype(np.int64), np.full(load.partitions, time.monotonic_ns())
        at[list(taken_ns)] = list(taken_ns.values())
        noted.look(found, at)

    log.taken = look
    asking = threading.Thread(target=_ask, args=(replica, load, asked.lookup_keys, stopped.is_set, lookups_ms), daemon=True)
    asking.start()
    pipe.send("watching")
    try:
        last = pipe.recv().number
        patience = time.monotonic() + LOST_S
        while replica.failure is None and noted.newest.min() < last and time.monotonic() < patience:
            time.sleep(PAUSE_S)
    finally:
        log.taken = _nothing
        stopped.set()
        asking.join()
    if replica.failure is not None:
        raise replica.failure
    return Observed(noted.seen(), np.array(lookups_ms))


def _nothing(taken_ns: Mapping[Partition, int]) -> None:
    """Where nobody watches."""


def _ask(replica: Replica, load: Load, keys: int, stopped: Callable[[], bool], taken: list[float]) -> None:
    """Lookups of so many keys, back to back; none of no keys."""
    rng = np.random.default_rng(1)
    batches: list[NDArray[np.int64]] = [rng.integers(0, load.rows, keys) for _ in range(8)] if keys else []
    while batches and not stopped():
        for batch in batches:
            started = time.perf_counter()
            replica.lookup(TABLE, batch)
            taken.append((time.perf_counter() - started) * 1e3)
