"""The serving table against dicts: whatever is done to it, in whatever order, it answers as they do."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from penstock.pipeline.core.errors import InvalidInput, VersionGone
from penstock.pipeline.core.hashing import add_puts, add_tombstones, buckets_of, partitions_of
from penstock.pipeline.core.ids import Partition
from penstock.serving.segments import Segment
from penstock.serving.table import Table

BUCKETS, PARTITIONS, DIM, MAX_LABELS = 24, 3, 3, 3
POOL = np.arange(-60, 60)
CROWD = np.arange(10_000, 12_000)
Rows = dict[int, bytes]


@dataclass
class Remembered:
    label: int
    rows: Rows
    """Of the partition, at the label."""
    written: set[int] = field(default_factory=set)


def bucket(key: int) -> int:
    return int(buckets_of(np.array([key]), BUCKETS)[0])


def partition_of(key: int) -> Partition:
    buckets = buckets_of(np.array([key]), BUCKETS)
    return Partition(int(partitions_of(buckets, bucket_count=BUCKETS, partition_count=PARTITIONS)[0]))


BUCKET = {int(key): bucket(key) for key in [*POOL, *CROWD]}
PARTITION = {key: partition_of(key) for key in BUCKET}
SEEDS = st.integers(0, 1 << 20)
"""What is chosen by one is a function of it: far more steps fit into a run than with lists of keys."""
PARTS = st.sampled_from([Partition(p) for p in range(PARTITIONS)])
LABELS = st.integers(0, 5)


def array(keys: object) -> NDArray[np.int64]:
    return np.array(sorted(keys), np.int64)  # type: ignore[call-overload]


def encoded(rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    keys = array(rows)
    return keys, np.frombuffer(b"".join(rows[int(key)] for key in keys), np.uint8).reshape(-1, 4 * DIM)


class Tables(RuleBasedStateMachine):
    image_bytes = 1 << 30

    @initialize(first=st.sampled_from([0, 3, 8]), stop=st.sampled_from([16, 21, 24]))
    def begin(self, first: int, stop: int) -> None:
        self.held = range(first, stop)
        self.table = Table(
            codec="float32", dim=DIM, width=4 * DIM, bucket_count=BUCKETS, partition_count=PARTITIONS, held=self.held,
            image_bytes=self.image_bytes, max_labels=MAX_LABELS,
        )  # fmt: skip
        self.mine = [int(key) for key in POOL if BUCKET[int(key)] in self.held]
        self.rows: Rows = {}
        self.remembered: dict[Partition, list[Remembered]] = {Partition(p): [] for p in range(PARTITIONS)}
        self.step = 0

    # ---- the model -----------------------------------------------------------------------------------------------------

    def fresh(self, keys: list[int]) -> Rows:
        self.step += 1
        return {key: np.array([key, self.step, 1], np.float32).tobytes() for key in keys}

    def write(self, puts: Rows, tombstones: list[int]) -> None:
        for key in [*puts, *tombstones]:
            for found in self.remembered[PARTITION[key]]:
                found.written.add(key)
        self.rows.update(puts)
        for key in tombstones:
            self.rows.pop(key, None)

    def some(self, seed: int, partition: Partition | None = None) -> list[int]:
        keys = [key for key in self.mine if partition is None or PARTITION[key] == partition]
        rng = np.random.default_rng(seed)
        return [key for key, drawn in zip(keys, rng.random(len(keys)) < rng.choice([0.02, 0.2, 0.7]), strict=True) if drawn]

    def label_of(self, seed: int, partition: Partition) -> Remembered | None:
        found = self.remembered[partition]
        return found[(seed >> partition) % len(found)] if found else None

    # ---- writes --------------------------------------------------------------------------------------------------------

    @rule(seed=SEEDS, partition=PARTS)
    def apply(self, seed: int, partition: Partition) -> None:
        puts, tombstones = self.fresh(self.some(seed, partition)), self.some(~seed & 0xFFFFF, partition)
        self.table.apply(partition, *encoded(puts), array(tombstones))
        self.write(puts, tombstones)

    @rule(seed=SEEDS)
    def load(self, seed: int) -> None:
        puts = self.fresh(self.some(seed))
        self.table.load(*encoded(puts))
        self.corrected(puts, [])

    @rule(seed=SEEDS)
    def load_lent(self, seed: int) -> None:
        puts = self.fresh(self.some(seed))
        self.table.load_lent(*encoded(puts))
        self.corrected(puts, [])

    @rule(rows=st.integers(1, 60))
    def bring_in(self, rows: int) -> None:
        before, spent = self.table.borrowed_bytes, self.table.row_bytes
        assert self.table.bring_in(rows) == (self.table.borrowed_bytes > 0)
        assert self.table.borrowed_bytes <= before
        assert self.table.row_bytes >= spent

    @rule()
    def bring_in_all(self) -> None:
        while self.table.bring_in(1000):
            pass
        assert not any((segment.contents()[1] >= self.table._slab.lent).any() for segment in self.segments())
        assert not (self.table._index.contents()[1] >= self.table._slab.lent).any()

    def segments(self) -> list[Segment]:
        return [segment for row in self.table._segments._rows for segment in row]

    @rule(seed=SEEDS, partition=PARTS)
    def correct(self, seed: int, partition: Partition) -> None:
        puts, tombstones = self.fresh(self.some(seed, partition)), self.some(~seed & 0xFFFFF, partition)
        self.table.correct(partition, *encoded(puts), array(tombstones))
        self.corrected(puts, tombstones)

    def corrected(self, puts: Rows, tombstones: list[int]) -> None:
        self.rows.update(puts)
        for key in tombstones:
            self.rows.pop(key, None)
        for key in [*puts, *tombstones]:
            for found in self.remembered[PARTITION[key]]:
                if key not in found.written:
                    found.rows.pop(key, None)
                    if key in self.rows:
                        found.rows[key] = self.rows[key]

    @rule(partition=PARTS, count=st.integers(100, 600), stay=st.booleans())
    def crowd_comes_and_goes(self, partition: Partition, count: int, stay: bool) -> None:
        keys = [int(key) for key in CROWD if PARTITION[int(key)] == partition and BUCKET[int(key)] in self.held][:count]
        puts = self.fresh(keys)
        nothing = np.empty(0, np.int64), np.empty((0, 4 * DIM), np.uint8)
        self.table.apply(partition, *encoded(puts), nothing[0])
        self.write(puts, [])
        if not stay:
            self.table.apply(partition, *nothing, array(keys))
            self.write({}, keys)

    @rule(seed=SEEDS, first=st.integers(0, BUCKETS), count=st.integers(0, BUCKETS))
    def replace_buckets(self, seed: int, first: int, count: int) -> None:
        buckets = range(max(first, self.held.start), min(first + count, self.held.stop))
        inside = {key: row for key, row in self.rows.items() if BUCKET[key] in buckets}
        kept = {key: row for key, row in inside.items() if key not in self.some(seed)}
        put = self.fresh([key for key in self.some(~seed & 0xFFFFF) if BUCKET[key] in buckets])
        self.table.replace_buckets(buckets, *encoded(kept | put))
        self.write(put, [key for key in inside if key not in kept | put])

    # ---- labels --------------------------------------------------------------------------------------------------------

    @rule(partition=PARTS, label=LABELS)
    def mark(self, partition: Partition, label: int) -> None:
        self.table.mark(partition, label)
        found = [f for f in self.remembered[partition] if f.label != label]
        rows = {key: row for key, row in self.rows.items() if PARTITION[key] == partition}
        self.remembered[partition] = [*found, Remembered(label, rows)][-MAX_LABELS:]

    @rule(label=LABELS)
    def mark_everywhere(self, label: int) -> None:
        for partition in self.remembered:
            self.mark(partition, label)

    @rule(partition=PARTS, label=LABELS)
    def forget(self, partition: Partition, label: int) -> None:
        self.table.forget(partition, label)
        self.remembered[partition] = [f for f in self.remembered[partition] if f.label != label]

    @rule(seed=SEEDS)
    def lookup_at(self, seed: int) -> None:
        chosen = {p: self.label_of(seed, p) for p in self.remembered}
        labels = {p: found.label for p, found in chosen.items() if found is not None}
        keys = array(BUCKET)
        try:
            rows, there = self.table.lookup_at(labels, keys)
        except InvalidInput:
            buckets = [range(8 * p, 8 * p + 8) for p in range(PARTITIONS) if p not in labels]
            assert any(bucket in self.held for part in buckets for bucket in part)
            return
        except VersionGone:
            for partition, found in chosen.items():
                if found is not None:
                    self.gone(partition, found)
            return
        for key, row, is_there in zip(keys.tolist(), rows, there.tolist(), strict=True):
            found = chosen[PARTITION[key]]
            expected = None if found is None else found.rows.get(key)
            assert (row.tobytes() if is_there else None) == expected

    def gone(self, partition: Partition, found: Remembered) -> None:
        raise AssertionError("within the budget no label loses its images")

    # ---- always --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: hasattr(self, "table"))
    @invariant()
    def the_rows_are_those_of_the_model(self) -> None:
        keys = array(BUCKET)
        rows, there = self.table.encoded(keys)
        assert {int(k): r.tobytes() for k, r in zip(keys[there], rows[there], strict=True)} == self.rows
        assert self.table.row_count == self.table._index.keys == len(self.rows)
        digests = np.zeros(BUCKETS, np.uint64)
        add_puts(digests, *encoded(self.rows))
        assert (self.table.digests == digests).all()

    @precondition(lambda self: hasattr(self, "table"))
    @invariant()
    def the_labels_are_those_of_the_model(self) -> None:
        for partition, remembered in self.remembered.items():
            assert self.table.labels(partition) == tuple(found.label for found in remembered)
            for found in remembered:
                written = self.table.written_since(partition, found.label)
                assert written is not None
                assert written.tolist() == sorted(found.written)
                digests = np.zeros(BUCKETS, np.uint64)
                present = {key: self.rows[key] for key in found.written if key in self.rows}
                add_puts(digests, *encoded(present))
                add_tombstones(digests, array(found.written - present.keys()))
                assert (self.table.interval(written) == digests).all()
            assert self.table.written_since(partition, "never") is None

    @precondition(lambda self: hasattr(self, "table"))
    @invariant()
    def every_slot_is_in_one_place(self) -> None:
        """It holds a row or an image, or is free, or will be; or it is lent. The images are within the budget, the newest of a
        partition."""
        slab, segments = self.table._slab, self.table._segments
        present = self.table._index.contents()[1]
        every = sorted(self.segments(), key=lambda segment: segment.order)
        images = [segment.contents()[1] for segment in every]
        assert [int((found > 0).sum()) for found in images] == [segment.images for segment in every]
        assert segments.images == sum(segment.images for segment in every) <= self.image_bytes // slab.stride
        for row in segments._rows:
            imaged = [segment.imaged for segment in row]
            assert imaged == sorted(imaged)
        known = np.concatenate([present, *images, slab.free[: slab.free_count], *(slots for _, slots in slab._retired)])
        assert np.sort(known[(known > 0) & (known < slab.lent)]).tolist() == list(range(1, slab.top))
        lent = [range(loan.first, loan.stop) for loan in slab._loans]
        assert all(
            any(slot in loan for loan in lent) for slot in np.concatenate([present, *images]).tolist() if slot >= slab.lent
        )

    @rule(first=st.integers(0, BUCKETS), count=st.integers(0, BUCKETS))
    def scan(self, first: int, count: int) -> None:
        inside = {key: row for key, row in self.rows.items() if first <= BUCKET[key] < first + count}
        keys, rows = self.table.scan(range(first, first + count))
        expected_keys, expected_rows = encoded(inside)
        assert keys.tolist() == expected_keys.tolist() == self.table.keys_in(range(first, first + count)).tolist()
        assert (rows == expected_rows).all()


class TablesWithABudget(Tables):
    """Labels lose their images here; what they still answer is right."""

    image_bytes = 40 * 4 * DIM

    def gone(self, partition: Partition, found: Remembered) -> None:
        assert any(f.written for row in self.remembered.values() for f in row)


TOLD = [HealthCheck.too_slow, HealthCheck.data_too_large]
LIMITS = settings(max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=TOLD)


@pytest.mark.parametrize("machine", [Tables, TablesWithABudget])
def test_the_table_is_as_the_dicts_are(machine: type[Tables]) -> None:
    case = machine.TestCase
    case.settings = LIMITS
    case().runTest()
