import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.examples.retail.model import DIM, initial_rows
from penstock.examples.retail.table import INITIAL_ACCUMULATOR, EmbeddingTable, empty_table
from penstock.pipeline.core.errors import InvalidInput

KEYS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 20), max_size=40)


@given(st.lists(KEYS, max_size=5), st.integers(0, 2**32))
def test_a_table_does_what_a_dictionary_of_rows_does(batches, seed):
    generator = np.random.default_rng(seed)
    table, rows, sums = empty_table(), {}, {}
    for batch in batches:
        keys = np.array(batch, np.int64)
        before = [rows.get(key, np.zeros(DIM, np.float32)) for key in batch]
        assert np.array_equal(table.lookup(keys), np.array(before, np.float32).reshape(-1, DIM))
        if not batch:
            continue
        gradients = generator.normal(size=(keys.size, DIM)).astype(np.float32)
        touched = table.learn(table.born(keys), gradients, rate=0.1)
        assert sorted(touched.tolist()) == sorted(set(batch))
        for key in set(batch):
            total = gradients[keys == key].sum(0)
            row = rows.get(key, initial_rows(np.array([key]))[0])
            sums[key] = sums.get(key, INITIAL_ACCUMULATOR) + np.mean(total * total)
            rows[key] = row - 0.1 * total / np.sqrt(sums[key])
        assert np.allclose(table.lookup(keys), [rows[key] for key in batch], atol=1e-5)
        rows |= dict(zip(keys.tolist(), table.lookup(keys), strict=True))
    assert sorted(table.keys.tolist()) == sorted(rows)
    assert len(table) == len(rows)


def test_a_table_grows_past_its_capacity_and_keeps_what_it_has():
    table = empty_table()
    first = np.arange(10)
    table.learn(table.born(first), np.ones((10, DIM), np.float32), rate=0.1)
    kept = table.lookup(first)
    table.born(np.arange(50_000))
    assert len(table) == 50_000
    assert np.array_equal(table.lookup(first), kept)
    assert np.array_equal(table.lookup(np.arange(10, 50_000)), initial_rows(np.arange(10, 50_000)))


def test_a_table_from_another_goes_on_as_that_one():
    one = empty_table()
    keys = np.array([7, -3, 7, 12])
    one.learn(one.born(keys), np.random.default_rng(1).normal(size=(4, DIM)).astype(np.float32), rate=0.1)
    other = EmbeddingTable(one.keys, one.rows, one.accumulators)
    gradients = np.random.default_rng(2).normal(size=(4, DIM)).astype(np.float32)
    for table in (one, other):
        table.learn(table.born(keys + 5), gradients, rate=0.1)
    assert np.array_equal(one.keys, other.keys)
    assert np.array_equal(one.rows, other.rows)
    assert np.array_equal(one.accumulators, other.accumulators)


def test_what_a_table_gives_is_a_copy():
    table = empty_table()
    table.born(np.array([1, 2]))
    rows = table.rows
    rows += 1
    assert np.array_equal(table.rows, initial_rows(np.array([1, 2])))


@pytest.mark.parametrize(
    ("keys", "rows", "accumulators", "message"),
    [
        ([1, 2, 1], np.zeros((3, DIM)), None, "key 1 twice"),
        ([1, 2], np.zeros((2, DIM - 1)), None, "dim 16"),
        ([1, 2], np.zeros((2, DIM)), np.ones(3), "accumulators of shape"),
        ([1], np.full((1, DIM), np.nan), None, "not finite"),
        ([1], np.zeros((1, DIM)), np.array([np.inf]), "not finite"),
    ],
)
def test_what_is_no_table_is_refused(keys, rows, accumulators, message):
    with pytest.raises(InvalidInput, match=message):
        EmbeddingTable(np.array(keys), rows, accumulators)
