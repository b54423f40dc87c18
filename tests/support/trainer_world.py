"""One model in memory, its log read as a replica reads it, and a log that loses what a test tells it to lose."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from penstock.pipeline.catalog.catalog import Actor, Catalog
from penstock.pipeline.catalog.leases import create_claim
from penstock.pipeline.catalog.replay import replay, replay_live
from penstock.pipeline.config import Config, LogConfig, ModelConfig, StoreConfig
from penstock.pipeline.core.coordination import Claim
from penstock.pipeline.core.errors import OutcomeUnknown
from penstock.pipeline.core.history import effective
from penstock.pipeline.core.ids import BIRTH, Position, Positions, State
from penstock.pipeline.core.manifest import Manifest, Rollback, Target
from penstock.pipeline.core.records import Record, RecordKind, encode_record
from penstock.pipeline.core.schema import TableSchema
from penstock.pipeline.core.skips import Skips
from penstock.pipeline.core.times import NEVER
from penstock.pipeline.environment import Environment
from penstock.pipeline.ports.memory_log import MemoryLog
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.publishers.resuming import resume
from penstock.publishers.settings import RealtimeSettings
from penstock.publishers.updates import Updates

NOW = 1_700_000_000_000_000
Fate = Literal["ok", "lost", "unsent", "late"]
CONFIG = Config(store=StoreConfig(url="file:///nowhere"), log=LogConfig(url="file:///nowhere"), models={"retail": ModelConfig()})
HOUR_US = 3_600_000_000


@dataclass
class Unknown:
    def done(self) -> bool:
        return True

    def result(self, timeout_s: float) -> int:
        raise OutcomeUnknown("the log did not answer")


class Never:
    """An append that is never settled."""

    def done(self) -> bool:
        return False

    def result(self, timeout_s: float) -> int:
        raise OutcomeUnknown("not acknowledged in time")


class FatefulLog:
    """A log whose next appends meet the fates in `fates`; "late" ones land when `land` is called. `stuck` settles nothing."""

    def __init__(self, inner: MemoryLog) -> None:
        self.inner, self.fates, self.late, self.stuck = inner, [], [], False

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def append(self, partition, payload):
        fate = self.fates.pop(0) if self.fates else "ok"
        if self.stuck:
            return Never()
        if fate == "ok":
            return self.inner.append(partition, payload)
        if fate == "lost":
            self.inner.append(partition, payload)
        elif fate == "late":
            self.late.append((partition, payload))
        return Unknown()

    def land(self):
        for partition, payload in self.late:
            self.inner.append(partition, payload)
        self.late.clear()


@dataclass
class World:
    partitions: int = 2
    buckets: int = 8
    dim: int = 2
    settings: RealtimeSettings = field(
        default_factory=lambda: RealtimeSettings(beat_us=HOUR_US, flush_timeout_s=5.0, linger_s=0.0, record_bytes=1024)
    )

    def __post_init__(self) -> None:
        self.now = NOW
        self.store = MemoryStore()
        self.memory_log = MemoryLog(self.partitions, identity="log-1", clock=lambda: self.now)
        self.log = FatefulLog(self.memory_log)
        start = Positions("log-1", tuple(Position(0, {}) for _ in range(self.partitions)))
        self.catalog = Catalog.create(
            self.store, "retail", buckets=self.buckets, positions=start, actor=Actor(who="me", now=self.now)
        )
        self.opened = []

    def born(self, *tables: str) -> None:
        self.catalog.add_tables({name: TableSchema(dim=self.dim, codec="float32", width=4 * self.dim) for name in tables})

    def environment(self, *, store=None, log=None) -> Environment:
        catalog = Catalog(store or self.store, "retail")
        return Environment(config=CONFIG, catalog=catalog, log=log or self.log, clock=lambda: self.now, who="me")

    def open(self, state: State | None = None, *, publisher="trainer", settings=None, environment=None) -> Updates:
        environment, settings = environment or self.environment(), settings or self.settings
        updates = Updates(environment, resume(environment, publisher, state, settings), settings)
        self.opened.append(updates)
        return updates

    def close(self) -> None:
        for updates in self.opened:
            updates.close()

    def records(self, partition=None):
        """Everything in the log, as (partition, offset, record)."""
        schema = self.catalog.schema()
        for p in range(self.partitions) if partition is None else [partition]:
            for offset, record, *_ in replay(self.memory_log, schema, p, 0, self.memory_log.end(p), Skips()):
                yield p, offset, record

    def served(self, positions: Positions | None = None, state: State = BIRTH, *, start=None):
        """table -> {key: row as a tuple}: what the log from `positions` on makes of `start`, as every reader must see it."""
        schema, history = self.catalog.reload_schema(), self.catalog.history()
        tables = defaultdict(dict, {table: dict(rows) for table, rows in (start or {}).items()})
        for p in range(self.partitions):
            position = Position(0, {}) if positions is None else positions.partitions[p]
            end = self.memory_log.end(p)
            live = replay_live(self.memory_log, schema, history, p, position.offset, state.timeline, end, Skips())
            for entry in effective(live, position.readers, state.timeline):
                record = entry.record
                if record.kind == RecordKind.ROWS:
                    for key, row in zip(record.put_keys.tolist(), record.rows.view("<f4").tolist(), strict=True):
                        tables[record.table][key] = tuple(row)
                    for key in record.tombstones.tolist():
                        tables[record.table].pop(key, None)
        return {table: rows for table, rows in tables.items() if rows}


def rows_of(values, dim=2):
    """float32[n, dim] whose rows hold one value each."""
    return np.repeat(np.asarray(values, np.float32)[:, None], dim, axis=1)


def check_sequences(world: World) -> None:
    """In every partition each term of a publisher begins with its opening record and counts up by one, but for what got lost."""
    newest = {}
    for p, _, record in world.records():
        if record.kind == RecordKind.FENCE:
            continue
        at = (p, record.publisher, record.term)
        assert record.seq == newest.get(at, -1) + 1, (p, record)
        assert (record.seq == 0) == (record.kind == RecordKind.OPEN)
        newest[at] = record.seq


def claim(world, timeline=2):
    return create_claim(
        world.catalog,
        Claim(
            id=f"claim-{timeline}", timeline=timeline, parent=1, target=Target(kind="version"), of=1, base=0, tables=None,
            cuts=(0,) * world.partitions, who="operator", at=NOW, why="poison",
        ),
    )  # fmt: skip


def fence(world, timeline=2):
    offsets = []
    for p in range(world.partitions):
        record = Record(kind=RecordKind.FENCE, timeline=timeline, partition=p)
        offsets.append(world.memory_log.append(p, encode_record(record, world.catalog.schema().raw_id)).offset)
    return tuple(offsets)


def roll_back(world, fences, *, cut=None, timeline=2, marker=90):
    """Commits a rollback to the birth, the whole log before `fences` dead from `cut` on."""
    refs = world.catalog.refs()
    draft = Manifest(
        model="retail", version=0, kind="rollback", state=State(timeline, marker), previous=refs.trunk, base=0,
        positions=Positions("log-1", tuple(Position(offset + 1, {}) for offset in fences)), trained_through=NEVER,
        created_at=NOW, publisher="", term=0, upload="", changes={}, source="undo",
        rollback=Rollback(
            target=Target(kind="version"), cut=cut or (0,) * world.partitions, fence=fences, undo={}, lost_rows=0
        ),
    )  # fmt: skip
    return world.catalog.commit(draft, promote=("live",), guard=lambda refs: None, actor=Actor(who="me", now=NOW))
