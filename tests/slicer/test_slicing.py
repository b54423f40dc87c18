"""Slicing a table into runs, and rows in memory into a delta."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.errors import InvalidInput, Refused
from penstock.pipeline.core.hashing import add_puts
from penstock.slicer.layers import Layers
from penstock.slicer.row_source import ArraySource
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.runs import Run
from penstock.slicer.slicing import check_distinct, slice_rows, slice_table

NONE, NO_ROWS = np.empty(0, np.int64), np.empty((0, 16), np.uint8)
BYTES_A_ROW = 2 * (16 + 24)
"""Of a budget: two stretches are in memory at a time."""


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


def table(rows: int, *, dim: int = 4, keyed: bool = False, seed: int = 1) -> ArraySource:
    random = np.random.default_rng(seed)
    values = random.standard_normal((rows, dim)).astype(np.float32)
    return ArraySource(values, random.choice(2**40, rows, replace=False) - 2**39 if keyed else None)


def as_rows(source: ArraySource) -> dict[int, bytes]:
    keys = range(source.rows) if source.row_keys is None else source.row_keys.tolist()
    return {key: row.tobytes() for key, row in zip(keys, source.values, strict=True)}


@pytest.mark.parametrize("wrap", [lambda source: source, Streamed])
@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("rows", [1, 99, 100, 101, 1000])
def test_a_table_comes_back_from_its_runs(store, layout, table_digests, wrap, keyed, rows):
    source = table(rows, keyed=keyed)
    found = slice_table(wrap(source), layout, store, "m/data/u", budget=100 * BYTES_A_ROW)
    assert len(found.runs) == -(-rows // 100)
    assert (found.rows, found.bytes) == (rows, sum(store.size(run.path) for run in found.runs))
    assert (found.digests == table_digests(as_rows(source))).all()
    seen = {}
    for info in found.runs:
        with Run.open(store, info, buckets=16, layout=layout) as run:
            run.verify()
            seen |= dict(zip(run.keys().tolist(), (row.tobytes() for row in run.rows()), strict=True))
    assert seen == as_rows(source)


def test_parts_of_a_table_are_sliced_apart(store, layout):
    source = table(500)
    whole = slice_table(source, layout, store, "m/data/whole")
    parts = [slice_table(source, layout, store, "m/data/u", start=start, stop=start + 125) for start in range(0, 500, 125)]
    assert len({run.path for part in parts for run in part.runs}) == 4
    assert (sum(part.digests for part in parts) == whole.digests).all()


@pytest.mark.parametrize("name", ["float16", "int8"])
def test_rows_go_through_the_codec(store, name):
    source, width = table(300, dim=24), codec(name).width(24)
    layout = TableLayout(table="t", codec=name, dim=24, width=width, buckets=16)
    found = slice_table(source, layout, store, "m/data/u", budget=256 * (96 + 24))
    expected = codec(name).encode(source.values)
    digests = np.zeros(16, np.uint64)
    add_puts(digests, np.arange(300), expected)
    assert (found.digests == digests).all()
    with Layers.open(store, layout, [found.runs]) as layers:
        rows, there = layers.find(np.arange(300))
    assert there.all()
    assert (rows == expected).all()


@pytest.mark.parametrize("name", ["float32", "float16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_by_its_key(store, name, value):
    source = table(300, keyed=True)
    source.values[217, 3] = value
    layout = TableLayout(table="t", codec=name, dim=4, width=codec(name).width(4), buckets=16)
    with pytest.raises(Refused, match=f"table t: key {source.row_keys[217]}: .*NaN or an inf"):
        slice_table(source, layout, store, "m/data/u", budget=100 * BYTES_A_ROW)


def test_a_value_that_a_codec_cannot_hold_is_refused_by_its_key(store):
    source = table(300)
    source.values[217, 3] = 1e6
    layout = TableLayout(table="t", codec="float16", dim=4, width=8, buckets=16)
    with pytest.raises(Refused, match="table t: key 217: .*overflow"):
        slice_table(source, layout, store, "m/data/u")


@pytest.mark.parametrize("far", [3, 250])
def test_a_key_that_is_there_twice_is_refused(store, layout, far):
    """Within one run, and in two."""
    source = table(300, keyed=True)
    source.row_keys[far] = source.row_keys[2]
    with pytest.raises(Refused, match=f"table customer: key {source.row_keys[2]} is there twice"):
        slice_table(source, layout, store, "m/data/u", budget=100 * BYTES_A_ROW)


def test_parts_are_checked_together(store, layout):
    source = table(200, keyed=True)
    source.row_keys[150] = source.row_keys[2]
    parts = [slice_table(source, layout, store, "m/data/u", start=start, stop=start + 100).runs for start in (0, 100)]
    check_distinct(store, parts[0], layout)
    with pytest.raises(Refused, match=f"key {source.row_keys[2]} is there twice"):
        check_distinct(store, [*parts[0], *parts[1]], layout, budget=1000)


def test_what_does_not_fit_the_table_is_refused(store, layout):
    with pytest.raises(Refused, match="rows of 5 values, the table has 4"):
        slice_table(table(10, dim=5), layout, store, "m/data/u")
    with pytest.raises(InvalidInput, match="rows 5 to 11 of 10"):
        slice_table(table(10), layout, store, "m/data/u", start=5, stop=11)
    with pytest.raises(InvalidInput, match=r"uint8\[2, 12\], not uint8\[2, 16\]"):
        slice_rows(np.arange(2), np.empty((2, 12), np.uint8), NONE, layout, store, "m/data/u")
    assert not list(store.list("m/"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(put=st.sets(st.integers(-500, 500), max_size=60), gone=st.sets(st.integers(-500, 500), max_size=60))
def test_a_delta_holds_what_it_is_given(store, layout, table_digests, tombstone_digests, put, gone):
    gone = gone - put
    rows = table(len(put)).values.view(np.uint8).reshape(len(put), 16)
    found = slice_rows(np.array(list(put), np.int64), rows, np.array(list(gone), np.int64), layout, store, "m/data/d")
    assert (found.rows, found.tombstones) == (len(put), len(gone))
    assert [run.kind for run in found.runs] == ["rows"] * bool(put) + ["tombstones"] * bool(gone)
    held = dict(zip(put, (row.tobytes() for row in rows), strict=True))
    assert (found.interval == table_digests(held) + tombstone_digests(list(gone))).all()
    with Layers.open(store, layout, [found.runs]) as layers:
        assert {
            key: row.tobytes() for keys, rows in layers.merged() for key, row in zip(keys.tolist(), rows, strict=True)
        } == held


@pytest.mark.parametrize(
    ("put", "gone", "key"), [([1, 2, 1], [], 1), ([], [4, 4], 4), ([1, 2], [3, 2], 2)], ids=["put", "deleted", "both"]
)
def test_a_delta_takes_no_key_twice(store, layout, put, gone, key):
    rows = np.zeros((len(put), 16), np.uint8)
    with pytest.raises(Refused, match=f"key {key} is there twice"):
        slice_rows(np.array(put, np.int64), rows, np.array(gone, np.int64), layout, store, "m/data/d")
    assert not list(store.list("m/"))


def test_a_delta_in_memory_is_checked_too(store, layout):
    rows = np.ones((3, 4), np.float32)
    rows[1, 2] = np.nan
    with pytest.raises(Refused, match="table customer: key 8: .*NaN"):
        slice_rows(np.array([7, 8, 9]), rows.view(np.uint8), NONE, layout, store, "m/data/d")
    assert not list(store.list("m/"))


def test_equal_input_is_equal_bytes(store, layout):
    for source in (table(700), table(700, keyed=True)):
        first, second = (slice_table(source, layout, store, f"m/data/{name}", budget=10_000).runs for name in "ab")
        assert [store.get(run.path).data for run in first] == [store.get(run.path).data for run in second]


def test_an_empty_table_has_no_runs(store, layout):
    found = slice_table(table(0), layout, store, "m/data/u")
    assert found.runs == ()
    assert not found.digests.any()
