"""A replica that follows a log under four readers: no row is torn, and none is older than the position reported before."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from races import race
from served import published, world_of

from penstock.pipeline.core.hashing import buckets_of, partitions_of
from penstock.pipeline.core.ids import Partition
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.core.schema import TableSchema
from penstock.serving.replica import Replica

DIM, KEYS = 32, 600


@pytest.fixture(autouse=True)
def _threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Followed:
    """A replica, and a log whose every record writes all keys of a partition; the words of all its rows are its offset."""

    def __init__(self) -> None:
        world = world_of()
        world.catalog.add_tables({"wide": TableSchema(dim=DIM, codec="float32", width=4 * DIM)})
        writer = published(world)
        self.world, self.append = world, writer._append
        self.replica = Replica(world.environment(), name="r")
        keys = np.arange(KEYS)
        parts = partitions_of(buckets_of(keys, world.buckets), bucket_count=world.buckets, partition_count=world.partitions)
        self.keys = {Partition(p): keys[parts == p] for p in range(world.partitions)}
        self.begun = dict.fromkeys(self.keys, 0)
        self.rounds = 0

    def write(self, _step: int) -> None:
        for partition, keys in self.keys.items():
            offset = self.world.log.end(partition)
            rows = np.full((keys.size, DIM), offset, "<f4").view(np.uint8)
            assert self.append(RecordKind.ROWS, partition, text="wide", keys=keys, rows=rows) == offset
            self.begun[partition] = self.begun[partition] or offset
        self.replica.step(0.0)
        self.rounds += 1
        if self.rounds % 100 == 0:
            for partition in self.keys:
                self.world.log.truncate(partition, self.replica.follower.partitions[partition].applied)

    def read(self, reader: int) -> None:
        partition = Partition(reader % len(self.keys))
        reported = self.replica.follower.partitions[partition].applied
        answer = self.replica.lookup("wide", self.keys[partition])
        assert (answer.rows == answer.rows[:, :1]).all(), "a row is torn"
        if self.begun[partition] and reported > self.begun[partition]:
            assert answer.found.all()
            assert (answer.rows[:, 0] >= reported - 1).all(), "a row is older than what was reported"
        assert answer.positions[partition] >= reported


@pytest.mark.parametrize("seconds", [3.0, pytest.param(60.0, marks=pytest.mark.slow)])
def test_no_row_is_torn_or_older_than_the_position_reported_before(seconds: float) -> None:
    followed = Followed()
    counts = race(followed.write, followed.read, seconds=seconds)
    table = followed.replica.follower.tables["wide"]
    written = counts[-1] * KEYS
    assert table._slab.top < written / 2, "slots are used again and again"
