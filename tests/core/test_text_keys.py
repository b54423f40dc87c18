"""The hash of text keys is XXH64, wherever the texts lie."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.pipeline.core.errors import InvalidInput
from penstock.pipeline.core.spelling import key_of, shown, spelled
from penstock.pipeline.core.text_keys import hash_text, hash_texts, texts_of


def reference(text: bytes) -> int:
    """As int64, by another implementation."""
    return int(np.uint64(xxhash.xxh64(text, seed=0).intdigest()).astype(np.int64))


@pytest.mark.parametrize("length", range(130))
def test_every_length_is_hashed_as_the_reference_does(length):
    data = np.random.default_rng(length)
    texts = [data.bytes(length) for _ in range(3)]
    assert hash_texts(texts).tolist() == [reference(text) for text in texts]


@given(st.lists(st.binary(max_size=100)), st.integers(0, 5))
@example([b"", b"\xff\xfe", "naïve 漢字".encode(), b"\0"], 1)
def test_a_part_of_an_array_is_hashed_as_its_texts_are(texts, start):
    array = pa.array(texts, pa.large_binary()).slice(start)
    assert hash_texts(array).tolist() == [reference(text) for text in texts[start:]]


@pytest.mark.parametrize(
    "texts",
    [
        ["é", "", "zz"],
        np.array(["é", "", "zz"]),
        np.array(["é", "", "zz"], object),
        [b"\xc3\xa9", b"", b"zz"],
        np.array([b"\xc3\xa9", b"", b"zz"]),
        pa.array(["é", "", "zz"]),
        pa.array(["é", "", "zz"], pa.large_string()),
        pa.array(["é", "", "zz"], pa.string_view()),
        pa.chunked_array([["é"], ["", "zz"]]),
    ],
)
def test_characters_are_their_utf_8_in_whatever_they_come(texts):
    assert hash_texts(texts).tolist() == [reference(text.encode()) for text in ("é", "", "zz")]


@pytest.mark.parametrize("texts", [[], pa.array([], pa.string()), pa.chunked_array([], pa.string()), np.array([], "S3")])
def test_no_texts_are_no_keys(texts):
    assert hash_texts(texts).tolist() == []
    assert texts_of(texts).type == pa.large_binary()


def test_fixed_width_binary_is_text_too():
    assert hash_texts(pa.array([b"abcd"], pa.binary(4))).tolist() == [hash_text("abcd")]


@pytest.mark.parametrize(
    ("texts", "match"),
    [([1, 2], "not int64"), (["a", None], "a key is null"), ([["a"]], "not list"), (np.ones(2), "double"), (["a", 1], "texts")],
)
def test_what_is_no_text_is_refused(texts, match):
    with pytest.raises(InvalidInput, match=match):
        hash_texts(texts)


def test_a_key_as_people_write_it():
    assert (key_of("-17", "int64"), key_of("-17", "string")) == (-17, hash_text("-17"))
    assert (spelled("007", "int64"), spelled("007", "string")) == ("7", "007")
    # A command line gives bytes that are no UTF-8 as surrogates.
    assert key_of("a\udcff", "string") == hash_text(b"a\xff")
    assert spelled("a\udcff", "string") == shown(b"a\xff") == r"a\xff"


@pytest.mark.parametrize(("text", "match"), [("x", "not a number"), (str(2**63), "does not fit 64 bits"), ("", "not a number")])
def test_what_is_no_number_is_refused(text, match):
    with pytest.raises(InvalidInput, match=match):
        key_of(text, "int64")
