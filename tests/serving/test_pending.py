"""Rows that are written together end as though each record had been written by itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.serving.confirming import MOST_VERSIONS, Confirming
from penstock.serving.pending import MOST_BYTES, Pending
from penstock.serving.table import Table

WIDTH, BUCKETS = 8, 4
record = st.tuples(
    st.sampled_from(["a", "b"]),
    st.lists(st.integers(0, 9), unique=True, max_size=4),
    st.lists(st.integers(0, 9), unique=True, max_size=3),
)


def tables():
    return {
        name: Table(codec="float32", dim=2, width=WIDTH, bucket_count=BUCKETS, partition_count=1, held=range(BUCKETS))
        for name in ("a", "b")
    }


@given(records=st.lists(record, max_size=12), flushes=st.sets(st.integers(0, 11)), mark=st.integers(0, 11))
def test_together_or_one_by_one(records, flushes, mark):
    together, single, pending = tables(), tables(), Pending()
    for number, (name, puts, deletes) in enumerate(records):
        keys, gone = np.array(puts, np.int64), np.array([key for key in deletes if key not in puts], np.int64)
        rows = np.full((len(keys), WIDTH), number + 1, np.uint8)
        if number == mark:
            pending.write(0, together)
            for table in (*together.values(), *single.values()):
                table.mark(0, "here")
        pending.add(name, keys, rows, gone)
        single[name].apply(0, keys, rows, gone)
        if number in flushes:
            pending.write(0, together)
    pending.write(0, together)
    everything = np.arange(10)
    for name in ("a", "b"):
        one, other = together[name], single[name]
        assert np.array_equal(one.digests, other.digests)
        assert one.row_count == other.row_count
        assert np.array_equal(one.encoded(everything)[0], other.encoded(everything)[0])
        if "here" in one.labels(0):
            assert np.array_equal(one.written_since(0, "here"), other.written_since(0, "here"))
            rows, there = one.encoded_at(0, "here", everything)
            expected, expected_there = other.encoded_at(0, "here", everything)
            assert np.array_equal(rows, expected)
            assert np.array_equal(there, expected_there)


def test_it_says_when_it_is_full_and_is_empty_when_it_was_written():
    pending, found = Pending(), tables()
    rows = np.zeros((1000, WIDTH), np.uint8)
    while not pending.is_full:
        before = pending.nbytes
        pending.add("a", np.arange(1000), rows, np.empty(0, np.int64))
    assert before < MOST_BYTES <= pending.nbytes
    pending.write(0, found)
    assert pending.nbytes == 0
    assert found["a"].row_count == 1000
    pending.write(0, {})  # nothing is left to write


class Version:
    dense = None

    def __init__(self, version):
        self.version = version


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_version_is_confirmed_when_every_partition_has_it(partitions):
    confirming = Confirming(partitions)
    for p in range(partitions):
        found = confirming.adopted(Version(5), p, {"t": np.full(4, 2, np.uint64)})
        assert (found is None) == (p < partitions - 1)
    assert found.digests["t"].tolist() == [2 * partitions] * 4


def test_of_versions_that_one_partition_does_not_reach_a_bounded_number_is_kept():
    confirming = Confirming(2)
    for version in range(1, 200):
        assert confirming.adopted(Version(version), 0, {"t": np.zeros(4, np.uint64)}) is None
    assert len(confirming._parts) <= MOST_VERSIONS + 1
    assert confirming.adopted(Version(199), 1, {"t": np.ones(4, np.uint64)}).manifest.version == 199
