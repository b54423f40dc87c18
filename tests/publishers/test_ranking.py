"""What matters most goes first, the rest not too late, and nothing gets lost: against a dict of what was put."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.records import NO_ROWS
from penstock.pipeline.core.schema import ModelSchema, TableSchema
from penstock.publishers.outbox import Parcel
from penstock.publishers.ranking import SLOT_BYTES, Ranking

DIM = 16
SCHEMA = ModelSchema(
    model="m", id="00" * 16, buckets=16, partitions=3, log="log", created_at=0,
    tables={
        "a": TableSchema(dim=DIM, codec="float32", width=4 * DIM),
        "b": TableSchema(dim=DIM, codec="int8", width=DIM + 8),
    },
)  # fmt: skip
SECOND = 1_000_000
NOW = 1_000 * SECOND


def ranking(queue_bytes=1 << 20, staleness_s=10, sketched_keys=1 << 12):
    return Ranking(SCHEMA, queue_bytes, staleness_s * SECOND, sketched_keys)


def puts(table, keys, values, through=0):
    values = np.asarray(values, np.float32)
    rows = np.repeat(values[:, None], DIM, axis=1) if values.ndim == 1 else values
    encoded = codec(SCHEMA.table(table).codec).encode(np.ascontiguousarray(rows))
    return Parcel(table=table, keys=np.array(keys, np.int64), rows=encoded, through=through)


def deletes(table, keys):
    return Parcel(table=table, keys=np.array(keys, np.int64), rows=NO_ROWS, through=0)


def contents(parcels):
    """(table, key) -> the row's bytes, None for a deletion, in the order in which they go out."""
    return {
        (parcel.table, key): parcel.rows[i].tobytes() if i < len(parcel.rows) else None
        for parcel in parcels
        for i, key in enumerate(parcel.keys.tolist())
    }


def everything(waiting, now=NOW):
    return waiting.take(1 << 40, through=7, now=now)


def settled(waiting, keys, now=NOW):
    """All `keys` of table a were sent as rows of ones, then moved by 0.01: what the table's own changes are."""
    waiting.add(puts("a", keys, np.ones(len(keys))), now=now)
    everything(waiting, now)
    waiting.add(puts("a", keys, np.full(len(keys), 1.01)), now=now)
    everything(waiting, now)


KEY = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("ab"), st.lists(KEY, min_size=1, max_size=12)),
        st.tuples(st.just("delete"), st.sampled_from("ab"), st.lists(KEY, min_size=1, max_size=6)),
        st.tuples(st.just("take"), st.integers(1, 2000), st.integers(0, 12)),
        st.tuples(st.just("drop"), st.integers(0, 3000), st.none()),
        st.tuples(st.just("again"), st.none(), st.none()),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=200)
@given(STEPS)
def test_invariant_6_what_was_put_is_sent_waits_or_was_reported_as_dropped(steps):
    waiting, expected, unknown, now = ranking(), {}, [], NOW
    for stamp, (step, first, second) in enumerate(steps):
        if step in ("put", "delete"):
            made = puts(first, second, stamp + np.arange(len(second)) / 64) if step == "put" else deletes(first, second)
            waiting.add(made, now=now)
            expected |= contents([made])
            unknown = [p for p in unknown if p.table != first or not np.isin(p.keys, made.keys).any()]
        elif step == "take":
            now += second * SECOND
            taken = waiting.take(first, through=stamp, now=now)
            assert all(parcel.through == stamp for parcel in taken)
            for place, row in contents(taken).items():
                assert expected.pop(place) == row, "the newest row of a key, once"
            unknown = taken
        elif step == "drop":
            before = waiting.nbytes
            for table, keys in waiting.give_way(first).items():
                assert len(np.unique(keys)) == len(keys) > 0
                for key in keys.tolist():
                    del expected[table, key]
            assert waiting.nbytes <= first
            assert waiting.nbytes == before or before > first
        elif unknown:
            waiting.restock(unknown, through=stamp)
            expected = contents(unknown) | expected
            unknown = []
        assert {(table, key) for table, keys in waiting.keys().items() for key in keys.tolist()} == set(expected)
    assert waiting.nbytes == sum(SLOT_BYTES + SCHEMA.table(table).width for table, _ in expected)
    assert contents(everything(waiting, now)) == expected
    assert (waiting.nbytes, waiting.keys(), everything(waiting, now)) == (0, {}, [])


def test_the_row_that_moved_furthest_goes_first():
    waiting = ranking()
    settled(waiting, range(6))
    waiting.add(puts("a", range(6), 1.01 + np.array([0.001, 0.1, 0.01, 0.3, 0.0001, 0.03])), now=NOW)
    order = [key for _ in range(6) for parcel in waiting.take(1, through=0, now=NOW) for key in parcel.keys.tolist()]
    assert order == [3, 1, 5, 2, 0, 4]


def test_a_row_that_goes_back_to_what_was_sent_matters_least():
    waiting = ranking()
    settled(waiting, range(2))
    waiting.add(puts("a", [0, 1], [3.0, 1.02]), now=NOW)
    waiting.add(puts("a", [0], [1.01]), now=NOW)
    assert waiting.take(1, through=0, now=NOW)[0].keys.tolist() == [1]


def test_changes_count_relative_to_those_of_their_own_table():
    waiting, keys = ranking(), range(50)
    for table, step in (("a", 100.0), ("b", 0.001)):
        waiting.add(puts(table, keys, np.ones(50)), now=NOW)
        everything(waiting)
        waiting.add(puts(table, keys, np.full(50, 1 + step)), now=NOW)
        everything(waiting)
    waiting.add(puts("a", [1], [101 + 1.0]), now=NOW)
    waiting.add(puts("b", [2], [1.001 + 0.02]), now=NOW)
    assert [p.table for p in waiting.take(1, through=0, now=NOW)] == ["b"]


def test_new_keys_and_deletions_go_before_changes():
    waiting = ranking()
    settled(waiting, range(4))
    waiting.add(puts("a", [0, 1, 77], [1.02, 1.03, 0.5]), now=NOW)
    waiting.add(deletes("a", [2]), now=NOW)
    order = [key for _ in range(4) for parcel in waiting.take(1, through=0, now=NOW) for key in parcel.keys.tolist()]
    assert order[:2] == [2, 77]


def test_of_equal_changes_the_newest_goes_first_and_the_oldest_gives_way():
    waiting = ranking()
    settled(waiting, range(4))
    for key in range(4):
        waiting.add(puts("a", [key], [1.02]), now=NOW + key)
    assert waiting.give_way(waiting.nbytes - 1) == {"a": [0]}
    assert waiting.take(1, through=0, now=NOW)[0].keys.tolist() == [3]


def test_keys_that_are_asked_for_more_often_go_first():
    waiting = ranking()
    settled(waiting, range(4))
    waiting.weigh("a", np.arange(4), np.array([1.0, 50.0, 1.0, 4.0]))
    for key in (1, 3, 0, 2):
        waiting.add(puts("a", [key], [1.02]), now=NOW)
    order = [key for _ in range(4) for parcel in waiting.take(1, through=0, now=NOW) for key in parcel.keys.tolist()]
    assert order[:2] == [1, 3]


def test_what_went_out_and_may_be_lost_goes_first_unless_something_newer_waits():
    waiting = ranking()
    settled(waiting, range(3))
    waiting.add(puts("a", [0], [9.0]), now=NOW)
    waiting.restock([puts("a", [0, 1], [5.0, 5.0]), puts("a", [1], [6.0])], through=0)
    first = waiting.take(1, through=0, now=NOW)
    assert contents(first) == contents([puts("a", [1], [6.0])])
    assert contents(everything(waiting)) == contents([puts("a", [0], [9.0])])


def test_a_row_without_a_finite_change_is_taken():
    waiting = ranking()
    huge = np.finfo(np.float32).max
    for value in (huge, -huge, 0.0):
        waiting.add(puts("a", [1, 2], [value, 1.0]), now=NOW)
        assert len(contents(everything(waiting))) == 2


def test_no_row_is_passed_over_for_longer_than_is_allowed():
    """A trainer that is twice as fast as the log, for a minute: hot keys move far all the time, cold ones a little, once."""
    rng, waiting = np.random.default_rng(1), ranking(queue_bytes=1 << 22, staleness_s=5, sketched_keys=1 << 17)
    settled(waiting, range(8000))
    row, per_step, since, now, late = 4 * DIM + 8, 40, {}, NOW, 0
    limit = per_step * 10 * 5 // 2 * (4 * DIM + SLOT_BYTES)
    dropped = sent = cold_sent = 0
    for _ in range(600):
        now += SECOND // 10
        keys = np.concatenate((rng.choice(200, 40, replace=False), rng.choice(np.arange(200, 8000), 40, replace=False)))
        moves = np.where(keys < 200, 0.5, 0.011) * rng.choice([-1, 1], 80)
        waiting.add(puts("a", keys, 1.01 + moves), now=now)
        for key in keys.tolist():
            since.setdefault(key, now)
        for key in waiting.give_way(limit).get("a", np.empty(0)).tolist():
            del since[key]
            dropped += 1
        for parcel in waiting.take(per_step * row, through=0, now=now):
            for key in parcel.keys.tolist():
                late = max(late, now - since.pop(key))
                sent += 1
                cold_sent += key >= 200
    assert sent > 600 * per_step * 0.95
    assert dropped > 0
    assert cold_sent > 0
    assert late <= 5 * SECOND + SECOND // 2


def test_invariant_14_forgetting_keys_bounds_memory_and_only_costs_order():
    waiting = ranking(sketched_keys=16)
    for start in range(0, 1000, 100):
        waiting.add(puts("a", range(start, start + 100), np.ones(100)), now=NOW)
        assert len(contents(everything(waiting))) == 100
    assert waiting._rooms["a"].sent.keys.size == 16


def test_more_rows_than_there_is_room_for_are_taken_in_all_the_same():
    waiting = ranking(queue_bytes=1000)
    waiting.add(puts("a", range(10), np.ones(10)), now=NOW)
    waiting.take(300, through=0, now=NOW)
    expected = {("a", key) for key in waiting.keys()["a"].tolist()}
    for start in (100, 5000, 0):
        waiting.add(puts("a", range(start, start + 3000), np.ones(3000)), now=NOW)
        expected |= {("a", key) for key in range(start, start + 3000)}
    waiting.restock([puts("a", range(9000, 9999), np.ones(999))], through=0)
    assert set(contents(everything(waiting))) == expected | {("a", key) for key in range(9000, 9999)}


def test_a_step_that_is_too_large_takes_the_tables_in_turn_of_age():
    waiting = ranking(staleness_s=1)
    for turn in range(6):
        waiting.add(puts("ab"[turn % 2], [turn], [1.0]), now=NOW + turn)
    ages = [key for _ in range(6) for p in waiting.take(1, through=0, now=NOW + 9 * SECOND) for key in p.keys.tolist()]
    assert all(first < second for first, second in pairwise(ages))
    assert len(ages) == 6
