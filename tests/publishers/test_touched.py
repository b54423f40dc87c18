"""Touched keys: nothing is forgotten, and what would be too much is widened."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.publishers.touched import KeySet, TouchedKeys, touched_from

KEYS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300), max_size=400)


def keys(*values):
    return np.array(values, np.int64)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), KEYS), max_size=12))
def test_a_key_set_is_a_set(steps):
    found, expected = KeySet(), set()
    for adds, some in steps:
        if adds:
            found.add(np.array(some, np.int64))
            expected |= set(some)
        else:
            found.discard(np.array(some, np.int64))
            expected -= set(some)
        assert len(found) == len(expected)
    assert set(found.array().tolist()) == expected


def test_what_is_kept_back_is_unsent_until_it_is_sent():
    touched = TouchedKeys(100)
    touched.kept_back("item", keys(1, 2, 3))
    touched.sent("item", keys(2, 4))
    assert (sorted(touched.keys("item")), sorted(touched.unsent_keys("item")), touched.unsent) == ([1, 2, 3, 4], [1, 3], 2)


def test_beyond_the_bound_the_largest_table_counts_as_a_whole():
    touched = TouchedKeys(10)
    touched.sent("small", keys(1, 2))
    touched.kept_back("large", np.arange(9))
    assert (touched.whole, touched.tables, len(touched), touched.unsent) == ({"large"}, {"small", "large"}, 2, 0)
    touched.kept_back("large", keys(77))
    assert (touched.unsent, len(touched.keys("large"))) == (0, 0)


def test_merging_gives_back_what_was_lent():
    lent, touched = TouchedKeys(100), TouchedKeys(100)
    lent.kept_back("item", keys(1, 2, 3))
    lent.sent("item", keys(4))
    lent.widen("user")
    touched.sent("item", keys(2, 9))
    touched.kept_back("item", keys(5))
    touched.merge(lent)
    assert sorted(touched.keys("item")) == [1, 2, 3, 4, 5, 9]
    assert sorted(touched.unsent_keys("item")) == [1, 3, 5], "key 2 was sent since"
    assert touched.whole == {"user"}


def test_a_resume_begins_with_all_unsent():
    touched = touched_from([("item", keys(1)), ("item", keys(1, 2))], whole=["user"], limit=10)
    assert (touched.unsent, touched.tables) == (2, {"item", "user"})
