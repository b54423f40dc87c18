"""The fold of a stretch of the log: the newest write of a key stands."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.pipeline.core.errors import Corrupt
from penstock.slicer import fold
from penstock.slicer.fold import Fold

NONE = np.empty(0, np.int64)
writes = st.lists(
    st.tuples(st.lists(st.integers(-5, 20), unique=True, max_size=8), st.integers(0, 8), st.integers(0, 255)), max_size=20
)


def rows_of(count, value):
    return np.full((count, 4), value, np.uint8)


@given(writes=writes, at_bytes=st.sampled_from([0, 40, 64 << 20]))
def test_a_fold_is_what_a_dict_would_hold(writes, at_bytes):
    before, fold.FOLD_AT_BYTES = fold.FOLD_AT_BYTES, at_bytes
    try:
        found, expected = Fold(4), {}
        for keys, split, value in writes:
            put, deleted = np.array(keys[:split], np.int64), np.array(keys[split:], np.int64)
            found.add(put, rows_of(len(put), value), deleted)
            expected |= dict.fromkeys(put.tolist(), value) | dict.fromkeys(deleted.tolist())
        written = found.written()
    finally:
        fold.FOLD_AT_BYTES = before
    assert written.keys.tolist() == sorted(key for key, value in expected.items() if value is not None)
    assert written.tombstones.tolist() == sorted(key for key, value in expected.items() if value is None)
    assert [row.tolist() for row in written.rows] == [[expected[key]] * 4 for key in written.keys.tolist()]


def test_what_is_added_is_copied():
    found, rows = Fold(4), rows_of(1, 1)
    found.add(np.array([3]), rows, NONE)
    rows[:] = 9
    assert found.written().rows.tolist() == [[1] * 4]


def test_more_may_be_added_after_a_look():
    found = Fold(4)
    found.add(np.array([1, 2]), rows_of(2, 1), NONE)
    assert len(found.written().keys) == 2
    found.add(NONE, rows_of(0, 0), np.array([1]))
    assert [part.tolist() for part in found.written()] == [[2], [[1] * 4], [1]]


def test_an_empty_fold():
    assert [part.shape for part in Fold(4).written()] == [(0,), (0, 4), (0,)]


def test_rows_of_another_width_are_refused():
    with pytest.raises(Corrupt, match="partition 0 offset 7: rows of 4 bytes, the table has 8"):
        Fold(8).add(np.array([1]), rows_of(1, 0), NONE, name="partition 0 offset 7")
