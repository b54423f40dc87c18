"""Which replica is asked for which buckets, and which rows then stand where."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.pipeline.core.hashing import buckets_of
from penstock.serving.routing import Held, Rank, Routing, Segment, routed
from penstock.serving.splitting import put_rows, split

BUCKETS = 16
GOOD, LATE, DOWN = Rank.GOOD, Rank.LATE, Rank.DOWN


def held(*given):
    return [Held(f"r{n}", range(low, high), rank) for n, (low, high, rank) in enumerate(given)]


def segments(routing):
    return [(s.buckets.start, s.buckets.stop, *s.urls) for s in routing.segments]


def test_two_shards_of_two():
    found = routed(held((0, 8, GOOD), (8, 16, GOOD), (0, 8, GOOD), (8, 16, DOWN)), BUCKETS)
    assert segments(found) == [(0, 8, "r0", "r2"), (8, 16, "r1", "r3")]
    assert found.missing == ()


def test_as_few_parts_as_the_ranges_allow():
    two_and_three = held((0, 8, GOOD), (8, 16, GOOD), (0, 5, GOOD), (5, 11, GOOD), (11, 16, GOOD))
    assert segments(routed(two_and_three, BUCKETS)) == [(0, 8, "r0"), (8, 16, "r1")]
    with_a_whole = [*two_and_three, Held("whole", range(16), GOOD)]
    assert segments(routed(with_a_whole, BUCKETS)) == [(0, 16, "whole")]


def test_those_who_leave_are_asked_only_for_what_nobody_else_holds():
    found = routed(held((0, 8, LATE), (8, 16, LATE), (0, 5, GOOD), (5, 11, GOOD), (11, 16, DOWN)), BUCKETS)
    assert segments(found) == [(0, 5, "r0", "r2"), (5, 11, "r3"), (11, 16, "r1", "r4")]


def test_who_holds_more_stands_in_for_a_part():
    found = routed(held((0, 16, LATE), (0, 8, GOOD), (8, 16, GOOD)), BUCKETS)
    assert segments(found) == [(0, 8, "r0", "r1"), (8, 16, "r0", "r2")]


def test_what_nobody_holds_is_said():
    found = routed(held((2, 8, GOOD), (10, 12, GOOD)), BUCKETS)
    assert found.missing == (range(2), range(8, 10), range(12, 16))
    assert routed([], BUCKETS) == Routing(BUCKETS, (), (range(16),))


ranges = st.tuples(st.integers(0, BUCKETS - 1), st.integers(1, BUCKETS)).filter(lambda r: r[0] < r[1])
fleets = st.lists(st.tuples(ranges, st.sampled_from(Rank)).map(lambda x: (*x[0], x[1])), max_size=8)


@given(fleets)
def test_every_bucket_is_asked_of_the_best_that_hold_it(given):
    holders = held(*given)
    found = routed(holders, BUCKETS)
    seen = sorted(b for part in (*(s.buckets for s in found.segments), *found.missing) for b in part)
    assert seen == list(range(BUCKETS))
    by_url = {h.url: h for h in holders}
    for segment in found.segments:
        assert all(set(segment.buckets) <= set(by_url[url].buckets) for url in segment.urls)
        for bucket in segment.buckets:
            best = min(h.rank for h in holders if bucket in h.buckets)
            assert min(by_url[url].rank for url in segment.urls) == best
    for gap in found.missing:
        assert not any(bucket in h.buckets for h in holders for bucket in gap)


@given(
    keys=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40),
    cuts=st.sets(st.integers(1, BUCKETS - 1)),
    keep=st.randoms(use_true_random=False),
)
def test_what_was_split_comes_together_again(keys, cuts, keep):
    keys = np.array(keys, np.int64)
    places = np.array([p for p in range(keys.size) if keep.random() < 0.7], np.int64)
    edges = [0, *sorted(cuts), BUCKETS]
    rows, found = np.full((keys.size, 2), -1, np.float32), np.zeros(keys.size, bool)
    shares = split(keys, places, edges, BUCKETS)
    for low, high, share in zip(edges[:-1], edges[1:], shares, strict=True):
        assert np.array_equal(share.keys, keys[share.places])
        assert all(low <= b < high for b in buckets_of(share.keys, BUCKETS))
        part = share.places[:, None].astype(np.float32) + np.array([0, 0.5], np.float32)
        put_rows(part, np.ones(share.keys.size, bool), share.places, rows, found)
    assert sorted(p for share in shares for p in share.places) == list(places)
    assert np.array_equal(np.flatnonzero(found), places)
    assert np.array_equal(rows[places, 0], places)
    assert (rows[~found] == -1).all()


def test_all_keys_are_split_by_default():
    keys = np.broadcast_to(np.arange(100), (1, 100))[0]  # that nobody may write to
    shares = split(keys, None, [0, 8, 16], BUCKETS)
    assert sum(share.keys.size for share in shares) == 100
    assert all((np.diff(share.places) > 0).all() for share in shares)


def test_a_segment_is_a_value():
    assert Segment(range(2), ("a",)) == Segment(range(2), ("a",))
    with pytest.raises(AttributeError):
        Segment(range(2), ("a",)).urls = ()
