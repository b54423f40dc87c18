"""Keys sorted by bucket and key, and found again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.pipeline.core.errors import Refused
from penstock.pipeline.core.hashing import buckets_of
from penstock.slicer.ordering import OPEN, disordered, distinct, locate, ordered

KEYS = st.integers(-(2**63), 2**63 - 1) | st.integers(-20, 20)


def int64(keys):
    return np.array(list(keys), np.int64)


@settings(deadline=None)
@given(keys=st.lists(KEYS, unique=True, max_size=80), buckets=st.sampled_from([1, 2, 7, 256, 65536]))
def test_keys_come_out_by_bucket_then_key(keys, buckets):
    given_keys = int64(keys)
    found = ordered(given_keys, buckets, name="t")
    home = buckets_of(given_keys, buckets)
    assert found.keys.tolist() == [key for _, key in sorted(zip(home.tolist(), keys, strict=True))]
    assert (given_keys[found.order] == found.keys).all()
    assert (np.diff(found.offsets) == np.bincount(home, minlength=buckets)).all()
    assert disordered(found.keys, found.offsets) == -1


@given(parts=st.lists(st.lists(KEYS, max_size=20), max_size=4))
def test_distinct_keys_rise_and_stand_once(parts):
    assert distinct([int64(part) for part in parts]).tolist() == sorted({key for part in parts for key in part})


@settings(deadline=None)
@given(keys=st.lists(KEYS, unique=True, min_size=1, max_size=30), data=st.data())
def test_a_key_that_is_there_twice_is_named(keys, data):
    twice = data.draw(st.sampled_from(keys))
    mixed = data.draw(st.permutations([*keys, twice]))
    with pytest.raises(Refused, match=rf"table t: key {twice} is there twice"):
        ordered(int64(mixed), 4, name="table t")


@settings(deadline=None)
@given(
    held=st.lists(KEYS, unique=True, max_size=60),
    asked=st.lists(KEYS, unique=True, max_size=60),
    buckets=st.sampled_from([1, 3, 64]),
)
def test_a_key_is_found_where_it_stands(held, asked, buckets):
    run = ordered(int64(held), buckets, name="held")
    wanted = ordered(int64([*asked, *set(held[::2]) - set(asked)]), buckets, name="asked")
    which, positions = np.full(len(wanted.keys), OPEN, np.int32), np.full(len(wanted.keys), -7, np.int64)
    which[::5] = 3
    hits = locate(run.keys, run.offsets, wanted, which, positions, 9)
    at = {key: i for i, key in enumerate(run.keys.tolist())}
    for i, key in enumerate(wanted.keys.tolist()):
        is_found = i % 5 and key in at
        assert (which[i], positions[i]) == ((9, at[key]) if is_found else (OPEN if i % 5 else 3, -7))
    assert hits == np.count_nonzero(which == 9)


def test_the_first_key_out_of_order_is_told():
    found = ordered(np.arange(100), 4, name="t")
    keys = found.keys.copy()
    keys[[10, 11]] = keys[[11, 10]]
    assert disordered(keys, found.offsets) == 11
    keys = found.keys.copy()
    keys[3] = found.keys[-1]
    assert disordered(keys, found.offsets) == 3
