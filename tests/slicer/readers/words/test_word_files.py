"""Tables of words and vectors, as text and in word2vec's binary format."""

import os
import struct

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from open_files import nothing_left_open
from word_files import write_binary, write_text

from penstock.pipeline.core.errors import Corrupt, InvalidInput, PenstockError, Unsupported
from penstock.slicer.readers import open_checkpoint
from penstock.slicer.readers.words.text_tables import is_text_table, open_text_table
from penstock.slicer.readers.words.word2vec_files import is_word2vec_binary, open_word2vec_binary

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
SPELLINGS = st.one_of(
    FLOATS.map(lambda value: str(np.float32(value))),
    FLOATS.map(lambda value: f"{value:.6f}"),
    FLOATS.map(lambda value: f"{value:.17e}"),
    FLOATS.map(lambda value: f"{value:g}"),
    st.sampled_from(["nan", "-inf", "inf", "1E5", "-.5", "0.1e-44", "1.", "16777217.0", "3.4028236e38"]),
)
WORDS = st.binary(min_size=1, max_size=12).filter(lambda word: min(word) > 32)
STYLES = st.sampled_from(["word2vec", "glove", "colon"])


def texts(words):
    return b"".join(struct.pack("<Q", len(word)) + word for word in words)


def expected(lines):
    """What the nearest float32 of each spelling is: by way of float64, which is exact enough for these."""
    with np.errstate(over="ignore"):
        return np.array([[np.float32(value) for value in values] for values in lines], np.float32)


def assert_table(checkpoint, words, rows, data=None):
    keys, vectors = "keys", "rows"
    assert [(info.name, info.shape, info.dtype, info.role) for info in checkpoint.tensors] == [
        (keys, (len(words),), "string", "other"),
        (vectors, rows.shape, "float32", "embedding"),
    ]
    assert checkpoint.texts(keys, 0, len(words)).to_pylist() == words
    assert b"".join(block.tobytes() for block in checkpoint.blocks(keys, limit_bytes=16)) == texts(words)
    np.testing.assert_array_equal(checkpoint.read(vectors).view("u4"), rows.view("u4"))
    assert b"".join(block.tobytes() for block in checkpoint.blocks(vectors, limit_bytes=16)) == rows.tobytes()
    if data is not None:
        start = data.draw(st.integers(0, len(words)))
        stop = data.draw(st.integers(start, len(words)))
        assert checkpoint.texts(keys, start, stop).to_pylist() == words[start:stop]
        for dtype in (np.float32, np.float64):
            into = np.empty((stop - start, rows.shape[1]), dtype)
            checkpoint.read_rows_into(vectors, start, into)
            np.testing.assert_array_equal(into.astype(np.float32).view("u4"), rows[start:stop].view("u4"))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), style=STYLES, count=st.integers(2, 30), width=st.integers(2, 5))
def test_text_however_it_is_spelled(tmp_path_factory, data, style, count, width):
    path = tmp_path_factory.mktemp("any") / "item2vec.v1.csv"
    words = data.draw(st.lists(WORDS, min_size=count, max_size=count, unique=True))
    values = st.lists(SPELLINGS, min_size=width, max_size=width)
    lines = [["0.25", *data.draw(values)[1:]] for _ in words]
    # The first 16 bytes are looked at by every format.
    assume(not any(word.startswith((b"PK", b"\x93NUMPY", b"PAR1", b"\x80", b"\x89HDF", b"{")) for word in words[:1]))
    assume(b"{" not in words[0])
    end = data.draw(st.sampled_from([b"\n", b"\r\n", b" \n", b" \r\n"]))
    write_text(path, words, lines, style, end=end if style != "colon" else end.lstrip(b" "), cut_last=data.draw(st.booleans()))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "text table"
        assert_table(checkpoint, words, expected(lines), data)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(1, 30), width=st.integers(1, 9), end=st.sampled_from([b"", b"\n"]))
def test_word2vec_binary(tmp_path_factory, data, count, width, end):
    path = tmp_path_factory.mktemp("any") / "vectors.bin"
    words = [b"</s>", *(data.draw(WORDS) for _ in range(count - 1))]
    rows = np.random.default_rng(count).standard_normal((count, width)).astype(np.float32)
    rows[0, 0] = 0
    write_binary(path, words, rows, end=end)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "word2vec"
        assert_table(checkpoint, words, rows, data)


def test_the_nearest_float32_of_a_decimal(tmp_path):
    """Rounded once, not to float64 first: 1 + 2**-24 and a little more is nearer to what follows 1."""
    path = tmp_path / "t.txt"
    write_text(path, [b"a", b"b"], [["1.00000005960464477540", "0.5"], ["1.0000000596046447", "0.5"]], "glove")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("rows")[:, 0].tolist() == [np.nextafter(np.float32(1), np.float32(2)), 1.0]


@pytest.mark.parametrize("style", ["word2vec", "glove"])
def test_words_are_bytes(tmp_path, style):
    words = [b'"', b'\'"quoted",x', b"\xff\xfe", "日本".encode(), b"1.5", b"#", b"a:b", b". . .", b"\\N", b"nan"]
    path = tmp_path / "t.txt"
    write_text(path, words, [["0.5", "-1.25"]] * len(words), style)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.texts("keys", 0, len(words)).to_pylist() == words


def test_keys_with_colons(tmp_path):
    path = tmp_path / "t.txt"
    words = [b"user:1", b"::", b"a b:2"]
    write_text(path, words, [["0.5", "1", "-2"]] * 3, "colon")
    with open_checkpoint(path) as checkpoint:
        assert_table(checkpoint, words, np.array([[0.5, 1, -2]] * 3, np.float32))


COUNT = 10_000


@pytest.fixture(params=["word2vec", "glove", "colon", "binary"])
def large(request, tmp_path):
    """More records than one block or one mark covers."""
    words = [b"word%d" % at + b"x" * (at % 50) for at in range(COUNT)]
    rows = np.random.default_rng(3).standard_normal((COUNT, 16)).astype(np.float32)
    path = tmp_path / "large.txt"
    if request.param == "binary":
        write_binary(path, words, rows)
    else:
        write_text(path, words, [[str(value) for value in row] for row in rows], request.param)
    return path, words, rows


def test_ranges_in_any_order(large):
    path, words, rows = large
    with open_checkpoint(path) as checkpoint:
        for start, stop in ((9990, 10_000), (0, 10), (4095, 4097), (8192, 8192), (5000, 9000), (1, 2), (0, 10_000), (3, 9999)):
            np.testing.assert_array_equal(checkpoint.rows("rows", start, stop), rows[start:stop])
            assert checkpoint.texts("keys", start, stop).to_pylist() == words[start:stop]


def test_nothing_is_read_of_a_closed_one(large):
    path, _, _ = large
    checkpoint = open_checkpoint(path)
    checkpoint.close()
    with pytest.raises(InvalidInput, match="is closed"):
        checkpoint.rows("rows", 0, 1)
    with pytest.raises(InvalidInput, match="is closed"):
        checkpoint.texts("keys", 9000, 9001)


def test_rows_that_are_not_there(large):
    path, _, _ = large
    with open_checkpoint(path) as checkpoint:
        with pytest.raises(InvalidInput, match="has rows 0 to 10000"):
            checkpoint.rows("rows", 9999, 10_001)
        with pytest.raises(InvalidInput, match="has rows 0 to 10000"):
            checkpoint.texts("keys", -1, 1)
        with pytest.raises(InvalidInput, match="holds texts"):
            checkpoint.rows("keys", 0, 1)


def test_a_file_that_shrinks_while_it_is_read(large):
    path, _, _ = large
    with open_checkpoint(path) as checkpoint:
        os.truncate(path, 1000)
        with pytest.raises(Corrupt, match="has shrunk"):
            checkpoint.rows("rows", 9000, 9001)


def lines_of(*odd, before=100, style="word2vec", count=None):
    """A table of good lines with some that are not."""
    mark = b":" if style == "colon" else b" "
    lines = [b"w%d" % at + mark + b"0.5 1.5 2.5" for at in range(before)] + list(odd)
    head = b"%d 3\n" % (len(lines) if count is None else count) if style == "word2vec" else b""
    return head + b"\n".join(lines) + b"\n"


@pytest.mark.parametrize("style", ["word2vec", "glove", "colon"])
@pytest.mark.parametrize(
    ("line", "match"),
    [
        (b"w#1.5", "fewer values"),
        (b"w#1.5 2.5", "fewer values"),
        (b"", "fewer values"),
        (b"w", "fewer values"),
        (b"w#1.5 2.5 3.5 4.5", "more values"),
        (b"w#1.5 2.5  3.5", "an empty value, or more than one space"),
        (b"w#1.5 2.5 3.5  ", "an empty value, or more than one space"),
        (b"w#1.5 2.5 x", "a value that is no number"),
        (b"w#1.5 2.5\t3.5 1.5", "a value that is no number"),
        (b"w#1.5 2.5 0x1p3", "a value that is no number"),
        (b"w#1.5 2.5 1,5", "a value that is no number"),
        (b"#1.5 2.5 3.5", "no word"),
    ],
)
def test_a_line_that_is_no_row(tmp_path, style, line, match):
    path = tmp_path / "t.txt"
    line = line.replace(b"#", b":" if style == "colon" else b" ")
    path.write_bytes(lines_of(line, b"w 1 2 3", style=style))
    with open_checkpoint(path) as checkpoint:
        assert len(checkpoint.rows("rows", 0, 100)) == 100
        with pytest.raises(Corrupt, match=rf"{path}: line {102 if style == 'word2vec' else 101}: .*{match}"):
            checkpoint.read("rows")


@pytest.mark.parametrize(("said", "match"), [(101, "100 records, not the 101"), (99, "more than the 99 records")])
def test_a_header_that_lies(tmp_path, said, match):
    path = tmp_path / "t.txt"
    path.write_bytes(lines_of(count=said))
    with open_checkpoint(path) as checkpoint, pytest.raises(Corrupt, match=match):
        checkpoint.read("rows")
    rows = np.full((100, 3), 0.1, np.float32)
    write_binary(path, [b"w"] * 100, rows)
    path.write_bytes(path.read_bytes().replace(b"100 3", b"%d 3" % said))
    if said > 100:
        path.write_bytes(path.read_bytes() + b"\n" * 20)
    with open_checkpoint(path) as checkpoint, pytest.raises(Corrupt, match=match if said < 100 else "record 100"):
        checkpoint.read("rows")


@pytest.mark.parametrize("said", [10**6, 10**17])
def test_a_header_that_says_more_than_fits(tmp_path, said):
    path = tmp_path / "t.txt"
    path.write_bytes(lines_of(count=said))
    with pytest.raises(Corrupt, match=f"{said} rows of 3 values in"):
        open_checkpoint(path)
    write_binary(path, [b"w"] * 100, np.full((100, 3), 0.1, np.float32))
    path.write_bytes(path.read_bytes().replace(b"100 3", b"%d 3" % said))
    with nothing_left_open(), pytest.raises(Corrupt, match=f"{said} rows of 3 values in"):
        open_checkpoint(path)


@pytest.mark.parametrize("style", ["word2vec", "glove"])
def test_a_line_that_never_ends(tmp_path, style):
    path = tmp_path / "t.txt"
    path.write_bytes(lines_of(b"w" * (1 << 20) + b" 1 2 3", style=style))
    with pytest.raises(Corrupt, match=r"longer than 1048576 bytes"), open_checkpoint(path) as checkpoint:
        checkpoint.read("rows")


@pytest.mark.parametrize(
    ("record", "match"),
    [
        (b" " + bytes(12), "record 100: no word"),
        (b"w" * (1 << 17), "record 100: no end of its word"),
        (b"w " + bytes(11), "record 100: the file ends in it"),
        (b"w" * 30, "record 100: the file ends in it"),
    ],
)
def test_a_binary_record_that_is_none(tmp_path, record, match):
    path = tmp_path / "t.bin"
    write_binary(path, [b"word"] * 100, np.full((100, 3), 0.1, np.float32), end=b"")
    path.write_bytes(path.read_bytes().replace(b"100 3", b"101 3") + record)
    with open_checkpoint(path) as checkpoint, pytest.raises(Corrupt, match=match):
        checkpoint.read("rows")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n\n",
        b"5 3\n",
        b"a,b,c\n1.5,2.5,3.5\n2.5,3.5,4.5\n",
        b'{"a": 1.5,\n "b": 2.5}\n',
        b'[store]\nurl = "file:///x"\nsize = 1.5\n',
        b"2026-11-21T10:07:00Z INFO done in 1.5 s\n2026-11-21T10:08:00Z INFO done in 2.5 s\n",
        b"196 242 3 881250949\n186 302 3 891717742\n",
        b"1 1:0.5 2:0.25\n-1 1:0.5 3:0.75\n",
        b"name: 1.5\nother: 2.5\n",
        b"one line 1.5 2.5\n",
        b"It was 1.5 or 2.5\nAnd then\n",
        b"word 1.5 2.5\nword 1.5 2.5 3.5\n",
        b"word\x01 1.5 2.5\nword 1.5 2.5\n",
        b"2 3\nfoo 1.5 2.5\nbar 1.5 2.5\n",
        b"2 3\nfoo 1.5 x 2.5\nbar 1.5 2.5 3.5\n",
        b"100 20\n" + bytes(500),
        b"2 300000\nword " + bytes(2_400_000),
        b"2 3\nword \xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\nword " + bytes(12),
        b"2 3\n\x07ord " + bytes(12) + b"\nword " + bytes(12),
        b"2 3\n\xffrd " + bytes(12) + b"\nword " + bytes(12),
        bytes(range(256)) * 100,
    ],
)
def test_other_files_are_none(tmp_path, data):
    path = tmp_path / "t.txt"
    path.write_bytes(data)
    assert not is_text_table(path, data[:16])
    assert not is_word2vec_binary(path, data[:16])
    with pytest.raises(Unsupported):
        open_checkpoint(path)


def test_folders_and_missing_files_are_none(tmp_path):
    for path in (tmp_path, tmp_path / "gone"):
        assert not is_text_table(path, b"100 2\nword 1.5 2")
        assert not is_word2vec_binary(path, b"100 2\nword 1.5 2")


@settings(max_examples=200, deadline=None)
@given(data=st.data(), binary=st.booleans())
def test_no_damage_is_anything_but_a_refusal(tmp_path_factory, data, binary):
    """A byte of the file is changed, or its end is gone: it reads, or one of our errors names it."""
    path = tmp_path_factory.mktemp("any") / "t.txt"
    if binary:
        write_binary(path, [b"word"] * 9, np.full((9, 3), 0.1, np.float32))
    else:
        path.write_bytes(lines_of(before=9))
    whole = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.sampled_from([len(whole), at]))])
    why = str(path)
    with nothing_left_open():
        try:
            with (open_word2vec_binary if binary else open_text_table)(path) as checkpoint:
                assert checkpoint.texts("keys", 0, checkpoint.info("keys").shape[0]).null_count == 0
                checkpoint.read("rows")
        except PenstockError as error:
            why = str(error)
    assert str(path) in why
