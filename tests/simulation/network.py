"""The store and the log as one process sees them: every call is a turn, may be slow, may fail, may end the process.

What is durable stands in a memory store and a memory log; here is only what lies between. It knows no actor.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.pipeline.core.errors import OutcomeUnknown, PenstockError, StorageFull, Unreachable
from penstock.pipeline.ports.log import LogEntry
from penstock.pipeline.ports.log_checks import checked_payload
from penstock.pipeline.ports.memory_log import MemoryLog
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.pipeline.ports.store import Entry, Found, Overwrite

from .faults import Fault
from .scheduler import Process, Scheduler

OUTAGE = "the network is down"


@dataclass(eq=False)
class Network:
    """`faults` by the number of the call that they meet; `calls` counts those that may fail. `on_write(key, old, new)` sees every
    object that changes, old and new bytes or None; `on_poll(process)` is called before a process reads the log."""

    scheduler: Scheduler
    store: MemoryStore
    log: MemoryLog
    chance: random.Random
    faults: Mapping[int, Fault]
    on_write: Callable[[str, bytes | None, bytes | None], None]
    on_poll: Callable[[Process], None]
    on_zombie: Callable[[], None]
    on_truncate: Callable[[int, int], None]
    trace: Callable[[str], None] | None = None
    calls: int = 0
    quiet: bool = False
    """Nothing fails any more."""
    met: list[int] = field(default_factory=list)
    fingerprint: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=8))
    _down_until: float = 0.0

    def call(self, process: Process, name: str, what: str) -> str:
        """Takes a turn; returns which fault of a write the call meets, "" for none. What ends or fails any call does so here."""
        self.scheduler.turn()
        number, self.calls = self.calls, self.calls + (not self.quiet)
        fault = None if self.quiet else self.faults.get(number)
        line = f"{number} {self.scheduler.now:.4f} {process.name} {name} {what}" + (f" <- {fault}" if fault else "")
        self.fingerprint.update(line.encode())
        if self.trace is not None:
            self.trace(line)
        if not self.quiet and self.scheduler.now < self._down_until:
            raise Unreachable(OUTAGE)
        if fault is None:
            return ""
        self.met.append(number)
        if fault.kind == "crash":
            self._may_crash(process)
        elif fault.kind == "slow":
            self.scheduler.sleep(fault.seconds)
        elif fault.kind == "outage":
            self._down_until = self.scheduler.now + fault.seconds
            raise Unreachable(OUTAGE)
        elif fault.kind == "unreachable":
            raise Unreachable("not reached")
        elif fault.kind == "zombie":
            self.on_zombie()
        else:
            return fault.kind
        return ""

    def _may_crash(self, process: Process) -> None:
        if process is not self.scheduler.director.process:
            self.scheduler.crash()

    def write(self, process: Process, name: str, what: str, effect: Callable[[], Any], *, may_come_late: bool = False) -> Any:
        fate = self.call(process, name, what)
        if fate == "full":
            raise StorageFull("no space left")
        if fate == "unsent":
            raise OutcomeUnknown("no reply")
        if fate == "late" and may_come_late:
            self.scheduler.at(self.scheduler.now + self.chance.uniform(0.5, 15), lambda: _tried(effect))
            raise OutcomeUnknown("no reply yet")
        found = effect()
        if fate == "crash after":
            self._may_crash(process)
        if fate in ("lost", "late"):
            raise OutcomeUnknown("the reply was lost")
        return found

    def read(self, process: Process, name: str, what: str, effect: Callable[[], Any]) -> Any:
        if self.call(process, name, what):
            raise Unreachable("no reply")
        return effect()


def _tried(effect: Callable[[], Any]) -> None:
    """A request that arrives when nobody waits for the reply any more, be it a refusal."""
    try:
        effect()
    except PenstockError:
        return


@dataclass(eq=False)
class StoreClient:
    """An `ObjectStore`."""

    network: Network
    process: Process

    @property
    def url(self) -> str:
        return self.network.store.url

    def get(self, key: str) -> Found:
        return self.network.read(self.process, "get", key, lambda: self.network.store.get(key))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.network.read(self.process, "get_range", key, lambda: self.network.store.get_range(key, start, length))

    def size(self, key: str) -> int:
        return self.network.read(self.process, "size", key, lambda: self.network.store.size(key))

    def list(self, prefix: str) -> Iterator[Entry]:
        return iter(self.network.read(self.process, "list", prefix, lambda: list(self.network.store.list(prefix))))

    def put(self, key: str, data: bytes, condition: Any) -> Any:
        kept = bytes(data)
        late = not isinstance(condition, Overwrite)
        effect = lambda: self._changed(key, lambda: self.network.store.put(key, kept, condition))  # noqa: E731
        return self.network.write(self.process, "put", key, effect, may_come_late=late)

    def delete(self, key: str) -> None:
        self.network.write(self.process, "delete", key, lambda: self._changed(key, lambda: self.network.store.delete(key)))

    @contextmanager
    def upload(self, key: str, *, size_hint: int = 0) -> Iterator[Any]:
        self.network.read(self.process, "upload", key, lambda: None)
        parts: list[bytes] = []
        yield _Parts(parts)
        put = lambda: self.network.store.put(key, b"".join(parts), Overwrite())  # noqa: E731
        self.network.write(self.process, "end of upload", key, lambda: self._changed(key, put))

    def local_path(self, key: str) -> Path | None:
        return None

    def _changed(self, key: str, change: Callable[[], Any]) -> Any:
        objects = self.network.store._objects
        old = objects.get(key)
        found = change()
        if objects.get(key) != old:
            self.network.on_write(key, old, objects.get(key))
        return found


@dataclass(frozen=True)
class _Parts:
    parts: list[bytes]

    def write(self, block: bytes | bytearray | memoryview) -> None:
        self.parts.append(bytes(block))


@dataclass(eq=False)
class Sent:
    """A record on its way: a `Pending`."""

    client: LogClient
    partition: int
    payload: bytes
    fate: str
    offset: int | None = None
    lost: bool = False

    def done(self) -> bool:
        return self.offset is not None or self.lost

    def result(self, timeout_s: float) -> int:
        self.client.network.scheduler.wait(self.done, timeout_s)
        if self.offset is None or self.lost:
            raise OutcomeUnknown("the append was not acknowledged")
        return self.offset

    def land_alone(self) -> None:
        self.client.network.log.append(self.partition, self.payload)

    def land(self) -> None:
        self.client.under_way[self.partition].pop(0)
        if self.fate == "unsent" or self.client.dropped(self):
            self.lost = True
            return
        for _ in range(2 if self.fate == "duplicate" else 1):
            self.offset = int(self.client.network.log.append(self.partition, self.payload).offset)
        self.lost = self.fate in ("lost", "late")


@dataclass(eq=False)
class LogClient:
    """An `UpdateLog`. Partitions are as fast as they like; within one the order is kept."""

    network: Network
    process: Process
    under_way: dict[int, list[Sent]] = field(default_factory=dict)
    _busy_until: dict[int, float] = field(default_factory=dict)
    _kept: dict[int, int] | None = None

    @property
    def url(self) -> str:
        return self.network.log.url

    @property
    def identity(self) -> str:
        return self.network.log.identity

    @property
    def partitions(self) -> int:
        return self.network.log.partitions

    @property
    def max_record_bytes(self) -> int:
        return self.network.log.max_record_bytes

    def append(self, partition: int, payload: bytes) -> Sent:
        checked_payload(self, payload)
        fate = self.network.call(self.process, "append", str(partition))
        if fate == "full":
            raise StorageFull("no space left")
        sent = Sent(self, partition, bytes(payload), fate)
        chance, now = self.network.chance, self.network.scheduler.now
        delay = 0.0 if chance.random() < 0.6 else chance.uniform(0, 0.2)
        if fate == "stall":
            delay = chance.uniform(3, 15)
        if fate == "late":  # given up by the client, and it gets there behind what was sent later
            sent.lost = True
            again = Sent(self, partition, sent.payload, "")
            self.network.scheduler.at(now + chance.uniform(1, 20), again.land_alone)
            return sent
        self._busy_until[partition] = max(now + delay, self._busy_until.get(partition, 0.0))
        self.under_way.setdefault(partition, []).append(sent)
        if self._busy_until[partition] <= now:
            sent.land()
        else:
            self.network.scheduler.at(self._busy_until[partition], sent.land)
        if fate == "crash after":
            self.network._may_crash(self.process)
        return sent

    def dropped(self, sent: Sent) -> bool:
        """Of a process that died, the last records on their way may never arrive."""
        if not self.process.dead:
            return False
        if self._kept is None:
            self._kept = {p: self.network.chance.randint(0, len(some) + 1) for p, some in sorted(self.under_way.items())}
        self._kept[sent.partition] = self._kept.get(sent.partition, 0) - 1
        return self._kept[sent.partition] < 0

    def flush(self, timeout_s: float) -> None:
        self.network.scheduler.wait(lambda: not any(self.under_way.values()), timeout_s)

    def begin(self, partition: int) -> int:
        return self.network.read(self.process, "begin", str(partition), lambda: self.network.log.begin(partition))

    def end(self, partition: int) -> int:
        return self.network.read(self.process, "end", str(partition), lambda: self.network.log.end(partition))

    def poll(self, wanted: Mapping[int, int], *, timeout_s: float, max_bytes: int = 8 << 20) -> Mapping[int, Sequence[LogEntry]]:
        self.network.on_poll(self.process)
        self.network.read(self.process, "poll", str(dict(wanted)), lambda: None)
        inner = self.network.log
        if not any(inner.end(p) != offset for p, offset in wanted.items()):
            self.network.scheduler.wait(lambda: any(inner.end(p) != offset for p, offset in wanted.items()), timeout_s)
        found = dict(inner.poll(wanted, timeout_s=0, max_bytes=max_bytes))
        if self.network.quiet or not found:
            return found
        chosen = self.network.chance.sample(sorted(found), self.network.chance.randint(1, len(found)))
        return {p: found[p][: self.network.chance.choice((1, 2, 5, len(found[p])))] for p in chosen}

    def truncate(self, partition: int, before: int) -> None:
        def effect() -> None:
            self.network.log.truncate(partition, before)
            self.network.on_truncate(partition, before)

        self.network.write(self.process, "truncate", f"{partition} {before}", effect)

    def close(self) -> None:
        pass
