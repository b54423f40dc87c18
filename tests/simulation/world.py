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
from penstock.pipeline.core.records import decode_record
from penstock.pipeline.environment import Environment
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.serving.replica import Replica

from . import features
from .broker import Broker
from .faults import Fault
from .features import Shapes
from .invariants import Content, Invariants
from .log_client import LogClient
from .network import Network, StoreClient
from .scheduler import Process, Scheduler
from .states import EPOCH, MODEL, Row, Rows
from .watching import Watch

SKEW_US = 2_000_000
KEYS = list(range(10))


def settings_of(chance: random.Random, publishers: int) -> str:
    """Short times, so that much happens in a run; what a seed may change is changed."""
    return f"""
        [store]
        url = "file:///nowhere"
        [log]
        url = "file:///nowhere"
        [realtime]
        linger_ms = {chance.choice((0, 50))}
        beat = "3s"
        flush_timeout = "6s"
        max_event_skew = "4s"
        overflow = "{chance.choice(("block", "shed", "priority"))}"
        queue_bytes = {chance.choice((200, 1200, 1 << 20))}
        max_staleness = "{chance.choice(("1s", "10s"))}"
        sketched_keys = 16
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
        [models.{MODEL}]
        buckets = 8
        """


@dataclass
class Saved:
    """A checkpoint on the trainer's disk."""

    sidecar: Sidecar
    rows: Rows
    learned: int
    through: int
    dense: Row | None
    shapes: Shapes


@dataclass(eq=False)
class World:
    """`budget`: how many actions trainers, publishers and operators may take until they come to rest. `shapes`: of the tables as
    trainers that are started now have them."""

    scheduler: Scheduler
    chance: random.Random
    faults: Mapping[int, Fault]
    trace: Callable[[str], None] | None
    shapes: Shapes = field(default_factory=Shapes)
    saved: list[Saved] = field(default_factory=list)
    replicas: dict[str, Replica] = field(default_factory=dict)
    followers: dict[str, Callable[[], dict[str, Any] | None]] = field(default_factory=dict)
    """Every replica that should be at work, with what it is made with; None while there is nothing for it to do."""
    serial: int = 0
    budget: int = 0
    busy: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    _ids: int = 0
    _configs: dict[Shapes, Config] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.publishers = self.chance.choice((1, 1, 2))
        self._settings = settings_of(self.chance, self.publishers)
        self.features = features.drawn(self.chance)
        self.store = MemoryStore()
        partitions = self.chance.choice((1, 2, 3))
        self.log = Broker(partitions, identity="log", clock=self.true_time)
        self.invariants = Invariants(self.store, self.log)
        self.watch = Watch(self.invariants, random.Random(self.chance.random()), KEYS)
        self.start_trainer: Callable[[], object] = lambda: None
        self.network = Network(
            scheduler=self.scheduler, store=self.store, log=self.log, chance=random.Random(self.chance.random()),
            faults=self.faults, on_write=self.invariants.on_write, on_call=self.on_call, on_poll=self.on_poll,
            on_damage=self.on_damage, on_broker=self.on_broker, on_zombie=self.another_trainer,
            on_truncate=self.invariants.on_truncate, trace=self.trace,
        )  # fmt: skip
        born = Positions("log", tuple(Position(0, {}) for _ in range(partitions)))
        actor = Actor(who="operator", now=self.true_time())
        Catalog.create(self.store, MODEL, buckets=8, positions=born, actor=actor, new_id=self.new_id)

    @property
    def config(self) -> Config:
        """As it is written now; with tables, where they change."""
        if self.shapes not in self._configs:
            text = self._settings
            for table in sorted(self.shapes.dims) if "reshaping" in self.features else ():
                is_retired = str(table in self.shapes.retired).lower()
                text += f'[models.{MODEL}.tables.{table}]\ntensor = "{table}"\nretired = {is_retired}\n'
            self._configs[self.shapes] = parse_config(text, "simulation")
        return self._configs[self.shapes]

    def at_rest(self) -> bool:
        """Only replicas are at work."""
        return self.busy <= len(self.followers)

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

    def save(self, saved: Saved) -> None:
        self.saved.append(saved)
        self.invariants.checkpoints[saved.sidecar.state] = Content(saved.rows, saved.dense, saved.shapes)
        self.tell(f"saved checkpoint {saved.sidecar.state}")

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

    # ---- what the network tells ------------------------------------------------------------------------------------------

    def _replica_of(self, process: Process) -> Replica | None:
        replica = self.replicas.get(process.name)
        is_its_own = self.scheduler.current.process is process and not process.dead
        return replica if replica is not None and is_its_own and replica.env.who == process.name else None

    def on_call(self, process: Process) -> None:
        if (replica := self._replica_of(process)) is not None:
            self.watch.ask(replica)

    def on_poll(self, process: Process) -> None:
        if (replica := self._replica_of(process)) is not None:
            self.watch.look_at(replica)

    def on_damage(self, partition: int, payload: bytes) -> None:
        """What the record held is in no fold of the log, until a whole checkpoint is compared."""
        self.count("damaged records")
        model_id = self.invariants.catalog.schema().raw_id
        record = decode_record(payload, model_id=model_id, partition=partition, name="log")  # type: ignore[arg-type]
        if len(record.keys):
            self.invariants.unclear = "a record was damaged"
        if (promises := self.invariants.promises) is not None and len(record.keys):
            table = self.invariants.catalog.reload_schema().table_of(record.table)
            promises.lost |= {(table, key) for key in record.keys.tolist()}

    def on_broker(self, kind: str) -> None:
        partition = self.chance.randrange(self.log.partitions)
        position = self.invariants.catalog.manifest(self.invariants.catalog.refs().trunk).positions.partitions[partition].offset
        begin, end = self.log.begin(partition), self.log.end(partition)  # type: ignore[arg-type]
        if kind == "unclean":
            if self.log.lose(partition, self.chance.randint(1, 4), down_to=max(position, begin)):
                self.count("lost records")
                self.invariants.unclear, self.invariants.promises = "records were lost", None
            return
        limit = end if kind == "emptied" else min(position, end)
        if limit > begin:
            self.count(f"log {kind}")
            self.log.cut_off(partition, self.chance.randint(begin + 1, limit))
            if kind == "emptied":
                self.invariants.promises = None
