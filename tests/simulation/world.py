"""One model with everybody who works on it, and who is started again when they die."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.pipeline.catalog.catalog import Actor, Catalog
from penstock.pipeline.config import Config, parse_config
from penstock.pipeline.core.checkpoint import Sidecar
from penstock.pipeline.core.ids import Position, Positions
from penstock.pipeline.environment import Environment
from penstock.pipeline.ports.memory_log import MemoryLog
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.serving.replica import Replica

from .faults import Fault
from .invariants import EPOCH, MODEL, Invariants, Key, Row
from .network import LogClient, Network, StoreClient
from .scheduler import Process, Scheduler

SKEW_US = 2_000_000
KEYS = list(range(10))
REPLICAS = ("r0", "r1")


def config_of(chance: random.Random, publishers: int) -> Config:
    """Short times, so that much happens in a run; what a seed may change is changed."""
    return parse_config(
        f"""
        [store]
        url = "file:///nowhere"
        [log]
        url = "file:///nowhere"
        [models.{MODEL}]
        buckets = 8
        [realtime]
        linger_ms = {chance.choice((0, 50))}
        beat = "3s"
        flush_timeout = "6s"
        max_event_skew = "4s"
        overflow = "{chance.choice(("block", "shed"))}"
        queue_bytes = {chance.choice((1200, 1 << 20))}
        reserve_ahead = "{3 if publishers > 1 else chance.choice((0, 0, 3))}s"
        touched_keys = {chance.choice((6, 1000, 1000))}
        [replica]
        markers = {chance.choice((1, 3))}
        before_image_bytes = {chance.choice((0, 1 << 20))}
        refresh = "700ms"
        lease = "9s"
        [recovery]
        window = "{chance.choice((20, 40, 600))}s"
        [retention]
        publish_deadline = "{chance.choice((5, 30))}s"
        """,
        "simulation",
    )


@dataclass
class Saved:
    """A checkpoint on the trainer's disk."""

    sidecar: Sidecar
    rows: dict[Key, Row]
    learned: int
    through: int
    dense: Row | None


@dataclass(eq=False)
class World:
    """`budget`: how many actions trainers, publishers and operators may take until they come to rest."""

    scheduler: Scheduler
    chance: random.Random
    faults: Mapping[int, Fault]
    trace: Callable[[str], None] | None
    config: Config = field(init=False)
    publishers: int = field(init=False)
    saved: list[Saved] = field(default_factory=list)
    replicas: dict[str, Replica] = field(default_factory=dict)
    serial: int = 0
    budget: int = 0
    busy: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    _ids: int = 0

    def __post_init__(self) -> None:
        self.publishers = self.chance.choice((1, 1, 2))
        self.config = config_of(self.chance, self.publishers)
        self.store = MemoryStore()
        partitions = self.chance.choice((1, 2, 3))
        self.log = MemoryLog(partitions, identity="log", clock=self.true_time)
        self.invariants = Invariants(self.store, self.log)
        self.start_trainer: Callable[[], object] = lambda: None
        self.network = Network(
            scheduler=self.scheduler, store=self.store, log=self.log, chance=random.Random(self.chance.random()),
            faults=self.faults, on_write=self.invariants.on_write, on_poll=self.on_poll,
            on_zombie=self.another_trainer, on_truncate=self.invariants.on_truncate, trace=self.trace,
        )  # fmt: skip
        born = Positions("log", tuple(Position(0, {}) for _ in range(partitions)))
        actor = Actor(who="operator", now=self.true_time())
        Catalog.create(self.store, MODEL, buckets=8, positions=born, actor=actor, new_id=self.new_id)

    def at_rest(self) -> bool:
        """Only replicas are at work."""
        return self.busy <= len(REPLICAS)

    def another_trainer(self) -> None:
        self.start_trainer()

    def true_time(self) -> int:
        return EPOCH + round(self.scheduler.now * 1e6)

    def new_id(self) -> str:
        self._ids += 1
        return f"id{self._ids}"

    def next_serial(self) -> int:
        self.serial += 1
        return self.serial

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def tell(self, what: str) -> None:
        """Into the trace."""
        line = f"# {self.scheduler.now:.4f} {what}"
        self.network.fingerprint.update(line.encode())
        if self.trace is not None:
            self.trace(line)

    def process(self, name: str) -> Process:
        """With a clock of its own."""
        return Process(name, skew_us=self.chance.randint(-SKEW_US, SKEW_US))

    def environment(self, process: Process) -> Environment:
        return Environment(
            config=self.config,
            catalog=Catalog(StoreClient(self.network, process), MODEL, self.new_id),  # type: ignore[arg-type]
            log=LogClient(self.network, process),  # type: ignore[arg-type]
            clock=lambda: self.true_time() + process.skew_us,  # type: ignore[arg-type,return-value]
            who=process.name,
        )

    def keep_up(self, name: str, work: Callable[[Process], Any], *, again: Callable[[], bool]) -> Process:
        """Runs `work` in a process, and in a new one when that dies, as long as `again` says so."""
        process = self.process(name)
        self.busy += 1

        def run() -> None:
            ended = False
            try:
                work(process)
                ended = True
            finally:
                self.busy -= 1
                if not ended and process.dead and again():
                    self.count("restarts")
                    self.tell(f"{name} died")
                    delay = self.chance.choice((0.1, 1.0, 5.0))
                    self.scheduler.at(self.scheduler.now + delay, lambda: self.keep_up(name, work, again=again))

        self.scheduler.spawn(process, name, run)
        return process

    def on_poll(self, process: Process) -> None:
        replica = self.replicas.get(process.name)
        if replica is not None and self.scheduler.current.process is process and replica.env.who == process.name:
            self.invariants.look_at(replica)
