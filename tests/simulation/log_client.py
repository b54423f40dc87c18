"""The log as one process sees it: records on their way, which may be late, lost, repeated, or harmed. Knows no actor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from penstock.pipeline.core.errors import OutcomeUnknown, StorageFull
from penstock.pipeline.ports.log import LogEntry
from penstock.pipeline.ports.log_checks import checked_payload

from .broker import FOREIGN
from .network import Network
from .scheduler import Process


@dataclass(eq=False)
class Sent:
    """A record on its way: a `Pending`."""

    client: LogClient
    partition: int
    payload: bytes
    fate: str
    harm: str = ""
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
        network = self.client.network
        if self.harm == "foreign":
            network.log.append_harmed(self.partition, FOREIGN)
        elif self.harm == "damaged":
            self.offset = int(network.log.append_harmed(self.partition, damaged(self.payload)).offset)
            network.on_damage(self.partition, self.payload)
        for _ in range(0 if self.harm == "damaged" else 2 if self.fate == "duplicate" else 1):
            self.offset = int(network.log.append(self.partition, self.payload).offset)
        self.lost = self.fate in ("lost", "late")


def damaged(payload: bytes) -> bytes:
    """With one bit of what its checksum covers turned round."""
    at = len(payload) * 2 // 3
    return payload[:at] + bytes([payload[at] ^ 4]) + payload[at + 1 :]


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
        sent = Sent(self, partition, bytes(payload), fate, self.network.harm_of_record())
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
