"""Replicas of a world by hand: stepped until nothing is left to do, and what they serve."""

from __future__ import annotations

import msgspec
import numpy as np
from worlds import MODEL, TABLES, World

from penstock.pipeline.config import ReplicaConfig
from penstock.pipeline.core.coordination import DenseAnnouncement
from penstock.pipeline.core.ids import Partition
from penstock.pipeline.core.records import Record, RecordKind
from penstock.serving.replica import Replica
from penstock.slicer.dense import write_dense

SECOND = 1_000_000


def world_of(*, markers=3, before_image_bytes=1 << 20, max_request_keys=1000, **options) -> World:
    world = World(**options)
    settings = ReplicaConfig(markers=markers, before_image_bytes=before_image_bytes, max_request_keys=max_request_keys)
    world.config = msgspec.structs.replace(world.config, replica=settings)
    return world


def published(world: World, *keys):
    """A writer with a first snapshot of these keys in both tables."""
    writer = world.writer()
    for table in TABLES:
        writer.put(table, 1, *(keys or range(12)))
    world.commit(world.mark(writer), snapshot=True)
    return writer


def world_with(*keys, **options) -> World:
    """With a first snapshot."""
    world = world_of(**options)
    published(world, *keys)
    return world


def step(replica: Replica, rounds: int = 30) -> None:
    """Until there is nothing to do but wait."""
    replica.refresh()
    for _ in range(rounds):
        replica.step(0.0)


def partition(replica: Replica, p: int):
    return replica.follower.partitions[Partition(p)]


def counted(replica: Replica, name: str) -> int:
    return sum(getattr(state.counters, name) for state in replica.follower.partitions.values())


def rows_of(replica: Replica) -> dict[str, dict[int, tuple[float, float]]]:
    """Every row that is held."""
    found = {}
    for name, table in replica.follower.tables.items():
        keys, rows = table.scan(replica.buckets)
        found[name] = {key: tuple(row) for key, row in zip(keys.tolist(), rows.view("<f4").tolist(), strict=True)}
    return found


def held_of(world: World, model, buckets: range):
    """The part of a model that a holder of these buckets serves."""
    from penstock.pipeline.core.hashing import buckets_of

    return {
        table: {k: row for k, row in rows.items() if int(buckets_of(np.array([k]), world.buckets)[0]) in buckets}
        for table, rows in model.items()
    }


def check_same(world: World, *replicas: Replica) -> None:
    """All are at rest, and hold the same as a newcomer, bit by bit."""
    newcomers = {}
    for replica in replicas:
        at = (replica.follower.ref, replica.buckets)
        if at not in newcomers:
            newcomers[at] = Replica(world.environment(), name="newcomer", ref=replica.ref, buckets=replica.buckets)
            step(newcomers[at])
        step(replica)
        assert not [state.alarm for state in replica.follower.partitions.values() if state.alarm]
        assert replica.version == newcomers[at].version == world.catalog.refs().ref(replica.ref).version
        assert rows_of(replica) == rows_of(newcomers[at])
        for name, table in replica.follower.tables.items():
            assert np.array_equal(table.digests, newcomers[at].follower.tables[name].digests), name


def announce_dense(world: World, writer, value: float):
    """A dense slice with one tensor, in the store; the announcements of it, one a partition, to be sent by the caller."""
    info = write_dense(world.store, f"{MODEL}/announced/{world.new_id()}", {"w": np.full(2, value, np.float32)})
    writer.dense, writer.announced = info, writer.announced + 1
    found = DenseAnnouncement(number=writer.announced, path=info.path, bytes=info.bytes, digest=info.digest)
    text = msgspec.json.encode(found).decode()
    return [lambda p=p: writer._append(RecordKind.DENSE, p, text=text) for p in range(world.partitions)]


def dense_value(replica: Replica) -> float | None:
    return None if replica.dense is None else float(replica.dense.tensors["w"][0])


def fence(world: World, timeline: int, p: int) -> int:
    return world.append(Record(kind=RecordKind.FENCE, timeline=timeline, partition=p))
