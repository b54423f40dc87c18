import numpy as np
import pytest

from penstock.examples.retail.model import (
    CONTEXT,
    DENSE_SHAPES,
    DIM,
    TABLES,
    gradients,
    initial_dense,
    initial_rows,
    score,
    time_context,
)
from penstock.examples.retail.stream import HOUR_US


def inputs(count, seed):
    """float64, so that differences are exact enough to be compared with gradients."""
    generator = np.random.default_rng(seed)
    rows = {table: generator.normal(0, 0.5, (count, DIM)) for table in TABLES}
    context = generator.normal(0, 1, (count, CONTEXT))
    dense = {name: generator.normal(0, 0.4, shape) for name, shape in DENSE_SHAPES.items()}
    labels = (generator.random(count) < 0.5).astype(np.float64)
    return rows, context, dense, labels


def total_loss(rows, context, dense, labels):
    probability = score(rows, context, dense)
    return -np.sum(labels * np.log(probability) + (1 - labels) * np.log1p(-probability))


def slope(function, values, direction):
    step = 1e-6
    return (function(values + step * direction) - function(values - step * direction)) / (2 * step)


@pytest.mark.parametrize("name", DENSE_SHAPES)
def test_gradients_of_parameters_are_slopes_of_the_loss(name):
    rows, context, dense, labels = inputs(7, seed=3)
    found = gradients(rows, context, dense, labels)
    direction = np.random.default_rng(4).normal(size=DENSE_SHAPES[name])
    expected = slope(lambda values: total_loss(rows, context, dense | {name: values}, labels), dense[name], direction)
    assert np.sum(found.dense[name] * direction) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("table", TABLES)
def test_gradients_of_rows_are_slopes_of_the_loss(table):
    rows, context, dense, labels = inputs(7, seed=5)
    found = gradients(rows, context, dense, labels)
    direction = np.random.default_rng(6).normal(size=(7, DIM))
    expected = slope(lambda values: total_loss(rows | {table: values}, context, dense, labels), rows[table], direction)
    assert np.sum(found.rows[table] * direction) == pytest.approx(expected, rel=1e-6)


def test_the_loss_is_the_mean_cross_entropy():
    rows, context, dense, labels = inputs(9, seed=7)
    assert gradients(rows, context, dense, labels).loss == pytest.approx(total_loss(rows, context, dense, labels) / 9)


def test_far_logits_give_finite_losses_and_gradients():
    rows, context, dense, _ = inputs(5, seed=8)
    dense["top.1.bias"] = np.array([-2000.0])
    found = gradients(rows, context, dense, np.ones(5))
    assert np.isfinite(found.loss)
    assert found.loss > 1000
    assert all(np.isfinite(values).all() for values in (*found.dense.values(), *found.rows.values()))
    assert np.array_equal(score(rows, context, dense), np.zeros(5))


def test_many_examples_give_what_their_parts_give():
    rows, context, dense, labels = inputs(700, seed=10)
    whole = gradients(rows, context, dense, labels)
    parts = [
        gradients({table: values[part] for table, values in rows.items()}, context[part], dense, labels[part])
        for part in (slice(0, 300), slice(300, 700))
    ]
    for name, values in whole.dense.items():
        assert np.allclose(values, sum(part.dense[name] for part in parts))
    for table, values in whole.rows.items():
        assert np.allclose(values, np.concatenate([part.rows[table] for part in parts]))


def test_the_order_of_examples_does_not_matter_and_types_are_kept():
    rows, context, dense, _ = inputs(6, seed=9)
    rows32 = {table: values.astype(np.float32) for table, values in rows.items()}
    dense32 = {name: values.astype(np.float32) for name, values in dense.items()}
    found = score(rows32, context.astype(np.float32), dense32)
    assert found.dtype == np.float32
    turned = score({table: values[::-1] for table, values in rows32.items()}, context[::-1].astype(np.float32), dense32)
    assert np.allclose(found, turned[::-1], atol=1e-6)


def test_a_row_is_born_the_same_whoever_sees_its_key():
    keys = np.array([-(2**63), -1, 0, 1, 17850, 2**63 - 1])
    rows = initial_rows(keys)
    assert rows.dtype == np.float32
    assert rows.shape == (6, DIM)
    assert np.array_equal(initial_rows(keys[[4]]), rows[[4]])
    assert np.abs(rows).max() <= 0.25
    assert np.unique(rows).size > 90
    many = initial_rows(np.arange(20_000))
    assert abs(many.mean()) < 1e-3
    assert many.std() == pytest.approx(0.5 / 12**0.5, rel=0.01)


def test_parameters_are_a_function_of_the_seed():
    one, same, other = initial_dense(1), initial_dense(1), initial_dense(2)
    assert {name: values.shape for name, values in one.items()} == DENSE_SHAPES
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["top.0.weight"], other["top.0.weight"])


def test_the_context_repeats_every_week():
    at = np.array([0, 7 * 24 * HOUR_US, 24 * HOUR_US])
    found = time_context(at)
    assert found.shape == (3, CONTEXT)
    assert np.allclose(found[0], found[1], atol=1e-6)
    assert not np.allclose(found[0], found[2])
