"""The serving table: rows, digests, labels, growth and refusals, one at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from penstock.pipeline.core.codecs import CODECS, codec
from penstock.pipeline.core.errors import InvalidInput, Unsupported, VersionGone
from penstock.pipeline.core.hashing import add_puts, add_tombstones, buckets_of, partitions_of
from penstock.pipeline.core.ids import Partition
from penstock.pipeline.core.schema import ModelSchema, TableSchema
from penstock.serving.bags import Bags, Pooling
from penstock.serving.inference.hot_table import HotTable
from penstock.serving.pooling import pooled
from penstock.serving.table import Table

BUCKETS, PARTITIONS = 64, 4
NONE = np.empty(0, np.int64)
ALL = [Partition(p) for p in range(PARTITIONS)]
ONE_TABLE = ModelSchema(model="m", id="0" * 32, buckets=BUCKETS, partitions=PARTITIONS, log="log", tables={}, created_at=0)


def table(*, dim: int = 4, held: range = range(BUCKETS), image_bytes: int = 1 << 30, max_labels: int = 8) -> Table:
    return Table(
        codec="float32", dim=dim, width=4 * dim, bucket_count=BUCKETS, partition_count=PARTITIONS, held=held,
        image_bytes=image_bytes, max_labels=max_labels,
    )  # fmt: skip


def keys_of(partition: int, count: int, *, start: int = 0) -> NDArray[np.int64]:
    keys = np.arange(start, start + count * 32)
    own = partitions_of(buckets_of(keys, BUCKETS), bucket_count=BUCKETS, partition_count=PARTITIONS) == partition
    return keys[own][:count]


def filled(values: object, count: int, dim: int = 4) -> NDArray[np.uint8]:
    """Encoded float32 rows, each word of a row its value."""
    return np.repeat(np.broadcast_to(np.asarray(values, np.float32), count)[:, None], dim, 1).copy().view(np.uint8)


def put(found: Table, partition: int, keys: NDArray[np.int64], value: object) -> None:
    found.apply(Partition(partition), keys, filled(value, keys.size, found.dim), NONE)


def delete(found: Table, partition: int, keys: NDArray[np.int64]) -> None:
    found.apply(Partition(partition), NONE, filled(0, 0, found.dim), keys)


def values_of(answer: tuple[NDArray[np.float32], NDArray[np.bool_]]) -> list[float | None]:
    """One value a row, None where there is no row."""
    rows, found = answer
    assert (rows == rows[:, :1]).all()
    assert (rows[~found] == 0).all()
    return [float(row[0]) if there else None for row, there in zip(rows, found, strict=True)]


def naive_digests(found: Table) -> NDArray[np.uint64]:
    digests = np.zeros(BUCKETS, np.uint64)
    add_puts(digests, *found.scan(range(BUCKETS)))
    return digests


@pytest.mark.parametrize("dim", [1, 5, 32, 100])
def test_lookup_gives_float32_rows_as_they_were_put_and_zeros_for_unknown_keys(dim: int) -> None:
    found, rng = table(dim=dim), np.random.default_rng(dim)
    keys = rng.integers(-(2**63), 2**63 - 1, 5000)
    rows = rng.standard_normal((keys.size, dim)).astype(np.float32)
    found.load(keys, rows.view(np.uint8))
    answer, there = found.lookup(np.concatenate([keys, keys + 1]))
    assert (answer[: keys.size] == rows).all()
    assert (answer[keys.size :] == 0).all()
    assert there.tolist() == [True] * keys.size + [False] * keys.size
    assert (found.encoded(keys)[0] == rows.view(np.uint8)).all()


def test_every_float16_is_decoded_as_the_codec_does() -> None:
    bits = np.arange(65536, dtype=np.uint16)
    found = Table(codec="float16", dim=16, width=32, bucket_count=1, partition_count=1, held=range(1))
    rows = bits.view(np.uint8).reshape(-1, 32)
    found.load(np.arange(4096), rows)
    answer, _ = found.lookup(np.arange(4096))
    assert (answer.view(np.uint32) == codec("float16").decode(rows, 16).view(np.uint32)).all()
    numbers = np.isfinite(bits.view(np.float16))
    assert (answer.reshape(-1)[numbers] == bits.view(np.float16)[numbers]).all()


@st.composite
def values(draw: st.DrawFn) -> NDArray[np.float32]:
    dim, scale = draw(st.integers(1, 40)), draw(st.floats(1e-6, 1e4))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    return (rng.standard_normal((50, dim)) * scale).astype(np.float32)


@given(values(), st.sampled_from(sorted(CODECS)))
def test_rows_are_bit_by_bit_what_the_codec_says(rows: NDArray[np.float32], name: str) -> None:
    """Whoever decodes them: a lookup, a bag, or an inference node."""
    dim, chosen = rows.shape[1], codec(name)
    data, keys = chosen.encode(rows), np.arange(len(rows))
    expected = np.asarray(chosen.decode(data, dim))
    found = Table(codec=name, dim=dim, width=chosen.width(dim), bucket_count=8, partition_count=1, held=range(8))
    found.load(keys, data)
    assert (found.lookup(keys)[0].view(np.uint32) == expected.view(np.uint32)).all()
    out = np.empty_like(expected)
    found.add_up(keys, Bags(keys, "sum"), np.zeros(dim, np.float32), out)
    assert (out == expected).all()
    hot = HotTable(ONE_TABLE, TableSchema(dim=dim, codec=name, width=chosen.width(dim)), near_bytes=1 << 16, expiry_us=1)
    assert (hot._decoded(data).view(np.uint32) == expected.view(np.uint32)).all()


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("name", sorted(CODECS))
def test_bags_are_the_sums_of_what_a_lookup_gives(name: str, pooling: Pooling) -> None:
    rng, dim = np.random.default_rng(4), 7
    data = codec(name).encode(rng.standard_normal((500, dim)).astype(np.float32))
    found = Table(codec=name, dim=dim, width=codec(name).width(dim), bucket_count=8, partition_count=1, held=range(8))
    found.load(np.arange(500), data)
    found.mark(Partition(0), "then")
    keys, offsets = rng.integers(0, 600, 3000), np.sort(rng.integers(0, 3000, 200))
    offsets[0], offsets[-1] = 0, 3000
    bags, absent = Bags(offsets, pooling), rng.standard_normal(dim).astype(np.float32)
    rows, there = found.lookup(keys)
    rows[~there] = absent
    expected = pooled(rows, bags, np.empty((200, dim), np.float32))
    out = np.full((200, dim), np.nan, np.float32)
    assert (found.add_up(keys, bags, absent, out) == there).all()
    assert np.allclose(out, expected, rtol=1e-5, atol=1e-6)
    found.apply(Partition(0), np.arange(500), data[::-1], NONE)
    found.add_up(keys, bags, absent, out, labels={Partition(0): "then"})
    assert np.allclose(out, expected, rtol=1e-5, atol=1e-6)
    found.add_up(keys, bags, absent, out)
    assert not np.allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_rows_that_are_lent_are_served_kept_for_labels_and_brought_in() -> None:
    found, keys = table(dim=32), keys_of(0, 3000)
    data = filled(keys, keys.size, 32)
    data.flags.writeable = False
    found.load_lent(keys, data)
    assert (found.row_bytes, found.borrowed_bytes) == (0, data.nbytes)
    labels = dict.fromkeys(ALL, "then")
    for p in labels:
        found.mark(p, "then")
    put(found, 0, keys[:10], 0)
    delete(found, 0, keys[10:20])
    digests, steps = found.digests, 0
    while found.bring_in(1000):
        steps += 1
    assert steps == 2
    assert (found.row_bytes, found.borrowed_bytes) == (data.nbytes + 10 * 128, 0)
    assert (found.digests == digests).all()
    assert not found.lookup(keys)[1][10:20].any()
    assert values_of(found.lookup(keys[20:])) == [float(key) for key in keys[20:]]
    assert values_of(found.lookup_at(labels, keys)) == [float(key) for key in keys]


def test_rows_that_cannot_be_lent_are_refused() -> None:
    found = Table(codec="int8", dim=5, width=13, bucket_count=8, partition_count=1, held=range(8))
    assert not found.can_borrow
    with pytest.raises(InvalidInput, match="steps of 4"):
        found.load_lent(np.arange(2), np.zeros((2, 13), np.uint8))
    with pytest.raises(InvalidInput, match="C order"):
        table().load_lent(np.arange(2), np.zeros((2, 32), np.uint8)[:, ::2])


def test_a_lookup_fills_the_array_that_it_is_given() -> None:
    found, out = table(), np.full((3, 4), 7, np.float32)
    keys = keys_of(0, 2)
    put(found, 0, keys, [1, 2])
    answer, _ = found.lookup(np.append(keys, -1), out)
    assert answer is out
    assert out[:, 0].tolist() == [1, 2, 0]
    for wrong in (np.empty((3, 5), np.float32), np.empty((3, 4), np.float64), np.empty((3, 8), np.float32)[:, ::2]):
        with pytest.raises(InvalidInput, match="out is"):
            found.lookup(np.append(keys, -1), wrong)


def test_read_only_and_strided_arguments_are_taken_as_they_are() -> None:
    found, keys = table(), np.repeat(keys_of(1, 50), 2)[::2]
    rows = np.frombuffer(filled(5, 50).tobytes(), np.uint8).reshape(50, 16)
    found.apply(Partition(1), keys, rows, NONE)
    assert values_of(found.lookup(keys)) == [5] * 50


def test_rows_replaced_deleted_and_put_again_keep_digests_and_counts() -> None:
    """Invariant 9."""
    found, keys = table(), keys_of(2, 3000)
    put(found, 2, keys, np.arange(3000))
    put(found, 2, keys[:1000], 1)
    delete(found, 2, keys[500:2000])
    delete(found, 2, keys[500:600])
    put(found, 2, keys[1900:2100], 3)
    assert found.row_count == 1600
    assert (found.digests == naive_digests(found)).all()
    assert (found.keys_in(range(BUCKETS)) == np.sort(np.concatenate([keys[:500], keys[1900:]]))).all()
    delete(found, 2, keys)
    assert found.row_count == 0
    assert not found.digests.any()


def test_put_and_delete_of_a_key_in_one_write_deletes_it() -> None:
    found, keys = table(), keys_of(0, 10)
    found.apply(Partition(0), keys, filled(1, 10), keys[:4])
    assert values_of(found.lookup(keys)) == [None] * 4 + [1] * 6


def test_a_key_twice_in_one_write_ends_as_the_last_and_breaks_nothing() -> None:
    found, keys = table(), np.repeat(keys_of(0, 20), 3)
    put(found, 0, keys, np.arange(60))
    assert values_of(found.lookup(keys[::3])) == list(range(2, 60, 3))
    assert found.row_count == 20
    assert (found.digests == naive_digests(found)).all()


def test_interval_sums_present_rows_and_tombstones_of_absent_ones() -> None:
    found, keys = table(), keys_of(3, 40)
    put(found, 3, keys[:30], np.arange(30))
    expected = np.zeros(BUCKETS, np.uint64)
    add_puts(expected, keys[10:30], filled(np.arange(10, 30), 20))
    add_tombstones(expected, keys[30:])
    assert (found.interval(keys[10:]) == expected).all()


@pytest.mark.parametrize("batch", [97, 701])
def test_growth_by_many_small_writes_loses_nothing(batch: int) -> None:
    """Rebuilds of the table's index and of the images' run over many writes, each of which puts new rows, old ones, deletes."""
    found, keys = table(dim=1, held=range(16, 32)), keys_of(1, 30_000)
    found.mark(Partition(1), "birth")
    for start in range(0, keys.size, batch):
        put(found, 1, keys[start : start + batch], np.arange(start, min(start + batch, keys.size)))
        again = keys[start // 2 : start // 2 + 20]
        delete(found, 1, again)
        put(found, 1, again[5:], np.arange(start // 2, start // 2 + 20)[5:])
    expected = np.arange(keys.size).astype(object)
    for start in range(0, keys.size, batch):
        expected[start // 2 : start // 2 + 20] = [None] * 5 + list(range(start // 2 + 5, start // 2 + 20))
    assert values_of(found.lookup(keys)) == expected.tolist()
    assert values_of(found.lookup_at({Partition(1): "birth"}, keys)) == [None] * keys.size
    assert (found.digests == naive_digests(found)).all()


def test_deleted_places_are_taken_back() -> None:
    found = table(dim=1)
    keys = keys_of(0, 30_000)
    for start in range(0, keys.size, 300):
        put(found, 0, keys[start : start + 300], start)
        delete(found, 0, keys[start : start + 300])
    assert found.row_count == 0
    assert found.nbytes < 200_000


def test_rows_span_chunks_and_slots_are_used_again() -> None:
    found, keys = table(dim=8000), keys_of(0, 3000)
    for start in range(0, keys.size, 500):
        put(found, 0, keys[start : start + 500], np.arange(start, start + 500))
    assert values_of(found.lookup(keys)) == list(range(3000))
    before = found.nbytes
    for value in range(10):
        put(found, 0, keys[:200], value)
    assert found.nbytes - before < 450 * 32_000
    assert values_of(found.lookup(keys[:201])) == [9] * 200 + [200]


def test_a_table_of_some_buckets_knows_only_those() -> None:
    found = table(held=range(10, 37))
    keys = np.arange(20_000)
    buckets = buckets_of(keys, BUCKETS)
    inside = (buckets >= 10) & (buckets < 37)
    found.load(keys[inside], filled(keys[inside], inside.sum()))
    assert (found.lookup(keys)[1] == inside).all()
    for part in (range(10, 11), range(20, 30), range(36, 37), range(64), range(10), range(50, 50)):
        expected = keys[inside & (buckets >= part.start) & (buckets < part.stop)]
        assert (found.keys_in(part) == expected).all()
        scanned, rows = found.scan(part)
        assert (scanned == expected).all()
        assert (rows == filled(expected, expected.size)).all()
    with pytest.raises(InvalidInput, match=r"does not belong to buckets 10-37"):
        found.load(keys[~inside][:1], filled(0, 1))
    assert found.row_count == inside.sum()


def unmixed(mixed: int) -> int:
    """The key, as int64, that `mix` makes this of."""
    mask = 2**64 - 1
    for factor in (0xC4CEB9FE1A85EC53, 0xFF51AFD7ED558CCD):
        mixed ^= mixed >> 33
        mixed = mixed * pow(factor, -1, 2**64) & mask
    mixed ^= mixed >> 33
    return mixed - 2**64 if mixed >> 63 else mixed


@pytest.mark.parametrize("corner", [0, 2**63, 2**64 - 3000])
def test_keys_that_share_their_home_are_all_found(corner: int) -> None:
    """They crowd into one place of the index, and run over its end where that is the last."""
    found = table(dim=1)
    crowd = np.array([unmixed(corner + i) for i in range(3000)], np.int64)
    others = np.arange(1, 2001)
    found.load(others, filled(others, 2000, 1))
    found.load(crowd, filled(np.arange(3000), 3000, 1))
    assert values_of(found.lookup(crowd)) == list(range(3000))
    assert values_of(found.lookup(others)) == list(range(1, 2001))
    bucket = int(buckets_of(crowd, BUCKETS)[0])
    assert np.isin(crowd, found.keys_in(range(bucket, bucket + 1))).all()
    assert found.keys_in(range(BUCKETS)).size == 5000
    assert (found.digests == naive_digests(found)).all()


def test_replacing_buckets_touches_only_what_differs() -> None:
    found = table()
    keys = [keys_of(p, 500) for p in ALL]
    for p in ALL:
        put(found, p, keys[p], p)
        found.mark(p, "before")
    part = range(8, 40)
    inside, rows = found.scan(part)
    assert inside.size > 700
    rows[:10] = filled(9, 10)
    born = np.setdiff1d(np.arange(10_000, 12_000), np.concatenate(keys))
    born = born[np.isin(buckets_of(born, BUCKETS), list(part))][:5]
    found.replace_buckets(part, np.concatenate([inside[:-7], born]), np.concatenate([rows[:-7], filled(8, 5)]))
    written = np.concatenate([w for p in ALL if (w := found.written_since(p, "before")) is not None])
    assert sorted(written) == sorted([*inside[:10], *inside[-7:], *born])
    assert values_of(found.lookup(inside[:10])) == [9] * 10
    assert values_of(found.lookup(inside[-7:])) == [None] * 7
    assert values_of(found.lookup(born)) == [8] * 5
    assert found.row_count == 2000 - 7 + 5
    assert (found.digests == naive_digests(found)).all()
    assert values_of(found.lookup_at(dict.fromkeys(ALL, "before"), np.append(inside, born)))[-5:] == [None] * 5


def test_replacing_buckets_makes_their_digests_true_again() -> None:
    found, keys = table(), keys_of(0, 100)
    put(found, 0, keys, 1)
    found._digests[3] += np.uint64(1)
    part = range(16)
    found.replace_buckets(part, *found.scan(part))
    assert (found.digests == naive_digests(found)).all()


def test_labels_answer_as_it_was() -> None:
    found = table()
    keys = [keys_of(p, 100) for p in ALL]
    for p in ALL:
        put(found, p, keys[p][:50], 1)
        found.mark(p, "one")
        put(found, p, keys[p][:75], 2)
        delete(found, p, keys[p][:10])
        found.mark(p, "two")
        put(found, p, keys[p], 3)
    every = np.concatenate(keys)
    assert values_of(found.lookup(every)) == [3] * 400
    assert values_of(found.lookup_at(dict.fromkeys(ALL, "two"), every)) == ([None] * 10 + [2] * 65 + [None] * 25) * 4
    mixed = {Partition(0): "one", Partition(1): "two", Partition(2): "one", Partition(3): "two"}
    one, two = [1] * 50 + [None] * 50, [None] * 10 + [2] * 65 + [None] * 25
    assert values_of(found.lookup_at(mixed, every)) == one + two + one + two
    assert found.written_since(Partition(0), "one").tolist() == np.sort(keys[0]).tolist()
    found.mark(Partition(0), "three")
    assert found.written_since(Partition(0), "three").size == 0


def test_forgetting_a_label_leaves_older_ones_as_they_are() -> None:
    found, keys = table(held=range(16)), keys_of(0, 6)
    put(found, 0, keys[:4], 1)
    found.mark(Partition(0), "one")
    put(found, 0, keys[:2], 2)
    found.mark(Partition(0), "two")
    put(found, 0, keys[1:5], 3)
    found.forget(Partition(0), "two")
    found.forget(Partition(0), "two")
    put(found, 0, keys[5:], 4)
    assert found.written_since(Partition(0), "two") is None
    assert found.written_since(Partition(0), "one").tolist() == np.sort(keys).tolist()
    assert values_of(found.lookup_at({Partition(0): "one"}, keys)) == [1, 1, 1, 1, None, None]
    with pytest.raises(VersionGone, match="nothing is remembered of two"):
        found.lookup_at({Partition(0): "two"}, keys)
    found.forget(Partition(0), "one")
    assert found.labels(Partition(0)) == ()
    assert values_of(found.lookup(keys)) == [2, 3, 3, 3, 3, 4]


def test_the_oldest_label_beyond_the_bound_is_forgotten_and_one_marked_again_moves() -> None:
    found, keys = table(max_labels=2), keys_of(0, 1)
    for label in ("one", "two", "three"):
        put(found, 0, keys, len(label))
        found.mark(Partition(0), label)
    assert found.labels(Partition(0)) == ("two", "three")
    put(found, 0, keys, 9)
    found.mark(Partition(0), "two")
    assert found.labels(Partition(0)) == ("three", "two")
    assert found.written_since(Partition(0), "two").size == 0
    assert found.written_since(Partition(0), "three").tolist() == keys.tolist()


def test_the_oldest_images_go_first_when_the_budget_is_spent() -> None:
    found, keys = table(held=range(16), image_bytes=100 * 16), keys_of(0, 60)
    put(found, 0, keys, 0)
    for value, label in enumerate(("one", "two", "three"), 1):
        found.mark(Partition(0), label)
        put(found, 0, keys, value)
    with pytest.raises(VersionGone, match="no longer fit into the budget"):
        found.lookup_at({Partition(0): "one"}, keys)
    with pytest.raises(VersionGone):
        found.lookup_at({Partition(0): "two"}, keys)
    with pytest.raises(VersionGone):
        found.encoded_at(Partition(0), "two", keys)
    assert values_of(found.lookup_at({Partition(0): "three"}, keys)) == [2] * 60
    assert found.written_since(Partition(0), "one").size == 60
    found.forget(Partition(0), "two")
    found.forget(Partition(0), "three")
    assert found.written_since(Partition(0), "one").size == 60
    found.mark(Partition(0), "four")
    put(found, 0, keys, 7)
    assert values_of(found.lookup_at({Partition(0): "four"}, keys)) == [3] * 60


def test_the_partition_whose_label_is_older_loses_its_images_first() -> None:
    found = table(held=range(32), image_bytes=100 * 16)
    first, second = keys_of(0, 60), keys_of(1, 60)
    for p, keys in ((1, second), (0, first)):
        put(found, p, keys, 1)
        found.mark(Partition(p), "then")
    put(found, 0, first, 2)
    put(found, 1, second, 2)
    with pytest.raises(VersionGone, match="partition 1"):
        found.encoded_at(Partition(1), "then", second)
    rows, there = found.encoded_at(Partition(0), "then", first)
    assert there.all()
    assert (rows.view(np.float32) == 1).all()


def test_a_label_since_which_nothing_was_replaced_outlives_any_budget() -> None:
    found, keys, born = table(held=range(32), image_bytes=0), keys_of(0, 60), keys_of(1, 60)
    put(found, 0, keys, 1)
    put(found, 1, born[:1], 1)
    labels = {Partition(p): "then" for p in (0, 1)}
    for p in labels:
        found.mark(p, "then")
    put(found, 1, born[1:], 2)
    assert values_of(found.lookup_at(labels, np.append(keys, born))) == [1] * 61 + [None] * 59
    put(found, 1, born[:1], 3)
    with pytest.raises(VersionGone, match="partition 1"):
        found.lookup_at(labels, keys)
    assert found.encoded_at(Partition(0), "then", keys)[1].all()


def test_images_cost_no_more_than_the_budget() -> None:
    found, keys = table(dim=1000, image_bytes=1 << 20), keys_of(0, 1000)
    put(found, 0, keys, 0)
    before = found.nbytes
    for value in range(20):
        found.mark(Partition(0), value)
        put(found, 0, keys, value)
    assert found.nbytes - before < 3 * 4_000_000


def test_what_was_written_since_a_label_is_told_as_a_share_of_the_images() -> None:
    found, keys = table(held=range(32), image_bytes=100 * 16), keys_of(0, 30)
    assert found.share_written(Partition(0)) == 0
    found.mark(Partition(0), "one")
    put(found, 0, keys, 1)
    delete(found, 0, keys[:10])
    assert found.share_written(Partition(0)) == pytest.approx(40 / 50)
    assert found.share_written(Partition(1)) == 0
    found.correct(Partition(0), keys[:1], np.zeros((1, 16), np.uint8), np.empty(0, np.int64))
    found.mark(Partition(0), "two")
    assert found.share_written(Partition(0)) == 0
    none = table(held=range(32), image_bytes=0)
    none.mark(Partition(0), "one")
    put(none, 0, keys, 1)
    assert none.share_written(Partition(0)) == 0


def test_a_correction_leaves_no_trace_and_holds_at_labels_as_well() -> None:
    found, keys = table(held=range(16)), keys_of(0, 3)
    put(found, 0, keys, 1)
    found.mark(Partition(0), "one")
    put(found, 0, keys[:1], 2)
    found.correct(Partition(0), keys[1:2], filled(5, 1), keys[2:])
    assert found.written_since(Partition(0), "one").tolist() == keys[:1].tolist()
    assert values_of(found.lookup_at({Partition(0): "one"}, keys)) == [1, 5, None]
    assert values_of(found.lookup(keys)) == [2, 5, None]
    assert (found.digests == naive_digests(found)).all()


def test_what_does_not_belong_is_refused_and_changes_nothing() -> None:
    found, mine, other = table(), keys_of(0, 2), keys_of(1, 1)
    put(found, 0, mine, 1)
    digests = found.digests
    refused = [
        lambda: put(found, 0, np.append(mine, other), 2),
        lambda: delete(found, 0, np.append(mine, other)),
        lambda: found.apply(Partition(4), mine, filled(2, 2), NONE),
        lambda: found.apply(Partition(-1), mine, filled(2, 2), NONE),
        lambda: found.apply(Partition(0), mine, filled(2, 3), NONE),
        lambda: found.apply(Partition(0), mine, filled(2, 2)[:, :8], NONE),
        lambda: found.apply(Partition(0), mine.astype(np.int32), filled(2, 2), NONE),
        lambda: found.apply(Partition(0), mine, filled(2, 2), mine.astype(np.float64)),
        lambda: found.load(mine[:, None], filled(2, 2)),
        lambda: found.load(mine, filled(2, 2).view(np.float32)),
        lambda: found.replace_buckets(range(16), other, filled(2, 1)),
        lambda: found.replace_buckets(range(16), np.repeat(mine, 2), filled(2, 4)),
        lambda: found.lookup(mine.astype(np.uint64)),
        lambda: found.mark(Partition(4), "x"),
        lambda: found.lookup_at({Partition(0): "x"}, mine),
    ]
    for call in refused:
        with pytest.raises((InvalidInput, VersionGone)):
            call()
    assert values_of(found.lookup(mine)) == [1, 1]
    assert found.row_count == 2
    assert (found.digests == digests).all()


def test_a_codec_that_cannot_be_decoded_is_refused_at_birth() -> None:
    with pytest.raises(Unsupported, match="bfloat16"):
        Table(codec="bfloat16", dim=2, width=4, bucket_count=4, partition_count=1, held=range(4))
    with pytest.raises(InvalidInput, match="has 8 bytes, not 9"):
        Table(codec="float32", dim=2, width=9, bucket_count=4, partition_count=1, held=range(4))
    with pytest.raises(InvalidInput, match="buckets"):
        Table(codec="float32", dim=2, width=8, bucket_count=4, partition_count=1, held=range(2, 5))


def test_a_table_without_buckets_finds_nothing_and_takes_nothing() -> None:
    found = table(held=range(5, 5))
    assert values_of(found.lookup(np.arange(100))) == [None] * 100
    found.mark(Partition(0), "one")
    assert found.written_since(Partition(0), "one").size == 0
    with pytest.raises(InvalidInput):
        put(found, 0, keys_of(0, 1), 1)


@pytest.mark.parametrize(("dim", "most"), [(2, 2), (8, 2), (16, 1.4), (32, 1.4)])
def test_memory_a_row_is_near_its_width_and_its_place_in_the_index(dim: int, most: float) -> None:
    """However it was filled: at once, or bit by bit."""
    keys = np.arange(200_000)
    for reserved in (0, keys.size):
        found = table(dim=dim)
        found.reserve(reserved)
        for part in np.array_split(keys, 40):
            found.load(part, filled(part, part.size, dim))
        assert found.nbytes / keys.size <= (4 * dim + 16) * most
