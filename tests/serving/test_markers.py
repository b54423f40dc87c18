"""What a delta says of rows that were written again behind its marker, against a replay in the true order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.pipeline.core.hashing import add_puts
from penstock.pipeline.core.ids import State
from penstock.pipeline.core.schema import ModelSchema, TableSchema
from penstock.pipeline.core.times import WallTime
from penstock.serving.changes import Part
from penstock.serving.holding import Holding
from penstock.serving.markers import Markers
from penstock.serving.partition import Marked, PartitionState

BUCKETS, WIDTH = 4, 8
SCHEMA = ModelSchema(
    model="m", id="00" * 16, buckets=BUCKETS, partitions=1, log="log", created_at=WallTime(0),
    tables={"t": TableSchema(dim=2, codec="float32", width=WIDTH)},
)  # fmt: skip
BEGIN, MARKERS = State.parse("1-1"), [State.parse(f"1-{n}") for n in (2, 3, 4)]
KEYS = st.integers(0, 5)
write = st.tuples(KEYS, st.none() | st.integers(1, 3))
steps = st.lists(write, max_size=6)


def world(image_bytes):
    holding = Holding(schema=SCHEMA, buckets=range(BUCKETS), image_bytes=image_bytes, max_labels=20)
    state = PartitionState(partition=0, offset=0, readers={}, timeline=1, version=1, marked={})
    holding.mark(0, BEGIN)
    state.marked = {BEGIN: Marked(holding.digests(0), {})}
    return holding, Markers(holding, 8), state


def rows_of(value):
    return np.full((1, WIDTH), value, np.uint8)


def put(holding, writes):
    for key, value in writes:
        keys, none = np.array([key]), np.empty(0, np.int64)
        if value is None:
            holding.tables["t"].apply(0, none, np.empty((0, WIDTH), np.uint8), keys)
        else:
            holding.tables["t"].apply(0, keys, rows_of(value), none)


@given(
    runs=st.lists(steps, min_size=4, max_size=4), said=st.dictionaries(KEYS, st.none() | st.integers(4, 6)), budget=st.booleans()
)
def test_digests_at_a_marker_and_later_ones_follow_what_a_delta_says(runs, said, budget):
    holding, markers, state = world(1 << 20 if budget else 0)
    truth, true_markers, true_state = world(1 << 20)
    again = {key: value for key, value in said.items() if any(key == written for run in runs[1:] for written, _ in run)}
    for number, writes in enumerate(runs):
        put(holding, writes)
        put(truth, writes)
        if number < len(MARKERS):
            if number == 0:  # what the delta says has been there
                put(truth, again.items())
            markers.mark(state, MARKERS[number])
            true_markers.mark(true_state, MARKERS[number])
    there = {key: value for key, value in again.items() if value is not None}
    rows = np.concatenate([np.empty((0, WIDTH), np.uint8), *map(rows_of, there.values())])
    markers.overrule(state, MARKERS[0], "t", Part(np.array([key for key in again if key not in there], np.int64), None))
    markers.overrule(state, MARKERS[0], "t", Part(np.array(list(there), np.int64), rows))
    for marker in MARKERS:
        marked, right = state.marked[marker], true_state.marked[marker].digests["t"]
        known = ~marked.unknown.get("t", np.zeros(BUCKETS, np.bool_))
        assert np.array_equal(marked.digests["t"][known], right[known])
        assert marked.is_known or not budget
        if budget:
            sure = ~marked.unsure.get("t", np.zeros(BUCKETS, np.bool_))
            assert np.array_equal(digests_at(holding, marker)[sure], right[sure])


def test_what_two_deltas_say_of_a_key_written_behind_both_counts_once():
    holding, markers, state = world(1 << 20)
    for marker in MARKERS[:2]:
        markers.mark(state, marker)
    put(holding, [(1, 5)])
    markers.overrule(state, MARKERS[0], "t", Part(np.array([1]), rows_of(9)))
    markers.overrule(state, MARKERS[1], "t", Part(np.array([1]), None))
    right = np.zeros(BUCKETS, np.uint64)
    assert np.array_equal(state.marked[MARKERS[1]].digests["t"], right)
    add_puts(right, np.array([1]), rows_of(9))
    assert np.array_equal(state.marked[MARKERS[0]].digests["t"], right)


def test_without_images_the_digest_is_not_known():
    holding, markers, state = world(0)
    put(holding, [(1, 1)])
    markers.mark(state, MARKERS[0])
    put(holding, [(1, 2)])
    markers.mark(state, MARKERS[1])
    markers.overrule(state, MARKERS[0], "t", Part(np.array([1]), rows_of(9)))
    assert [state.marked[m].is_known for m in MARKERS[:2]] == [False, True]


def digests_at(holding, marker):
    keys = np.arange(6)
    rows, there = holding.tables["t"].encoded_at(0, marker, keys)
    one = Holding(schema=SCHEMA, buckets=range(BUCKETS), image_bytes=0, max_labels=4)
    one.tables["t"].load(keys[there], rows[there])
    return one.digests(0)["t"]
