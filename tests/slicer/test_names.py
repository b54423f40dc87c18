"""The texts that keys stand for: written beside the rows, found again by key, and no two of them with one hash."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from collisions import collision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.pipeline.core.errors import Corrupt, NotFound, Refused, Unreachable
from penstock.pipeline.core.manifest import NamesInfo
from penstock.pipeline.core.text_keys import hash_text, hash_texts, texts_of
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.pipeline.ports.store import Overwrite
from penstock.slicer import names as names_module
from penstock.slicer.comparison import compare
from penstock.slicer.layers import Layers
from penstock.slicer.names import MAX_NAME_BYTES, Names, NamesFile
from penstock.slicer.row_source import ArraySource
from penstock.slicer.runs import Run
from penstock.slicer.slicing import check_distinct, slice_rows, slice_table

SMALL = 6000
"""A budget of some thirty rows."""
ONE, OTHER = collision()
TEXTS = st.dictionaries(st.binary(max_size=12) | st.text(max_size=8).map(str.encode), st.integers(0, 3), max_size=80)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(names_module, "GROUP_ROWS", 8)
    monkeypatch.setattr(names_module, "VERIFY_ROWS", 16)


def source_of(table: dict[bytes, int], *, shuffle: int = 0) -> ArraySource:
    texts = [list(table)[i] for i in np.random.default_rng(shuffle).permutation(len(table))]
    values = np.array([[table[text], len(text), 1, 0.5] for text in texts], np.float32).reshape(len(texts), 4)
    return ArraySource.named(values, texts_of(texts))


def many(count: int, *, salt: str = "") -> dict[bytes, int]:
    return {f"{salt}user-{i}".encode(): i for i in range(count)}


def names_of(store, layout, layers, texts):
    """What is known of the keys of these texts."""
    with Layers.open(store, layout, layers) as opened:
        return Names(opened).of_keys(hash_texts(list(texts))).to_pylist()


def refused(match, call):
    with pytest.raises(Refused, match=match) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_the_pair_collides():
    assert ONE != OTHER
    assert hash_text(ONE) == hash_text(OTHER)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 500])
def test_names_are_found_by_key_in_whatever_order(store, layout, count):
    table = many(count)
    found = slice_table(source_of(table), layout, store, "m/data/u", budget=SMALL)
    assert len(found.runs) >= count // 50
    assert all(run.names is not None and store.size(run.names.path) == run.names.bytes for run in found.runs)
    assert names_of(store, layout, [found.runs], reversed(table)) == list(reversed(table))
    assert names_of(store, layout, [found.runs], [b"nobody", b"user-0"]) == [None, b"user-0"]


def test_rows_are_the_same_with_and_without_names(store, layout):
    named = source_of(many(300))
    with_names = slice_table(named, layout, store, "m/data/a")
    without = slice_table(ArraySource(named.values, named.row_keys), layout, store, "m/data/b")
    assert (with_names.digests == without.digests).all()
    (one,), (two,) = with_names.runs, without.runs
    assert store.get(one.path).data == store.get(two.path).data
    assert two.names is None


def test_a_file_of_names_stands_row_by_row_beside_its_run(store, layout):
    (info,) = slice_table(source_of(many(20)), layout, store, "m/data/u").runs
    read = pq.read_table(pa.BufferReader(store.get(info.names.path).data))
    with Run.open(store, info, buckets=layout.buckets) as run:
        assert hash_texts(read["name"]).tolist() == run.keys().tolist()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(versions=st.lists(TEXTS, min_size=1, max_size=4), probe=st.integers(0, 10**6))
def test_every_text_of_any_chain_is_found_by_its_key(store, layout, versions, probe):
    layers = []
    for number, table in enumerate(versions):
        prefix = f"m/data/{probe}-{number}"
        if table and not layers:
            layers.append(slice_table(source_of(table), layout, store, prefix, budget=SMALL).runs)
        elif layers:
            with Layers.open(store, layout, layers) as base:
                layers.append(compare(base, source_of(table, shuffle=number), store, prefix, budget=SMALL).changes.runs)
    texts = list({text: None for table in versions for text in table})
    if layers:
        assert names_of(store, layout, layers, texts) == texts


def test_the_same_text_twice_and_two_with_one_hash_are_told_apart(store, layout):
    def sliced(texts, budget):
        source = ArraySource.named(np.ones((len(texts), 4), np.float32), texts_of(texts))
        return lambda: slice_table(source, layout, store, "m/data/u", budget=budget)

    for budget in (1 << 20, SMALL):  # within one stretch, and in two of them
        refused("table customer: 'user-3' is there twice", sliced([*many(400), b"user-3"], budget))
        refused("'lane one.* and 'LANE ONE.* are two keys with one hash, -?[0-9]+", sliced([ONE, *many(400), OTHER], budget))


def test_parts_that_were_sliced_apart_are_told_apart(store, layout):
    one, other, same = (
        slice_table(source_of(table), layout, store, f"m/data/{at}")
        for at, table in enumerate(({ONE: 1, b"a": 2}, {OTHER: 1}, {b"a": 1}))
    )
    refused("are two keys with one hash", lambda: check_distinct(store, [*one.runs, *other.runs], layout))
    refused("'a' is there twice", lambda: check_distinct(store, [*one.runs, *same.runs], layout))


def test_a_key_that_is_too_long_is_refused(store, layout):
    slice_table(source_of({b"x" * MAX_NAME_BYTES: 1}), layout, store, "m/data/a")
    refused("a key of 4097 bytes, at most 4096", lambda: slice_table(source_of({b"x" * 4097: 1}), layout, store, "m/data/b"))


@pytest.mark.parametrize("budget", [1 << 20, SMALL])
class TestCompared:
    @pytest.fixture
    def base(self, store, layout):
        return slice_table(source_of(many(200)), layout, store, "m/data/0").runs

    def compared(self, store, layout, layers, table, budget):
        with Layers.open(store, layout, layers) as opened:
            return compare(opened, source_of(table, shuffle=9), store, "m/data/1", budget=budget)

    def test_what_changes_comes_with_its_names(self, store, layout, base, budget):
        table = many(190) | {b"user-7": 3, b"new": 1}
        found = self.compared(store, layout, [base], table, budget)
        assert (found.changes.rows, found.changes.tombstones) == (2, 10)
        assert names_of(store, layout, [found.changes.runs], [b"user-7", b"new", b"user-8"]) == [b"user-7", b"new", None]
        # A text that went can come back, and is what it was.
        assert names_of(store, layout, [base, found.changes.runs], [b"user-199"]) == [b"user-199"]

    def test_another_text_with_the_hash_of_one_of_the_base_is_refused(self, store, layout, base, budget):
        first = self.compared(store, layout, [base], many(200) | {ONE: 1}, budget)
        chain = [base, first.changes.runs]
        refused("are two keys with one hash", lambda: self.compared(store, layout, chain, many(200) | {OTHER: 1}, budget))
        refused("are two keys with one hash", lambda: self.compared(store, layout, chain, many(200) | {OTHER: 2}, budget))

    def test_a_row_that_came_without_its_name_is_written_again_with_it(self, store, layout, base, budget):
        table = many(200) | {b"streamed": 5}
        source = source_of(table)
        at = source.row_keys == hash_text(b"streamed")
        rows = source.values[at].view(np.uint8)
        (info,) = slice_rows(source.row_keys[at], rows, source.row_keys[:0], layout, store, "m/data/log").runs
        found = self.compared(store, layout, [base, (info,)], table, budget)
        assert (found.changes.rows, found.changes.tombstones) == (1, 0)
        assert (found.base == found.state).all()
        assert names_of(store, layout, [base, (info,), found.changes.runs], [b"streamed"]) == [b"streamed"]
        again = self.compared(store, layout, [base, (info,), found.changes.runs], table, budget)
        assert again.changes.rows == 0


def test_rows_whose_names_are_not_known_are_a_run_of_their_own(store, layout):
    source = source_of(many(30))
    names = pa.array([None if i % 3 == 0 else name for i, name in enumerate(source.row_names.to_pylist())], pa.large_binary())
    rows, gone = source.values.view(np.uint8), np.array([1, 2])
    found = slice_rows(source.row_keys, rows, gone, layout, store, "m/data/u", names=names)
    assert [(run.kind, run.rows, run.names is not None) for run in found.runs] == [
        ("rows", 20, True), ("tombstones", 2, False), ("rows", 10, False),
    ]  # fmt: skip
    assert len({run.path for run in found.runs}) == 3
    whole = slice_rows(source.row_keys, rows, gone, layout, store, "m/data/v")
    assert (found.interval == whole.interval).all()
    with Layers.open(store, layout, [found.runs]) as layers:
        assert Names(layers).of_keys(source.row_keys).equals(names)
    assert (
        len(slice_rows(source.row_keys, rows, gone, layout, store, "m/data/w", names=pa.nulls(30, pa.large_binary())).runs) == 2
    )


def test_a_store_that_does_not_answer_is_no_damage(layout):
    class Silent(MemoryStore):
        def get_range(self, key, start, length):
            if key.endswith(".names.parquet"):
                raise Unreachable("the store does not answer")
            return super().get_range(key, start, length)

    store = Silent()
    (info,) = slice_table(source_of(many(40)), layout, store, "m/data/u").runs
    with Layers.open(store, layout, [[info]]) as layers, pytest.raises(Unreachable, match="does not answer"):
        Names(layers).of_keys(hash_texts(["user-1"]))


class TestDamaged:
    @pytest.fixture
    def info(self, store, layout):
        return slice_table(source_of(many(40)), layout, store, "m/data/u").runs[0]

    def read(self, store, layout, info):
        with Run.open(store, info, buckets=layout.buckets) as run:
            NamesFile(run).verify(run)

    def replaced(self, store, info, data):
        store.put("m/data/u/other", data, Overwrite())
        return type(info)(
            path=info.path, kind=info.kind, rows=info.rows, bytes=info.bytes, digest=info.digest,
            names=NamesInfo(path="m/data/u/other", bytes=len(data)),
        )  # fmt: skip

    def table(self, store, info):
        return pq.read_table(pa.BufferReader(store.get(info.names.path).data))

    def written(self, table, rows=8):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=rows)
        return sink.getvalue().to_pybytes()

    def test_whole(self, store, layout, info):
        self.read(store, layout, info)

    def test_another_size(self, store, layout, info):
        store.put(info.names.path, store.get(info.names.path).data[:-1], Overwrite())
        with pytest.raises(Corrupt, match="bytes, .* were written"):
            self.read(store, layout, info)

    def test_not_there(self, store, layout, info):
        store.delete(info.names.path)
        with pytest.raises(NotFound):
            self.read(store, layout, info)

    def test_no_parquet(self, store, layout, info):
        with pytest.raises(Corrupt, match="no file of names"):
            self.read(store, layout, self.replaced(store, info, b"PAR1 nonsense PAR1"))

    def test_every_byte_that_is_flipped_is_found_or_does_not_matter(self, store, layout, info):
        data = store.get(info.names.path).data
        expected = self.table(store, info)["name"].to_pylist()
        for at in range(0, len(data), 3):
            bad = self.replaced(store, info, data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
            try:
                self.read(store, layout, bad)
            except Corrupt:
                continue
            assert self.table(store, bad)["name"].to_pylist() == expected

    def test_names_of_others(self, store, layout, info):
        table = self.table(store, info)
        other = pa.table([pa.array([*table["name"].to_pylist()[:-1], b"other"], pa.large_binary())], schema=table.schema)
        with pytest.raises(Corrupt, match="the name at position 39 is not that of key"):
            self.read(store, layout, self.replaced(store, info, self.written(other)))

    def test_too_few_or_in_other_groups(self, store, layout, info):
        table = self.table(store, info)
        for data in (self.written(table.slice(1)), self.written(table, rows=20)):
            with pytest.raises(Corrupt, match="not in groups of 8, for 40 rows"):
                self.read(store, layout, self.replaced(store, info, data))

    def test_other_columns(self, store, layout, info):
        table = self.table(store, info)
        with pytest.raises(Corrupt, match="columns .* are not those of a file of names"):
            self.read(store, layout, self.replaced(store, info, self.written(table.rename_columns(["key"]))))
