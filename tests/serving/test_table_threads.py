"""One writer and four readers: no torn row, nothing older than what was seen before, and labels that stand still."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from races import READERS, race

from penstock.pipeline.core.errors import VersionGone
from penstock.pipeline.core.hashing import add_puts, buckets_of, partitions_of
from penstock.pipeline.core.ids import Partition
from penstock.serving.table import Table

BUCKETS, PARTITIONS, DIM, KEYS = 32, 2, 32, 20_000
POOL = np.arange(KEYS)
PARTS = partitions_of(buckets_of(POOL, BUCKETS), bucket_count=BUCKETS, partition_count=PARTITIONS)
OWN = [POOL[p == PARTS] for p in range(PARTITIONS)]
NONE = np.empty(0, np.int64)
SECONDS = 3.0


@pytest.fixture(autouse=True)
def _threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def new_table() -> Table:
    return Table(
        codec="float32", dim=DIM, width=4 * DIM, bucket_count=BUCKETS, partition_count=PARTITIONS, held=range(BUCKETS)
    )  # fmt: skip


def filled(keys: NDArray[np.int64], value: object) -> NDArray[np.uint8]:
    """Encoded rows: a value in every word, but the key in the last."""
    rows = np.empty((keys.size, DIM), np.float32)
    rows[:, :-1] = np.broadcast_to(np.asarray(value, np.float32), keys.size)[:, None]
    rows[:, -1] = keys
    return rows.view(np.uint8)


def values_of(keys: NDArray[np.int64], rows: NDArray[np.float32], found: NDArray[np.bool_]) -> NDArray[np.float32]:
    """One value a row, 0 where there is none."""
    assert (rows[:, :-1] == rows[:, :1]).all(), "a row is torn"
    assert (rows[:, -1] == np.where(found, keys, 0)).all(), "a row is another key's"
    assert (rows[~found] == 0).all()
    return rows[:, 0]


def test_readers_see_whole_rows_that_never_go_back() -> None:
    """The writer replaces, deletes, puts again, grows the index, marks, restores and forgets all the while."""
    table, rng = new_table(), np.random.default_rng(1)
    newest = [np.zeros(KEYS, np.float32) for _ in range(READERS)]
    dice = [np.random.default_rng(10 + reader) for reader in range(READERS)]

    def write(step: int) -> None:
        partition = Partition(step % PARTITIONS)
        keys = rng.choice(OWN[partition], 4000, replace=False)
        # Few keys at first: the index grows under the readers.
        keys = keys[keys < 1000 + 100 * step]
        table.apply(partition, keys[40:], filled(keys[40:], step + 1), keys[:40])
        if step % 16 == 0:
            table.mark(partition, step)
            table.forget(partition, step - 32)
        if step % 50 == 0:
            table.correct(partition, NONE, filled(NONE, 0), OWN[partition][:2000])

    def read(reader: int) -> None:
        keys = dice[reader].integers(0, KEYS, 40_000)
        rows, found = table.lookup(keys)
        values = values_of(keys, rows, found)
        assert (values[found] >= newest[reader][keys[found]]).all(), "a row went back"
        np.maximum.at(newest[reader], keys[found], values[found])

    race(write, read, seconds=SECONDS)
    assert max(found.max() for found in newest) > 0
    digests = np.zeros(BUCKETS, np.uint64)
    keys, rows = table.scan(range(BUCKETS))
    values_of(keys, rows.view(np.float32), np.ones(keys.size, np.bool_))
    add_puts(digests, keys, rows)
    assert (table.digests == digests).all()
    assert table.row_count == keys.size


def test_a_label_stands_still_under_the_writer() -> None:
    """Keys born later are not there, those deleted later are; whatever segments come, grow and go."""
    table, rng = new_table(), np.random.default_rng(2)
    for p in range(PARTITIONS):
        table.apply(Partition(p), OWN[p][::2], filled(OWN[p][::2], OWN[p][::2] + 1), NONE)
        table.mark(Partition(p), "still")
    there = np.isin(POOL, np.concatenate([own[::2] for own in OWN]))
    dice = [np.random.default_rng(10 + reader) for reader in range(READERS)]

    def write(step: int) -> None:
        partition = Partition(step % PARTITIONS)
        keys = rng.choice(OWN[partition], 300, replace=False)
        table.apply(partition, keys[100:], filled(keys[100:], -1 - step), keys[:100])
        if step % 5 == 0:
            table.mark(partition, step)
        later = table.labels(partition)[1:]
        if len(later) > 6:
            table.forget(partition, later[rng.integers(len(later))])

    def read(reader: int) -> None:
        keys = dice[reader].integers(0, KEYS, 2000)
        rows, found = table.lookup_at({Partition(p): "still" for p in range(PARTITIONS)}, keys)
        assert (found == there[keys]).all()
        assert (values_of(keys, rows, found) == np.where(found, keys + 1, 0)).all(), "a row is not the label's"

    race(write, read, seconds=SECONDS)


def test_labels_that_move_on_give_one_moment_or_are_gone() -> None:
    """All rows are n when label n is set, and of other values in between."""
    table, rng = new_table(), np.random.default_rng(3)
    newest, oldest = [-1], [0]

    def write(step: int) -> None:
        for p in range(PARTITIONS):
            some = rng.choice(OWN[p], 100, replace=False)
            table.apply(Partition(p), some[50:], filled(some[50:], -5), some[:50])
            few = OWN[p][:1000]
            table.apply(Partition(p), few, filled(few, step), NONE)
            table.mark(Partition(p), step)
        newest[0] = step
        if step >= 4:
            oldest[0] = step - 3
            for p in range(PARTITIONS):
                table.forget(Partition(p), step - 4)

    def read(reader: int) -> None:
        label = newest[0] - reader % 2
        if label < 0:
            return
        keys = np.concatenate([own[:1000] for own in OWN])
        try:
            rows, found = table.lookup_at({Partition(p): label for p in range(PARTITIONS)}, keys)
        except VersionGone:
            assert oldest[0] > label, "a label is gone too early"
            return
        assert found.all()
        assert (values_of(keys, rows, found) == label).all(), "a row is not the label's"

    race(write, read, seconds=SECONDS)
