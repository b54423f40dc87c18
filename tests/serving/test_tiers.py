"""Rows that stay in the files of the store: served at once, brought in beside readers and the log, or left there for good."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from served import check_same, published, rows_of, step, world_of
from waiting import reached
from worlds import MODEL, at

from penstock.pipeline.catalog.catalog import Catalog
from penstock.pipeline.core.errors import StorageFull
from penstock.pipeline.core.ids import Partition
from penstock.pipeline.core.schema import TableSchema
from penstock.pipeline.ports.local_store import LocalStore
from penstock.pipeline.ports.store import Overwrite
from penstock.publishers.promotion import promote
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event
from penstock.serving import chains
from penstock.serving.replica import Replica
from penstock.serving.table import Table
from penstock.serving.tiers import Budget, bring_in


def lent_table(rows: int) -> Table:
    table = Table(codec="float32", dim=8, width=32, bucket_count=8, partition_count=1, held=range(8))
    table.load_lent(np.arange(rows), np.repeat(np.arange(rows, dtype=np.float32), 8).view(np.uint8).reshape(rows, 32))
    return table


def test_the_smallest_tables_come_in_first_and_the_rest_stays() -> None:
    small, large, largest = lent_table(100), lent_table(1000), lent_table(2000)
    assert Budget(None).chosen([largest, small, large]) == [small, large, largest]
    assert Budget(1100 * 32).chosen([largest, small, large]) == [small, large]
    assert Budget(1099 * 32).chosen([largest, small, large]) == [small]
    assert Budget(0).chosen([largest, small, large]) == []
    with pytest.raises(StorageFull, match="table item: 3200 bytes"):
        Budget(3199).check("item", 3200, [])
    Budget(0).check("item", 0, [large])


def test_rows_come_in_beside_readers_and_a_writer() -> None:
    table, count = lent_table(200_000), 200_000
    keys, stop, failures = np.arange(count), threading.Event(), []

    def read() -> None:
        rng = np.random.default_rng(threading.get_ident() & 0xFFFF)
        while not stop.is_set():
            some = rng.integers(0, count, 5000)
            rows, found = table.lookup(some)
            if not (found.all() and (rows == rows[:, :1]).all() and ((rows[:, 0] == some) | (rows[:, 0] == -some)).all()):
                failures.append(rows)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    bring_in([table], Budget(None))
    for part in np.array_split(keys[::7], 50):
        table.apply(Partition(0), part, np.repeat(-part.astype(np.float32), 8).view(np.uint8).reshape(-1, 32), keys[:0])
    reached(lambda: not table.borrowed_bytes)
    stop.set()
    for reader in readers:
        reader.join()
    assert not failures
    assert (table.lookup(keys)[0][:, 0] == np.where(keys % 7, keys, -keys)).all()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes worlds whose store is a folder, so that runs are mapped, and whose replicas leave tables in them, however small."""
    monkeypatch.setattr(chains, "STAY_BYTES", 1)

    def of(**settings):
        world, store = world_of(), LocalStore(tmp_path)
        for entry in world.store.list(""):
            store.put(entry.key, world.store.get(entry.key).data, Overwrite())
        world.store, world.catalog = store, Catalog(store, MODEL, world.new_id)
        replica = msgspec.structs.replace(world.config.replica, **settings)
        world.config = msgspec.structs.replace(world.config, replica=replica)
        return world

    return of


def borrowed(replica: Replica) -> int:
    return sum(table.borrowed_bytes for table in replica.follower.tables.values())


@pytest.mark.parametrize("row_bytes", [None, 0, 8 * 48])
def test_a_replica_serves_follows_and_rolls_back_whatever_stays_in_the_files(folder, row_bytes) -> None:
    """Digests are compared with those stated all the while; a replica that would differ says so."""
    world = folder(row_bytes=row_bytes)
    writer = published(world, *range(40))
    writer.put("item", 2, *range(8), deleted=(9,))
    world.commit(world.mark(writer))
    replica = Replica(world.environment(), name="r")
    reached(lambda: borrowed(replica) == {None: 0, 0: 2 * 40 * 8, 8 * 48: 40 * 8}[row_bytes])
    before = rows_of(replica)
    for event in range(3, 6):
        writer.put("item", event, *range(event, 30, 2), deleted=(event,))
        writer.put("user", event, 5)
        world.commit(world.mark(writer))
        step(replica)
    keys = np.arange(40)
    assert replica.version == 5
    at_2 = replica.lookup("item", keys, version=2)
    assert {int(key): tuple(row) for key, row in zip(keys[at_2.found], at_2.rows[at_2.found], strict=True)} == before["item"]
    check_same(world, replica)
    promote(world.environment(), 2, ref="canary", why="try")
    old = Replica(world.environment(), name="old", ref="canary")
    step(old)
    assert rows_of(old) == before
    promote(world.environment(), 5, ref="canary", why="try")
    env = world.environment()
    execute(env, plan_rollback(env, before_event(at(4))), why="poison")
    check_same(world, replica, old)
    assert replica.version == 6


def test_files_that_are_gone_are_served_all_the_same(folder) -> None:
    world = folder(row_bytes=0)
    published(world, *range(40))
    replica = Replica(world.environment(), name="r")
    before = rows_of(replica)
    for entry in list(world.store.list("")):
        if "/data/" in entry.key:
            world.store.delete(entry.key)
    assert rows_of(replica) == before
    assert len(before["item"]) == 40


def test_what_cannot_stay_and_does_not_fit_is_refused(folder) -> None:
    world = world_of()
    world.config = msgspec.structs.replace(world.config, replica=msgspec.structs.replace(world.config.replica, row_bytes=64))
    published(world)
    with pytest.raises(StorageFull, match="table item: 96 bytes of rows, and 64 are given"):
        Replica(world.environment(), name="r")
    other = folder(row_bytes=0)
    other.catalog.add_tables({"odd": TableSchema(dim=2, codec="int8", width=10)})
    assert Replica(other.environment(), name="r").follower.tables["odd"].row_count == 0
