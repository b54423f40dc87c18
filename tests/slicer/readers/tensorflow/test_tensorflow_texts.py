"""String tensors of bundles: ranges, blocks, checksums, and lengths that lie."""

import struct

import numpy as np
import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_files import Stored, header, mask, message, number, shape_proto, table, varint, write_bundle

from penstock.pipeline.core.errors import Corrupt, InvalidInput
from penstock.slicer.readers import open_checkpoint
from penstock.slicer.readers.tensorflow import tensorflow_texts


def framed(texts):
    return b"".join(struct.pack("<Q", len(text)) + text for text in texts)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.binary(max_size=200), min_size=1, max_size=60),
    order=st.sampled_from("<>"),
    chunk=st.sampled_from([12, 64, 1 << 16]),
    limit=st.integers(1, 300),
    data=st.data(),
)
def test_ranges_and_blocks(tmp_path_factory, texts, order, chunk, limit, data):
    index = write_bundle(tmp_path_factory.mktemp("any") / "p", {"t": texts, "v": np.zeros(3)}, order=order)
    with pytest.MonkeyPatch.context() as patch, open_checkpoint(index) as checkpoint:
        patch.setattr(tensorflow_texts, "_CHUNK", chunk)
        start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(texts))] * 2)))
        assert checkpoint.texts("t", start, stop).to_pylist() == texts[start:stop]
        blocks = [block.tobytes() for block in checkpoint.blocks("t", limit_bytes=limit)]
        assert b"".join(blocks) == framed(texts)
        assert max(map(len, blocks)) <= max(limit, 8)
        assert checkpoint.texts("t", 0, len(texts)).to_pylist() == texts
        for bad in ((-1, 0), (1, 0), (0, len(texts) + 1)):
            with pytest.raises(InvalidInput, match="has rows 0 to"):
                checkpoint.texts("t", *bad)


def test_many_texts(tmp_path):
    texts = [b"user:%d" % i + b"x" * (i % 300) for i in range(100_000)]
    with open_checkpoint(write_bundle(tmp_path / "p", {"t": texts})) as checkpoint:
        assert checkpoint.texts("t", 65_530, 65_540).to_pylist() == texts[65_530:65_540]
        assert checkpoint.texts("t", 0, 100_000).to_pylist() == texts
        assert b"".join(block.tobytes() for block in checkpoint.blocks("t")) == framed(texts)


def test_no_texts(tmp_path):
    index = write_bundle(tmp_path / "p", {"t": [], "none": Stored(np.zeros(0, np.uint8), dtype=7, shape=(0,), bare=True)})
    with open_checkpoint(index) as checkpoint:
        for name in ("t", "none"):
            assert checkpoint.texts(name, 0, 0).to_pylist() == []
            assert list(checkpoint.blocks(name)) == []


def test_texts_in_other_numbers_of_dimensions_have_blocks(tmp_path):
    tensors = {"graph": Stored([b"graph"], shape=()), "grid": Stored([b"a", b"", b"bc", b"d"], shape=(2, 2))}
    with open_checkpoint(write_bundle(tmp_path / "p", tensors)) as checkpoint:
        assert b"".join(block.tobytes() for block in checkpoint.blocks("graph")) == framed([b"graph"])
        assert b"".join(block.tobytes() for block in checkpoint.blocks("grid")) == framed([b"a", b"", b"bc", b"d"])
        for name in tensors:
            with pytest.raises(InvalidInput, match="no list of texts"):
                checkpoint.texts(name, 0, 1)


class TestChecksums:
    @pytest.fixture
    def broken(self, tmp_path):
        index = write_bundle(tmp_path / "p", {"t": [b"abc", b"", b"de"]})
        path = tmp_path / "p.data-00000-of-00001"
        path.write_bytes(path.read_bytes()[:-1] + b"E")
        with open_checkpoint(index) as checkpoint:
            yield checkpoint

    def test_of_all_texts(self, broken):
        with pytest.raises(Corrupt, match="tensor t differs from its checksum"):
            broken.texts("t", 0, 3)

    def test_of_ascending_ranges(self, broken):
        assert broken.texts("t", 0, 2).to_pylist() == [b"abc", b""]
        with pytest.raises(Corrupt, match="tensor t differs from its checksum"):
            broken.texts("t", 2, 3)

    def test_of_blocks(self, broken):
        with pytest.raises(Corrupt, match="tensor t differs from its checksum"):
            list(broken.blocks("t", limit_bytes=12))

    def test_of_empty_texts(self, tmp_path):
        with (
            open_checkpoint(write_bundle(tmp_path / "p", {"t": Stored([b"", b""], checksum=1)})) as checkpoint,
            pytest.raises(Corrupt, match="tensor t differs from its checksum"),
        ):
            checkpoint.texts("t", 0, 2)

    def test_of_lengths_beyond_32_bits(self, tmp_path):
        """A sparse file: 4 GiB of zeros as one text."""
        length = 1 << 32
        stored = struct.pack("<I", mask(crc32c(struct.pack("<Q", length))))
        path = tmp_path / "p.data-00000-of-00001"
        with path.open("wb") as file:
            file.write(varint(length) + stored)
            file.truncate(5 + 4 + length)
        size = 5 + 4 + length
        value = number(1, 7) + shape_proto((1,)) + number(5, size)
        (tmp_path / "p.index").write_bytes(table([(b"", header(1)), (b"t", value)]))
        with open_checkpoint(tmp_path / "p.index") as checkpoint:
            blocks = checkpoint.blocks("t")
            assert next(blocks).tobytes() == struct.pack("<Q", length)
            assert next(blocks).tobytes() == bytes(1 << 20)


def sealed(lengths, texts):
    """A tensor of texts whose lengths are as they are given, with their right checksum."""
    return b"".join(map(varint, lengths)) + struct.pack("<I", mask(crc32c(struct.pack(f"<{len(lengths)}I", *lengths)))) + texts


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (sealed([1, 2, 3], b"abcde"), "texts of 6 bytes do not fill the 12 bytes"),
        (sealed([1, 2, 1], b"abcde"), "texts of 4 bytes do not fill the 12 bytes"),
        (sealed([1, 2, 13], b"abcde"), "a text of 13 bytes in 12"),
        (b"\xff" * 9 + b"\1" + bytes(10), "a text of 18446744073709551615 bytes in 20"),
        (b"\xff" * 20, "3 texts, the lengths of 0 are there"),
        (b"\1\1" + b"\xff" * 20, "3 texts, the lengths of 2 are there"),
        (b"\xff" * 11 + b"\1" * 20, "beyond 64 bits"),
        (b"\1\2\2" + bytes(4) + b"abcde", "its lengths differ from their checksum"),
    ],
)
def test_lengths_that_lie(tmp_path, data, match):
    (tmp_path / "p.data-00000-of-00001").write_bytes(data)
    value = number(1, 7) + message(2, message(2, number(1, 3))) + number(5, len(data))
    (tmp_path / "p.index").write_bytes(table([(b"", header(1)), (b"t", value)]))
    with open_checkpoint(tmp_path / "p.index") as checkpoint:
        with pytest.raises(Corrupt, match=match):
            checkpoint.texts("t", 0, 3)
        with pytest.raises(Corrupt, match=match):
            list(checkpoint.blocks("t"))


def test_lengths_that_change_after_they_were_read(tmp_path):
    path = tmp_path / "p.data-00000-of-00001"
    with open_checkpoint(write_bundle(tmp_path / "p", {"t": [b"ab", b"c"]})) as checkpoint:
        assert checkpoint.texts("t", 0, 1).to_pylist() == [b"ab"]
        with path.open("r+b") as file:
            file.write(b"\2\2")
        with pytest.raises(Corrupt, match="have changed since they were read"):
            checkpoint.texts("t", 0, 2)
