"""Pooled lookups: what `EmbeddingBag` gives, also of versions, of unknown keys and beside tables that are not pooled."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from served import published, step, world_of

from penstock.pipeline.core.errors import InvalidInput, Refused
from penstock.pipeline.core.schema import TableSchema
from penstock.serving import Replica
from penstock.serving.bags import Bags
from penstock.serving.lookups import Want
from penstock.serving.pooling import pooled


def expected(rows, bags):
    """In plain numpy, and in float64."""
    ends = [*bags.offsets[1:], len(rows)]
    found = []
    for low, high in zip(bags.offsets, ends, strict=True):
        some = rows[low:high].astype(np.float64)
        total = some.sum(axis=0)
        found.append(total / max(len(some), 1) if bags.pooling == "mean" else total)
    return np.array(found, np.float64).reshape(len(bags.offsets), rows.shape[1])


@st.composite
def cases(draw):
    keys, dim = draw(st.integers(0, 40)), draw(st.integers(1, 9))
    cuts = sorted(draw(st.lists(st.integers(0, keys), max_size=12)))
    bags = Bags(np.array([0, *cuts], np.int64), draw(st.sampled_from(["sum", "mean"])))
    values = st.floats(-1000, 1000, width=32)
    return draw(arrays(np.float32, (keys, dim), elements=values)), bags


@given(cases())
def test_sums_and_means(case):
    rows, bags = case
    bags.check("item", len(rows))
    out = np.full((bags.offsets.size, rows.shape[1]), np.nan, np.float32)
    assert pooled(rows, bags, out) is out
    np.testing.assert_allclose(out, expected(rows, bags), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("offsets", "keys", "match"),
    [
        ([1], 3, "first bag begins at key 1"),
        ([-1], 3, "first bag begins at key -1"),
        ([0, 2, 1], 3, "bag 2 begins before bag 1"),
        ([0, 4], 3, "begins at key 4 of 3"),
        ([], 3, "3 keys and no bag"),
        ([[0]], 3, "int64"),
    ],
)
def test_bags_that_do_not_share_out_the_keys(offsets, keys, match):
    with pytest.raises(InvalidInput, match=match):
        Bags(np.array(offsets, np.int64), "sum").check("item", keys)
    with pytest.raises(InvalidInput, match="int32"):
        Bags(np.array([0], np.int32), "sum").check("item", keys)


@pytest.fixture
def world():
    return world_of(max_request_keys=100)


def bags_of(offsets, pooling="sum"):
    return Bags(np.array(offsets, np.int64), pooling)


def test_a_pooled_lookup_is_a_lookup_that_is_pooled(world):
    world.catalog.add_tables({"shop": TableSchema(dim=5, codec="float32", width=20, absent=(1.0, 2.0, 3.0, 4.0, 5.0))})
    writer = published(world)
    replica = Replica(world.environment(), name="r")
    for key in range(12):
        writer.put("item", key + 2, key)
    step(replica)
    keys = np.array([3, 99, 5, 3, 7, 0], np.int64)
    bags = bags_of([0, 2, 2, 5], "mean")
    found = replica.lookups.answer_pooled(
        [Want("item", keys, bags), Want("user", keys[:2]), Want("shop", keys, bags_of([0, 4])), Want("item", keys)], None
    )
    plain = replica.lookups.answer([("item", keys), ("user", keys[:2]), ("shop", keys)], None)
    np.testing.assert_allclose(found[0].rows, expected(plain[0].rows, bags))
    assert found[0].found.tolist() == [True, False, True, True, True, True]
    assert np.array_equal(found[1].rows, plain[1].rows)
    assert found[2].rows.tolist() == [[4, 8, 12, 16, 20], [2, 4, 6, 8, 10]]
    assert np.array_equal(found[3].rows, plain[0].rows)
    whole = found[0].rows.base
    assert all(answer.rows.base is whole for answer in found)
    assert whole.size == sum(answer.rows.size for answer in found)
    first = replica.lookups.answer_pooled([Want("item", keys, bags_of([0, 3]))], 1)[0]
    assert first.version == 1
    assert first.rows[:, 0].tolist() == [2, 3]


def test_no_keys_and_empty_bags(world):
    published(world)
    replica = Replica(world.environment(), name="r")
    none = np.empty(0, np.int64)
    empty, zeros = replica.lookups.answer_pooled([Want("item", none, bags_of([])), Want("item", none, bags_of([0, 0]))], None)
    assert empty.rows.shape == (0, replica.follower.tables["item"].dim)
    assert not zeros.rows.any()
    assert zeros.rows.shape[0] == 2


def test_bags_are_bounded_like_keys(world):
    published(world)
    replica = Replica(world.environment(), name="r")
    with pytest.raises(Refused, match="101 bags in one lookup, at most 100"):
        replica.lookups.answer_pooled([Want("item", np.empty(0, np.int64), bags_of([0] * 101))], None)
    with pytest.raises(InvalidInput, match="before bag 1"):
        replica.lookups.answer_pooled([Want("item", np.arange(4), bags_of([0, 3, 2]))], None)
