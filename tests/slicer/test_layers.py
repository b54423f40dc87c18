"""Layers of runs, against a dict: the newest layer that has a key counts, a tombstone deletes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.pipeline.core.errors import Corrupt
from penstock.pipeline.core.hashing import buckets_of
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.slicer.layers import Layers
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.slicing import slice_rows

KEYS = st.integers(-60, 60) | st.sampled_from([2**63 - 1, -(2**63)])
LAYER = st.lists(st.dictionaries(KEYS, st.none() | st.integers(0, 2**32), max_size=40), max_size=3)
"""A few runs; None is a tombstone."""
LAYOUTS = [TableLayout(table="t", codec="float16", dim=w // 2, width=w, buckets=b) for w, b in ((8, 16), (20, 1), (200, 300))]


def encoded(seed: int, width: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, width, dtype=np.uint8).tobytes()


def written(store, layout, layers):
    """The infos of the layers, and what they come to. In one layer a key stands once: the first run that has it keeps it."""
    infos, table = [], {}
    for number, runs in enumerate(layers):
        seen, layer = set(), []
        for at, run in enumerate(runs):
            own = {key: value for key, value in run.items() if key not in seen}
            seen |= set(own)
            put = {key: encoded(value, layout.width) for key, value in own.items() if value is not None}
            gone = [key for key, value in own.items() if value is None]
            rows = np.frombuffer(b"".join(put.values()), np.uint8).reshape(len(put), layout.width)
            keys = np.array(list(put), np.int64)
            layer += slice_rows(keys, rows, np.array(gone, np.int64), layout, store, f"m/data/{number}-{at}").runs
            table |= put
            for key in gone:
                table.pop(key, None)
        infos.append(layer)
    return infos, table


def collected(blocks):
    return {key: row.tobytes() for keys, rows in blocks for key, row in zip(keys.tolist(), rows, strict=True)}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(layers=st.lists(LAYER, max_size=5), layout=st.sampled_from(LAYOUTS), budget=st.sampled_from([1, 300, 4000, 1 << 27]))
def test_layers_come_to_what_a_dict_comes_to(store, layers, layout, budget):
    infos, table = written(store, layout, layers)
    with Layers.open(store, layout, infos) as opened:
        blocks = list(opened.merged(budget=budget))
        assert collected(blocks) == table
        keys = np.concatenate([np.empty(0, np.int64), *(block.keys for block in blocks)])
        home = buckets_of(keys, layout.buckets)
        assert all(a < b for a, b in pairwise(zip(home.tolist(), keys.tolist(), strict=True)))
        assert np.concatenate([keys[:0], *opened.merged_keys(budget=budget)]).tolist() == keys.tolist()
        assert opened.count() == len(table)
        digests = opened.digests(budget=budget)
        asked = np.array([*range(-70, 70), *list(table), *range(5)], np.int64)
        rows, found = opened.find(asked)
        assert found.tolist() == [key in table for key in asked.tolist()]
        assert [row.tobytes() for row in rows[found]] == [table[key] for key in asked[found].tolist()]
        assert not rows[~found].any()
        distinct = np.unique(asked)
        keys_there, rows, found = opened.gather(distinct)
        assert sorted(keys_there.tolist()) == distinct.tolist()
        home = buckets_of(keys_there, layout.buckets).tolist()
        assert all(a < b for a, b in pairwise(zip(home, keys_there.tolist(), strict=True)))
        assert found.tolist() == [key in table for key in keys_there.tolist()]
        assert [row.tobytes() for row in rows[found]] == [table[key] for key in keys_there[found].tolist()]
    whole = slice_rows(keys, np.concatenate([np.empty((0, layout.width), np.uint8), *(block.rows for block in blocks)]),
                       keys[:0], layout, store, "m/data/whole")  # fmt: skip
    assert (digests == whole.interval).all()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(layers=st.lists(LAYER, max_size=3), bounds=st.tuples(st.integers(0, 16), st.integers(0, 16)).map(sorted))
def test_a_range_of_buckets_is_all_of_them_and_no_other(store, layers, bounds):
    layout = LAYOUTS[0]
    infos, table = written(store, layout, layers)
    with Layers.open(store, layout, infos) as opened:
        found = collected(opened.merged(range(*bounds), budget=500))
    assert found == {key: row for key, row in table.items() if buckets_of(np.array([key]), 16)[0] in range(*bounds)}


@pytest.mark.parametrize("buckets", [1, 4])
def test_a_block_stays_within_its_budget_even_in_one_bucket(store, buckets):
    layout = TableLayout(table="t", codec="float16", dim=32, width=64, buckets=buckets)
    random, runs = np.random.default_rng(1), []
    for number, keys in enumerate(np.array_split(random.permutation(20_000), 3)):
        rows = random.integers(0, 256, (len(keys), 64), dtype=np.uint8)
        runs += slice_rows(keys, rows, keys[:0], layout, store, f"m/data/{number}").runs
    budget = 40_000
    with Layers.open(store, layout, [runs]) as layers:
        blocks = list(layers.merged(budget=budget))
    assert np.array_equal(np.sort(np.concatenate([keys for keys, _ in blocks])), np.arange(20_000))
    assert max(rows.nbytes for _, rows in blocks) < budget
    assert len(blocks) < 4 * 20_000 * (2 * 64 + 48) / budget


def test_what_is_outside_of_a_runs_keys_costs_no_read():
    class Watched(MemoryStore):
        ranges: list[str] = []

        def get_range(self, key: str, start: int, length: int) -> bytes:
            self.ranges.append(key)
            return super().get_range(key, start, length)

    store, layout = Watched(), LAYOUTS[0]
    rows = np.zeros((100, 8), np.uint8)
    runs = [
        slice_rows(np.arange(low, low + 100), rows, np.empty(0, np.int64), layout, store, f"m/{low}").runs
        for low in (0, 100, 200)
    ]
    with Layers.open(store, layout, [[*runs[0], *runs[1], *runs[2]]]) as layers:
        Watched.ranges.clear()
        rows, found = layers.find(np.array([130, 199, 150]))
    assert found.all()
    assert set(Watched.ranges) == {runs[1][0].path}


def test_damage_is_found_when_a_chain_is_opened(store):
    layout = LAYOUTS[0]
    infos, _ = written(store, layout, [[{1: 5, 2: 6}]])
    with pytest.raises(Corrupt, match="table t in the file, u is"):
        Layers.open(store, TableLayout(table="u", codec="float16", dim=4, width=8, buckets=16), infos)
