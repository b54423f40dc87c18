"""Tables in a checkpoint, in every way that the config can describe them: parts, keys, texts, vocabularies."""

from __future__ import annotations

import json
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.pipeline.config import TableConfig
from penstock.pipeline.core.errors import Corrupt, NotFound, Refused
from penstock.publishers.picking import take
from penstock.publishers.table_reading import Reading
from penstock.publishers.vocabulary import lines
from penstock.slicer.readers import open_checkpoint

DIM = 3


def rows_from(first: int, count: int, dtype=np.float32, dim=DIM):
    return (np.arange(count * dim).reshape(count, dim) + first * dim).astype(dtype)


@pytest.fixture
def table(tmp_path):
    """The table that some settings describe, in a checkpoint of some arrays."""

    with ExitStack() as opened:

        def read(arrays, **settings):
            np.savez(tmp_path / "c.npz", **arrays)
            checkpoint = opened.enter_context(open_checkpoint(tmp_path / "c.npz"))
            return Reading(checkpoint, tmp_path / "c.npz").table("t", TableConfig(**settings))

        read.folder = tmp_path
        yield read


def values(found):
    return found.read(0, np.empty((found.rows, found.dim), np.float32))


# ---- parts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [["t/part_0", "t/part_1", "t/part_10"], "t/part_*"])
def test_parts_follow_one_another_in_the_order_of_their_numbers(table, named):
    parts = {"t/part_10": rows_from(5, 2), "t/part_0": rows_from(0, 2), "t/part_1": rows_from(2, 3, np.float16)}
    if named == "t/part_*":
        parts = {"t/part_2": parts.pop("t/part_10"), **parts}
    found = table(parts, tensor=named)
    assert (found.rows, found.dim, found.keys(0, 7)) == (7, DIM, None)
    assert np.array_equal(values(found), rows_from(0, 7))


@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=5), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_range_of_parts_is_the_range_of_the_whole(tmp_path_factory, counts, data):
    count, path = sum(counts), tmp_path_factory.mktemp("parts") / "c.npz"
    whole = rows_from(0, count)
    starts = np.cumsum([0, *counts])
    np.savez(path, **{f"p{n}": whole[starts[n] : starts[n + 1]] for n in range(len(counts))})
    with open_checkpoint(path) as checkpoint:
        if not count:
            with pytest.raises(Refused, match="empty"):
                Reading(checkpoint, path).table("t", TableConfig(tensor="p*"))
            return
        found = Reading(checkpoint, path).table("t", TableConfig(tensor="p*"))
        low = data.draw(st.integers(0, count))
        high = data.draw(st.integers(low, count))
        assert np.array_equal(found.read(low, np.empty((high - low, DIM), np.float32)), whole[low:high])


@given(rows=st.integers(1, 23), parts=st.integers(1, 5), data=st.data())
@settings(max_examples=60, deadline=None)
def test_parts_by_modulo_take_turns(tmp_path_factory, rows, parts, data):
    path, whole = tmp_path_factory.mktemp("modulo") / "c.npz", rows_from(0, rows)
    np.savez(path, **{f"p{n}": whole[n::parts] for n in range(parts)})
    with open_checkpoint(path) as checkpoint:
        found = Reading(checkpoint, path).table("t", TableConfig(tensor="p*", partition="modulo"))
        low = data.draw(st.integers(0, rows))
        high = data.draw(st.integers(low, rows))
        assert found.keys(low, high) is None
        assert np.array_equal(found.read(low, np.empty((high - low, DIM), np.float32)), whole[low:high])
        wanted = np.array(sorted(data.draw(st.sets(st.integers(0, rows - 1)))), np.int64)
        assert np.array_equal(take(found, wanted), whole[wanted])


def test_keys_and_rows_in_parts(table):
    arrays = {
        "t/part_0-keys": np.array([7, -1]), "t/part_1-keys": np.array([2**63 - 1]),
        "t/part_0-values": rows_from(0, 2), "t/part_1-values": rows_from(2, 1),
    }  # fmt: skip
    found = table(arrays, keys="t/part_*-keys", rows="t/part_*-values")
    assert found.keys(1, 3).tolist() == [-1, 2**63 - 1]
    assert found.keys(0, 0).tolist() == []
    assert np.array_equal(values(found), rows_from(0, 3))


@pytest.mark.parametrize(
    ("error", "match", "arrays", "settings"),
    [
        (NotFound, "parts 0 to 3 of p\\*, but no part 2", {"p0": 1, "p1": 1, "p3": 1}, {"tensor": "p*"}),
        (NotFound, "has part 4 of p\\*, but no part 0", {"p4": 1}, {"tensor": "p*"}),
        (NotFound, "no tensor 'q\\*'", {"p0": 1}, {"tensor": "q*"}),
        (NotFound, "no tensor 'p1'", {"p0": 1}, {"tensor": ["p0", "p1"]}),
        (Refused, "part p0 has 2 rows, by modulo 3 of 5 belong to it", {"p0": 2, "p1": 3},
         {"tensor": "p*", "partition": "modulo"}),
        (Refused, "keys of 2 \\+ 1 rows, and rows of 1 \\+ 2", {"k0": [2], "k1": [1], "r0": 1, "r1": 2},
         {"keys": "k*", "rows": "r*"}),
    ],
)  # fmt: skip
def test_parts_that_make_no_table(table, error, match, arrays, settings):
    made = {name: np.arange(size[0]) if isinstance(size, list) else rows_from(0, size) for name, size in arrays.items()}
    with pytest.raises(error, match=match):
        table(made, **settings)


def test_parts_of_different_width_are_refused(table):
    with pytest.raises(Refused, match="rows of p1 have 2 values, those of p0 3"):
        table({"p0": rows_from(0, 2), "p1": rows_from(0, 2, dim=2)}, tensor="p*")


# ---- keys --------------------------------------------------------------------------------------------------------------


def test_unsigned_keys_keep_their_bits(table):
    found = table({"k": np.array([2**64 - 1, 5], np.uint64), "r": rows_from(0, 2)}, keys="k", rows="r")
    assert found.keys(0, 2).tolist() == [-1, 5]


def test_texts_are_hashed_and_kept_or_parsed(table):
    words = np.array(["anna", "", "zoë", "12"])
    arrays = {"k": words, "n": np.array(["3", "-7", "9223372036854775807", "12"]), "r": rows_from(0, 4)}
    found = table(arrays, keys="k", rows="r")
    hashes = [np.uint64(xxhash.xxh64_intdigest(word.encode())).astype(np.int64) for word in words]
    assert found.keys(0, 4).tolist() == hashes
    assert found.names(1, 3).to_pylist() == [b"", "zoë".encode()]
    parsed = table(arrays, keys="n", rows="r", key_type="int64")
    assert parsed.keys(0, 4).tolist() == [3, -7, 2**63 - 1, 12]
    assert parsed.names(0, 4) is None


def test_a_text_that_is_no_number_is_named(table):
    found = table({"k": np.array(["3", "x9"]), "r": rows_from(0, 2)}, keys="k", rows="r", key_type="int64")
    with pytest.raises(Refused, match="table t: a key is no integer of 64 bits: .*x9"):
        found.keys(0, 2)


def test_numbers_are_no_strings(table):
    with pytest.raises(Refused, match="keys of table t are numbers, and its key_type says that they are strings"):
        table({"k": np.arange(2), "r": rows_from(0, 2)}, keys="k", rows="r", key_type="string")


# ---- vocabularies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["\n", "", "\r\n"])
def test_a_vocabulary_of_lines(table, ending):
    separator = ending or "\n"
    (table.folder / "words.txt").write_bytes((separator.join(["a", "b c", "zoë"]) + ending).encode())
    found = table({"e": rows_from(0, 3)}, tensor="e", vocabulary="words.txt")
    assert found.names(0, 3).to_pylist() == [b"a", b"b c", "zoë".encode()]
    assert found.keys(2, 3).tolist() == [np.uint64(xxhash.xxh64_intdigest("zoë".encode())).astype(np.int64)]
    assert np.array_equal(values(found), rows_from(0, 3))


@given(st.lists(st.binary().filter(lambda line: b"\n" not in line and b"\r" not in line)))
def test_lines_are_what_python_says_that_they_are(words):
    assert lines(b"".join(word + b"\n" for word in words)).to_pylist() == words


def test_a_vocabulary_in_another_file_or_tensor(table):
    np.savez(table.folder / "ids.npz", t=np.array([30, 10, 20]), other=np.arange(5))
    arrays = {"e": rows_from(0, 3), "ids": np.array([5, 6, 7], np.int32)}
    assert table(arrays, tensor="e", vocabulary="ids.npz#t").keys(0, 3).tolist() == [30, 10, 20]
    assert table(arrays, tensor="e", vocabulary="ids").keys(0, 3).tolist() == [5, 6, 7]
    with pytest.raises(Refused, match="has 2 tensors"):
        table(arrays, tensor="e", vocabulary="ids.npz")


def test_a_map_from_key_to_row_may_leave_rows_out(table, caplog):
    (table.folder / "rows.json").write_text(json.dumps({"carla": 3, "anna": 1, "bert": 2}))
    found = table({"e": rows_from(0, 5)}, tensor="e", vocabulary="rows.json")
    assert found.names(0, 3).to_pylist() == [b"anna", b"bert", b"carla"]
    assert np.array_equal(values(found), rows_from(1, 3))
    assert "2 rows have no key in rows.json, and are left out" in caplog.text
    far = {str(n): n for n in range(0, 5000, 700)}
    (table.folder / "rows.json").write_text(json.dumps(far))
    found = table({"e": rows_from(0, 5000)}, tensor="e", vocabulary="rows.json", key_type="int64")
    assert found.keys(0, found.rows).tolist() == sorted(far.values())
    assert np.array_equal(found.read(2, np.empty((3, DIM), np.float32)), rows_from(0, 5000)[[1400, 2100, 2800]])


@pytest.mark.parametrize(
    ("error", "match", "content"),
    [
        (Refused, "a key is at row 3, table t has 3 rows", {"a": 3}),
        (Refused, "a key is at row -1", {"a": -1}),
        (Refused, "two keys are at row 1", {"a": 1, "b": 1}),
        (Refused, "has 2 keys, table t has 3 rows", ["a", "b"]),
        (Corrupt, "a list of both numbers and texts", [1, "b", "c"]),
        (Corrupt, "neither a list of keys nor a map", {"a": "b"}),
        (Corrupt, "neither a list of keys nor a map", [2**64, 1, 2]),
        (Corrupt, "neither a list of keys nor a map", 5),
    ],
)
def test_vocabularies_that_do_not_fit(table, error, match, content):
    (table.folder / "v.json").write_text(json.dumps(content))
    with pytest.raises(error, match=match):
        table({"e": rows_from(0, 3)}, tensor="e", vocabulary="v.json")


def test_a_vocabulary_that_is_not_there(table):
    with pytest.raises(NotFound, match=r"no tensor 'w\.txt', and no such file in "):
        table({"e": rows_from(0, 3)}, tensor="e", vocabulary="w.txt")


def test_lines_have_no_nulls_and_are_binary():
    found = lines(b"x\n")
    assert found.type == pa.large_binary()
    assert found.null_count == 0
