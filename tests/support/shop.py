"""A small model that is published for real, in memory: a trainer with rows, its checkpoints, and what a version holds, read back
by brute force. Every row repeats one value, so that a row is written as a number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from faulty import Faults, Faulty, every_failure
from trainer_world import CONFIG, NOW, World

from penstock.pipeline.catalog.catalog import Catalog
from penstock.pipeline.config import ModelConfig
from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.errors import PenstockError
from penstock.pipeline.core.history import table_layers
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.environment import Environment
from penstock.pipeline.ports.memory_log import MemoryLog
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.publishers.snapshot import publish_snapshot
from penstock.publishers.sources import Source, array_source
from penstock.publishers.verification import verify
from penstock.slicer.dense import read_dense
from penstock.slicer.layers import Layers
from penstock.slicer.run_layout import TableLayout

DIM, SECOND = 2, 1_000_000
Tables = dict[str, dict[int, float]]
TABLES: Tables = {"item": {key: float(key) for key in range(1, 7)}, "user": {-5: 1.5, 10**12: 2.5}}


def source_of(tables: Tables, dense: dict[str, float] | None = None, *, dim: int = DIM) -> Source:
    arrays = {
        name: (
            np.array(list(rows), np.int64),
            np.repeat(np.array(list(rows.values()), np.float32), dim).reshape(len(rows), dim),
        )
        for name, rows in tables.items()
    }
    return array_source(arrays, {name: np.full(3, value, np.float32) for name, value in (dense or {}).items()}, ModelConfig())


class Shop:
    """`tables` is what the trainer has; `through` the second that it has learned up to."""

    def __init__(self, tables: Tables = TABLES, *, model: ModelConfig | None = None) -> None:
        self.world = World()
        self.config = msgspec.structs.replace(CONFIG, models={"retail": model or ModelConfig()})
        self.tables = {name: dict(rows) for name, rows in tables.items()}
        self.seconds = 0
        self.dense = {"top": 1.0}
        self.updates = None

    @property
    def store(self) -> MemoryStore:
        return self.world.store

    @property
    def log(self) -> MemoryLog:
        return self.world.memory_log

    @property
    def env(self) -> Environment:
        return self.environment(self.store, self.log)

    @property
    def through(self) -> int:
        return NOW + self.seconds * SECOND

    def environment(self, store, log) -> Environment:
        return Environment(
            config=self.config, catalog=Catalog(store, "retail"), log=log, clock=lambda: NOW + 600 * SECOND, who="me"
        )

    def source(self) -> Source:
        return source_of(self.tables, self.dense)

    # ---- the trainer ---------------------------------------------------------------------------------------------------

    def train(self, table: str, puts: dict[int, float], deletes: tuple[int, ...] = (), *, send: bool = True) -> None:
        """Learns another second of rows, and sends them over the log unless they are kept back."""
        self.seconds += 1
        self.world.now = self.through
        self.tables.setdefault(table, {}).update(puts)
        for key in deletes:
            self.tables[table].pop(key, None)
        if not send:
            return
        if self.updates is None:
            self.updates = self.world.open()
        if puts:
            rows = np.repeat(np.array(list(puts.values()), np.float32), DIM).reshape(len(puts), DIM)
            self.updates.put(table, np.array(list(puts), np.int64), rows, trained_through=self.through)
        if deletes:
            self.updates.delete(table, np.array(deletes, np.int64), trained_through=self.through)

    def mark(self):
        """A checkpoint of the realtime tier; its sidecar."""
        if self.updates is None:
            self.updates = self.world.open()
        self.updates.advance(self.through)
        return self.updates.mark()

    def reopen(self, **settings) -> None:
        """The trainer's publisher begins anew, from the newest version's state."""
        self.updates.close()
        state = self.env.catalog.history().newest.state
        self.updates = self.world.open(state, settings=dataclasses.replace(self.world.settings, **settings))

    def close(self) -> None:
        self.world.close()

    def published(self) -> Manifest:
        """Marks, and publishes a snapshot."""
        return publish_snapshot(self.env, self.source(), sidecar=self.mark())


def rows_of(env: Environment, version: Manifest, *, chain: list[Manifest] | None = None) -> Tables:
    """What a version holds, as a newcomer reads it."""
    found: Tables = {}
    env = Environment(config=env.config, catalog=Catalog(env.catalog.store, env.catalog.model), log=env.log)
    history = env.catalog.history()
    chain = chain or history.chain((history.of_state(version.state) or version).version)
    for table, schema in env.schema.tables.items():
        with Layers.open(env.catalog.store, TableLayout.of(env.schema, table), table_layers(chain, table)) as layers:
            found[table] = {}
            for keys, rows in layers.merged():
                values = codec(schema.codec).decode(rows, schema.dim)
                assert (values == values[:, :1]).all()
                found[table].update(zip(keys.tolist(), values[:, 0].tolist(), strict=True))
    return found


def dense_of(env: Environment, version: Manifest) -> dict[str, float]:
    return {name: float(values[0]) for name, values in read_dense(env.catalog.store, version.dense).items()}


def written(env: Environment, version: Manifest) -> dict[str, tuple[dict[int, float], set[int]]]:
    """What a version changes: rows and tombstones by table, tables without either left out."""
    found = {}
    for table, change in version.changes.items():
        puts, gone = {}, set()
        with Layers.open(env.catalog.store, TableLayout.of(env.schema, table), [change.runs]) as layers:
            for run in layers.runs:
                keys = run.keys().tolist()
                if run.info.kind == "rows":
                    puts.update(zip(keys, np.array(run.rows()).view("<f4")[:, 0].tolist(), strict=True))
                else:
                    gone.update(keys)
        if puts or gone:
            found[table] = (puts, gone)
    return found


def refused(env: Environment, error: type[PenstockError], match: str, run: Callable[[], object]) -> PenstockError:
    """`run` raises one clear error, and neither refs nor versions have changed."""
    before = env.catalog.refs()
    with pytest.raises(error, match=match) as raised:
        run()
    assert Catalog(env.catalog.store, env.catalog.model).refs() == before
    assert "\n" not in str(raised.value)
    return raised.value


def survives_every_failure(shop: Shop, run: Callable[[Environment], Manifest], check: Callable[[Environment, Manifest], None]):
    """Runs `run` on copies of the shop with every call of store and log failing once; what the live ref names is whole at any
    time, and the run made again ends as `check` says."""

    def world(faults: Faults):
        store, log = MemoryStore(), MemoryLog(shop.log.partitions, identity=shop.log.identity, clock=lambda: NOW)
        store._objects, log._records = dict(shop.store._objects), [list(records) for records in shop.log._records]
        return store, log, shop.environment(Faulty(store, faults), Faulty(log, faults))

    def once(faults: Faults) -> None:
        store, log, env = world(faults)
        worlds[0] = (store, log)
        run(env)

    worlds: list = [None]
    count = 0
    for at, mode in every_failure(once):
        env = shop.environment(*worlds[0])
        assert verify(env).ok, (at, mode)
        manifest = run(env)
        check(shop.environment(*worlds[0]), manifest)
        found = verify(shop.environment(*worlds[0]))
        assert found.ok, (at, mode, found)
        count += 1
    assert count > 20
