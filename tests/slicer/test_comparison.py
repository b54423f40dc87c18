"""Comparing a table with a chain: the delta makes one into the other, holds nothing else, and the digests say so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.errors import Refused
from penstock.slicer.comparison import compare
from penstock.slicer.layers import Layers
from penstock.slicer.row_source import ArraySource
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.slicing import slice_rows, slice_table

SMALL = 2 * 40 * (16 + 24)
"""A budget of forty rows."""


class Streamed:
    """A source that fills the caller's buffer, as one does that cannot be mapped."""

    def __init__(self, whole: ArraySource) -> None:
        self.whole, self.rows, self.dim = whole, whole.rows, whole.dim

    def keys(self, start: int, stop: int):
        return self.whole.keys(start, stop)

    def names(self, start: int, stop: int):
        return self.whole.names(start, stop)

    def read(self, start: int, out):
        out[:] = self.whole.values[start : start + len(out)]
        return out


def source_of(table: dict[int, int], *, keyed: bool, shuffle: int = 0) -> ArraySource:
    """Rows that all depend on one number."""
    keys = list(table) if keyed else range(len(table))
    order = np.random.default_rng(shuffle).permutation(len(table)) if keyed else np.arange(len(table))
    keys = np.array([list(keys)[i] for i in order], np.int64)
    values = np.array([[table[key], 1, key % 7, 0.5] for key in keys.tolist()], np.float32).reshape(len(keys), 4)
    return ArraySource(values, keys if keyed else None)


def rows_of(source: ArraySource) -> dict[int, bytes]:
    keys = range(source.rows) if source.row_keys is None else source.row_keys.tolist()
    return {key: row.tobytes() for key, row in zip(keys, source.values, strict=True)}


def collected(blocks):
    return {key: row.tobytes() for keys, rows in blocks for key, row in zip(keys.tolist(), rows, strict=True)}


TABLE = st.dictionaries(st.integers(0, 120) | st.sampled_from([2**63 - 1, -(2**63)]), st.integers(0, 3), max_size=120)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    keyed=st.booleans(), old=TABLE, middle=TABLE, new=TABLE, budget=st.sampled_from([SMALL, 1 << 27]),
    wrap=st.sampled_from([lambda source: source, Streamed]), stated=st.booleans(),
)  # fmt: skip
def test_a_comparison_finds_what_differs(store, layout, table_digests, keyed, old, middle, new, budget, wrap, stated):
    tables = [old, middle, new] if keyed else [dict(enumerate(table.values())) for table in (old, middle, new)]
    old_source, middle_source, new_source = (source_of(table, keyed=keyed, shuffle=i) for i, table in enumerate(tables))
    base_runs = [slice_table(old_source, layout, store, "m/data/0", budget=budget).runs]
    with Layers.open(store, layout, base_runs) as base:
        base_runs.append(compare(base, wrap(middle_source), store, "m/data/1", budget=budget).changes.runs)
    before, after = rows_of(middle_source), rows_of(new_source)
    with Layers.open(store, layout, base_runs) as base:
        digests = table_digests(before) if stated else None
        found = compare(base, wrap(new_source), store, "m/data/2", budget=budget, base_digests=digests)
    assert (found.base == table_digests(before)).all()
    assert (found.state == table_digests(after)).all()
    changed = {key: row for key, row in after.items() if before.get(key) != row}
    assert (found.changes.rows, found.changes.tombstones) == (len(changed), len(before.keys() - after.keys()))
    with Layers.open(store, layout, [found.changes.runs]) as delta:
        assert collected(delta.merged()) == changed
    with Layers.open(store, layout, [*base_runs, found.changes.runs]) as whole:
        assert collected(whole.merged()) == after
    assert not list(store.list("m/data/2/staged"))


@pytest.mark.parametrize("name", ["float16", "int8"])
def test_rows_are_compared_as_they_are_encoded(store, name):
    layout = TableLayout(table="t", codec=name, dim=16, width=codec(name).width(16), buckets=16)
    values = np.random.default_rng(1).standard_normal((500, 16)).astype(np.float32)
    base = slice_table(ArraySource(values), layout, store, "m/data/0")
    changed = values.copy()
    changed[::50, 3] += 1
    changed[7] = np.nextafter(changed[7], np.float32(9))
    same = (codec(name).encode(changed) == codec(name).encode(values)).all(axis=1)
    with Layers.open(store, layout, [base.runs]) as layers:
        found = compare(layers, ArraySource(changed), store, "m/data/1", base_digests=base.digests)
    with Layers.open(store, layout, [found.changes.runs]) as delta:
        assert set(collected(delta.merged())) == set(np.flatnonzero(~same).tolist())
    assert (found.state == slice_table(ArraySource(changed), layout, store, "m/data/2").digests).all()


@pytest.mark.parametrize("budget", [SMALL, 1 << 27])
@pytest.mark.parametrize("keyed", [False, True])
def test_a_value_that_is_not_finite_is_refused_by_its_key(store, layout, keyed, budget):
    table = dict.fromkeys(range(200), 1)
    base = slice_table(source_of(table, keyed=keyed), layout, store, "m/data/0")
    source = source_of(table, keyed=keyed, shuffle=1)
    source.values[150, 2] = np.inf
    key = 150 if source.row_keys is None else source.row_keys[150]
    with Layers.open(store, layout, [base.runs]) as layers, pytest.raises(Refused, match=f"key {key}: .*NaN"):
        compare(layers, source, store, "m/data/1", budget=budget)
    assert not list(store.list("m/data/1/staged"))


@pytest.mark.parametrize("budget", [SMALL, 1 << 27])
def test_a_key_that_is_there_twice_is_refused(store, layout, budget):
    source = source_of(dict.fromkeys(range(200), 1), keyed=True)
    source.row_keys[150] = source.row_keys[3]
    with Layers.open(store, layout, []) as layers, pytest.raises(Refused, match=f"key {source.row_keys[3]} is there twice"):
        compare(layers, source, store, "m/data/1", budget=budget)


def test_a_table_that_has_changed_all_over_is_written_in_runs_of_a_budget(store, layout):
    old, new = (ArraySource(np.full((4000, 4), value, np.float32)) for value in (1, 2))
    base = slice_table(old, layout, store, "m/data/0")
    with Layers.open(store, layout, [base.runs]) as layers:
        found = compare(layers, new, store, "m/data/1", budget=16_000)
    assert found.changes.rows == 4000
    assert max(run.bytes for run in found.changes.runs) < 16_000
    assert (found.state == slice_table(new, layout, store, "m/data/2").digests).all()


def test_an_equal_table_changes_nothing(store, layout):
    source = source_of(dict.fromkeys(range(500), 2), keyed=False)
    base = slice_table(source, layout, store, "m/data/0", budget=SMALL)
    with Layers.open(store, layout, [base.runs]) as layers:
        found = compare(layers, source, store, "m/data/1", budget=SMALL)
    assert found.changes.runs == ()
    assert (found.state == base.digests).all()
    assert not found.changes.interval.any()


def test_a_delta_over_rows_from_elsewhere_shadows_them(store, layout):
    """A key whose newest layer is a tombstone counts as born."""
    source = source_of(dict.fromkeys(range(50), 2), keyed=False)
    base = slice_table(source, layout, store, "m/data/0")
    gone = slice_rows(np.empty(0, np.int64), np.empty((0, 16), np.uint8), np.array([3, 4]), layout, store, "m/data/1")
    with Layers.open(store, layout, [base.runs, gone.runs]) as layers:
        found = compare(layers, source, store, "m/data/2")
    with Layers.open(store, layout, [found.changes.runs]) as delta:
        assert sorted(collected(delta.merged())) == [3, 4]
    assert (found.state == base.digests).all()
