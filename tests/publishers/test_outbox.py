"""Folding what waits: against a dict, whatever was put in whatever order."""

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.pipeline.core.hashing import buckets_of, partitions_of
from penstock.pipeline.core.records import NO_ROWS, row_record_bytes
from penstock.pipeline.core.schema import ModelSchema, TableSchema
from penstock.publishers.outbox import MAX_STEPS, TAKEN_BYTES, Outbox, Packing, Parcel, packed

SCHEMA = ModelSchema(
    model="m", id="00" * 16, buckets=16, partitions=3, log="log", created_at=0,
    tables={"a": TableSchema(dim=2, codec="float32", width=8), "b": TableSchema(dim=3, codec="float32", width=12)},
)  # fmt: skip
WIDTH = {"a": 8, "b": 12}
KEYS = st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5)
BATCHES = st.lists(
    st.tuples(st.sampled_from("ab"), st.booleans(), st.lists(KEYS, min_size=1, max_size=20), st.integers(0, 2)), max_size=30
)


def drained(outbox, record_bytes=1 << 20, **options):
    packing = Packing(schema=SCHEMA, publisher="trainer", record_bytes=record_bytes)
    return packed(outbox.take(1, through=0, now=0), packing, **options)


def batch(table, deletes, keys, through, stamp=0):
    rows = NO_ROWS if deletes else np.full((len(keys), WIDTH[table]), stamp % 251, np.uint8)
    if not deletes:
        rows[:, 0] = np.arange(len(keys))
    return Parcel(table=table, keys=np.array(keys, np.int64), rows=rows, through=through)


@settings(deadline=None)
@given(BATCHES, st.sampled_from([1, 150, 400, 1 << 20]))
def test_what_is_drained_is_what_was_put(batches, record_bytes):
    outbox, expected, through, written = Outbox(SCHEMA), defaultdict(dict), 0, set()
    for stamp, (table, deletes, keys, step) in enumerate(batches):
        through += step
        made = batch(table, deletes, keys, through, stamp)
        outbox.add(made, now=0)
        for i, key in enumerate(keys):
            expected[table][key] = None if deletes else made.rows[i].tobytes()
            written.add((table, key, through))
    found, newest = defaultdict(dict), dict.fromkeys(range(3), 0)
    for parcel in drained(outbox, record_bytes):
        size = row_record_bytes(
            rows=len(parcel.rows), tombstones=len(parcel.keys) - len(parcel.rows), width=WIDTH[parcel.table],
            publisher="trainer", table=parcel.table,
        )  # fmt: skip
        assert size <= record_bytes or len(parcel.keys) <= 2
        assert len(np.unique(parcel.keys)) == len(parcel.keys) > 0
        placed = partitions_of(buckets_of(parcel.keys, 16), bucket_count=16, partition_count=3)
        assert (placed == parcel.partition).all()
        assert parcel.through >= newest[parcel.partition]
        newest[parcel.partition] = parcel.through
        for i, key in enumerate(parcel.keys.tolist()):
            assert (parcel.table, key, parcel.through) in written, "a row goes out under the time of its own put"
            found[parcel.table][key] = parcel.rows[i].tobytes() if i < len(parcel.rows) else None
    assert found == expected
    assert (outbox.nbytes, outbox.keys(), drained(outbox)) == (0, {}, [])


def test_rows_of_different_times_share_no_record():
    outbox = Outbox(SCHEMA)
    outbox.add(batch("a", False, [1], 10, 1), now=0)
    outbox.add(batch("a", False, [1], 20, 2), now=0)
    assert [(p.keys.tolist(), p.through) for p in drained(outbox)] == [([1], 10), ([1], 20)]


def test_when_too_many_steps_wait_they_are_folded_under_the_newer_time():
    outbox = Outbox(SCHEMA)
    for step in range(10 * MAX_STEPS):
        outbox.add(batch("a", False, [1], step, step), now=0)
    parcels = drained(outbox)
    assert len(parcels) == MAX_STEPS
    assert parcels[-1].through == 10 * MAX_STEPS - 1
    assert parcels[-1].rows[0, 1] == (10 * MAX_STEPS - 1) % 251


def test_what_is_restocked_goes_first_and_all_as_of_now():
    outbox = Outbox(SCHEMA)
    outbox.add(batch("a", False, [1], 10, 7), now=0)
    outbox.restock([batch("a", False, [1, 2], 5, 6)], through=30)
    found = {key: (int(row[1]), p.through) for p in drained(outbox) for key, row in zip(p.keys.tolist(), p.rows, strict=True)}
    assert found == {1: (7, 30), 2: (6, 30)}


def test_far_behind_every_key_is_kept_once():
    outbox = Outbox(SCHEMA)
    for step in range(10):
        outbox.add(batch("a", step == 4, [1, step], step, step), now=0)
    parcels = drained(outbox, most_steps=1)
    keys = [key for parcel in parcels for key in parcel.keys.tolist()]
    assert sorted(keys) == sorted(set(keys)) == list(range(10))
    assert {parcel.through for parcel in parcels} == {9}
    assert {key for parcel in parcels for key in parcel.keys[len(parcel.rows) :].tolist()} == {4}


def test_what_is_taken_at_a_time_is_the_oldest_and_what_stays_says_from_when_it_is():
    outbox, many = Outbox(SCHEMA), TAKEN_BYTES // 32
    for through in (3, 5, 8):
        outbox.add(batch("a", True, np.arange(many), through), now=0)
    assert [parcel.through for parcel in outbox.take(1, through=9, now=0)] == [3, 5, 8]
    assert (outbox.nbytes, outbox.next_through(9)) == (0, 9)
    for through in (3, 5, 8, 8):
        outbox.add(batch("a", True, np.arange(3 * many), through), now=0)
    left = outbox.nbytes
    taken = outbox.take(1, through=9, now=0)
    assert [parcel.through for parcel in taken] == [3, 5]
    assert (outbox.nbytes, outbox.next_through(9)) == (left - sum(parcel.nbytes for parcel in taken), 8)
    assert [parcel.through for parcel in outbox.take(left, through=9, now=0)] == [8, 8]
