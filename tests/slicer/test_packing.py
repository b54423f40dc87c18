"""Loops over rows, against what numpy does row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.pipeline.core import hashing
from penstock.slicer import packing

WIDTHS = st.sampled_from([1, 3, 8, 12, 16, 24, 64, 100, 128, 256, 1000])


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 150), width=WIDTHS, seed=st.integers(0, 99))
def test_gather_and_scatter_are_inverse(rows, width, seed):
    random = np.random.default_rng(seed)
    source, order = random.integers(0, 256, (rows, width), dtype=np.uint8), random.permutation(rows)
    out = np.zeros((rows, width), np.uint8)
    packing.gather(packing.flat(source), order.astype(np.int32), width, packing.flat(out))
    assert (out == source[order]).all()
    back = np.zeros((rows, width), np.uint8)
    packing.scatter(packing.flat(out), np.arange(rows), order, width, packing.flat(back))
    assert (back == source).all()


@settings(deadline=None, max_examples=80)
@given(
    rows=st.integers(1, 200), dim=st.integers(1, 40), seed=st.integers(0, 99),
    value=st.sampled_from([np.nan, np.inf, -np.inf, np.float32(3.4028235e38), -0.0, 1e-45]), data=st.data(),
)  # fmt: skip
def test_the_first_row_that_is_not_finite_is_found(rows, dim, seed, value, data):
    values = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    at = data.draw(st.tuples(st.integers(0, rows - 1), st.integers(0, dim - 1)))
    values[at] = value
    order = np.random.default_rng(seed).permutation(rows).astype(np.int32)
    out = np.empty(rows * dim * 4, np.uint8)
    found = packing.gather_finite(packing.flat(values), order, 4 * dim, out)
    assert found == (-1 if np.isfinite(value) else order.tolist().index(at[0]))
    if found < 0:
        assert out.tobytes() == values[order].tobytes()


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 60), width=WIDTHS, seed=st.integers(0, 99))
def test_hashes_are_those_of_the_format(rows, width, seed):
    random = np.random.default_rng(seed)
    keys, data = random.integers(-(2**63), 2**63 - 1, rows), random.integers(0, 256, (rows, width), dtype=np.uint8)
    expected, found = np.zeros(8, np.uint64), np.zeros(8, np.uint64)
    hashing.add_puts(expected, keys, data)
    packing.add_puts(keys, packing.flat(data), width, found)
    assert (found == expected).all()


@pytest.mark.parametrize("width", [1, 7, 8, 13, 128])
def test_rows_that_differ_in_any_byte_are_picked(width):
    old = np.random.default_rng(1).integers(0, 256, (width + 5, width), dtype=np.uint8)
    new = old.copy()
    for byte in range(width):
        new[byte, byte] ^= 0x10
    there = np.ones(len(old), np.bool_)
    assert packing.differing(packing.flat(new), packing.flat(old), there, width).tolist() == list(range(width))
    there[-1] = False
    assert packing.differing(packing.flat(new), packing.flat(old), there, width).tolist() == [*range(width), width + 4]


@pytest.mark.parametrize("dim", [1, 3, 4, 32, 33])
def test_float_rows_are_compared_where_they_are(dim):
    random = np.random.default_rng(dim)
    old = random.standard_normal((200, dim)).astype(np.float32)
    order = random.permutation(200).astype(np.int32)
    new = np.empty_like(old)
    new[order] = old
    for i in (0, 7, 63, 64, 199):
        new[order[i], i % dim] += 1
    there = np.ones(200, np.bool_)
    there[100] = False
    found = packing.differing_finite(packing.flat(new), order, packing.flat(old), there, 4 * dim)
    assert found.tolist() == [0, 7, 63, 64, 100, 199]
    new[order[70], dim - 1] = -np.inf
    assert packing.differing_finite(packing.flat(new), order, packing.flat(old), there, 4 * dim) == 70
