"""What lies between processes and what is durable: every call is a turn, may be slow, may fail, may end the process; and the
store as one process sees it. It knows no actor.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.pipeline.core.errors import OutcomeUnknown, PenstockError, StorageFull, Unreachable
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.pipeline.ports.store import Entry, Found, Overwrite

from .broker import Broker
from .faults import BROKER, RECORD, Fault
from .scheduler import Process, Scheduler

OUTAGE = "the network is down"


@dataclass(eq=False)
class Network:
    """`faults` by the number of the call that they meet; `calls` counts those that may fail. `on_write(key, old, new)` sees every
    object that changes, old and new bytes or None; `on_call(process)` is called before each call, `on_poll(process)` before a
    process reads the log; `on_damage(partition, payload)` tells what a record held that nobody can read, and `on_broker(kind)`
    that the log itself is in trouble."""

    scheduler: Scheduler
    store: MemoryStore
    log: Broker
    chance: random.Random
    faults: Mapping[int, Fault]
    on_write: Callable[[str, bytes | None, bytes | None], None]
    on_call: Callable[[Process], None]
    on_poll: Callable[[Process], None]
    on_damage: Callable[[int, bytes], None]
    on_broker: Callable[[str], None]
    on_zombie: Callable[[], None]
    on_truncate: Callable[[int, int], None]
    trace: Callable[[str], None] | None = None
    calls: int = 0
    quiet: bool = False
    """Nothing fails any more."""
    met: list[int] = field(default_factory=list)
    fingerprint: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=8))
    _down_until: float = 0.0
    _harm: str = ""
    """What becomes of the next record."""

    def call(self, process: Process, name: str, what: str) -> str:
        """Takes a turn; returns which fault of a write the call meets, "" for none. What ends or fails any call does so here."""
        self.scheduler.turn()
        self.on_call(process)
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
        elif fault.kind in BROKER:
            self.on_broker(fault.kind)
        elif fault.kind in RECORD:
            self._harm = fault.kind
        else:
            return fault.kind
        return ""

    def harm_of_record(self) -> str:
        """What becomes of the record that is sent now, "" for nothing."""
        harm, self._harm = self._harm, ""
        return "" if self.quiet else harm

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
