"""Tensors in pieces: any grid of chunks reads as the whole would, and what does not tile it is refused before it is read."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.pipeline.core.errors import Corrupt, InvalidInput
from penstock.slicer.readers.checkpoint import TensorInfo
from penstock.slicer.readers.tensors.held import HeldTensor
from penstock.slicer.readers.tensors.joined import MAX_PIECES, Piece, concatenated, tiled


def info_of(values, name="t"):
    return TensorInfo(name=name, shape=values.shape, dtype=values.dtype.name, role="embedding", nbytes=values.nbytes)


def held(values, name="part"):
    return HeldTensor(info_of(values, name), values)


def piece(values, *offsets):
    return Piece(offsets, held(values))


def hollow(sizes, *offsets):
    """A piece whose elements are never read."""
    return Piece(offsets, HeldTensor(TensorInfo(name="p", shape=sizes, dtype="float32", role="dense", nbytes=0), np.empty(0)))


def whole_of(*shape):
    return TensorInfo(name="t", shape=shape, dtype="float32", role="dense", nbytes=0)


@st.composite
def gridded(draw):
    """A tensor and pieces that tile it: cut along a dimension, each part cut on by itself."""
    shape = tuple(draw(st.lists(st.integers(0, 7), max_size=3)))
    dtype = draw(st.sampled_from(["<f4", "<i8", "<u2", "?"]))
    values = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    parts = [(tuple(0 for _ in shape), values)]
    for _ in range(draw(st.integers(0, 6)) if shape else 0):
        at = draw(st.integers(0, len(parts) - 1))
        axis = draw(st.integers(0, len(shape) - 1))
        offsets, part = parts.pop(at)
        cut = draw(st.integers(0, part.shape[axis]))
        left, right = np.split(part, [cut], axis)
        moved = (*offsets[:axis], offsets[axis] + cut, *offsets[axis + 1 :])
        parts += [(offsets, left), (moved, right)]
    twice = draw(st.lists(st.sampled_from(parts), max_size=2))
    return values, draw(st.permutations([piece(part.copy(), *at) for at, part in parts + twice]))


@settings(deadline=None)
@given(case=gridded(), data=st.data())
def test_any_tiling_reads_as_the_whole(case, data):
    values, pieces = case
    joined = tiled(info_of(values), pieces, "here")
    assert joined.read().tobytes() == values.tobytes()
    assert joined.read().shape == values.shape
    limit = data.draw(st.integers(1, 64))
    blocks = [block.copy() for block in joined.blocks(limit)]
    assert b"".join(block.tobytes() for block in blocks) == values.tobytes()
    assert all(block.ndim == 1 and block.nbytes <= max(limit, values.itemsize) for block in blocks)
    if values.ndim:
        start = data.draw(st.integers(0, len(values)))
        stop = data.draw(st.integers(start, len(values)))
        found = joined.rows(start, stop)
        assert found.dtype == values.dtype
        assert np.array_equal(found, values[start:stop])
        buffer = np.full((stop - start, *values.shape[1:]), 7, values.dtype)
        joined.read_into(start, buffer)
        assert np.array_equal(buffer, values[start:stop])
        if values.dtype != np.int64:
            wide = np.empty(buffer.shape, np.float32 if values.dtype == np.float32 else np.int64)
            joined.read_into(start, wide)
            assert np.array_equal(wide, buffer)


@settings(deadline=None)
@given(case=gridded(), data=st.data())
def test_without_one_of_its_pieces_it_is_refused(case, data):
    values, pieces = case
    solid = {each.offsets: each for each in pieces if each.source.info.nbytes}
    if not solid:
        return
    gone = data.draw(st.sampled_from(sorted(solid)))
    with pytest.raises(Corrupt, match="a piece is missing"):
        tiled(info_of(values), [each for at, each in solid.items() if at != gone], "here")


def test_rows_within_one_piece_are_its_own_view_and_others_a_copy():
    values = np.arange(24, dtype=np.float32).reshape(6, 4)
    joined = tiled(info_of(values), [piece(values[:4], 0, 0), piece(values[4:], 4, 0)], "here")
    assert np.shares_memory(joined.rows(1, 4), values)
    assert np.shares_memory(joined.rows(4, 6), values)
    across = joined.rows(3, 5)
    assert not np.shares_memory(across, values)
    assert np.array_equal(across, values[3:5])
    columns = tiled(info_of(values), [piece(values[:, :3].copy(), 0, 0), piece(values[:, 3:].copy(), 0, 3)], "here")
    assert np.array_equal(columns.rows(2, 3), values[2:3])


def test_narrow_pieces_larger_than_the_scratch():
    values = np.arange(3 << 20, dtype=np.float32).reshape(-1, 8)
    pieces = [piece(values[:, at : at + 4].copy(), 0, at) for at in (0, 4)]
    joined = tiled(info_of(values), pieces, "here")
    assert np.array_equal(joined.read(), values)
    assert np.array_equal(joined.rows(100_000, 300_001), values[100_000:300_001])


def test_bfloat16_is_widened_across_pieces():
    bits = np.array([[0x3F80, 0x4000], [0xBF80, 0x0000], [0x4040, 0x7F80]], np.uint16)
    info = TensorInfo(name="t", shape=(3, 2), dtype="bfloat16", role="dense", nbytes=12)
    for cuts in (
        [(slice(0, 2), slice(None)), (slice(2, 3), slice(None))],
        [(slice(None), slice(0, 1)), (slice(None), slice(1, 2))],
    ):
        pieces = []
        for rows, columns in cuts:
            part = np.ascontiguousarray(bits[rows, columns])
            inner = TensorInfo(name="p", shape=part.shape, dtype="bfloat16", role="dense", nbytes=part.nbytes)
            pieces.append(Piece((rows.start or 0, columns.start or 0), HeldTensor(inner, part)))
        out = np.empty((3, 2), np.float32)
        tiled(info, pieces, "here").read_into(0, out)
        assert out.tolist() == [[1, 2], [-1, 0], [3, np.inf]]


@pytest.mark.parametrize(
    ("pieces", "match"),
    [
        (
            [hollow((2, 4), 0, 0), hollow((3, 4), 1, 0)],
            r"the pieces at [0, 0] of shape [2, 4] and at [1, 0] of shape [3, 4] overlap",
        ),
        ([hollow((4, 2), 0, 0), hollow((4, 3), 0, 1)], "overlap"),
        ([hollow((4, 4), 0, 0), hollow((1, 1), 3, 3)], "overlap"),
        ([hollow((4, 3), 0, 0), hollow((2, 1), 2, 3)], "2 pieces hold 14 of its 16 elements: a piece is missing"),
        ([], "0 pieces hold 0 of its 16 elements"),
        ([hollow((5, 4), 0, 0)], "the piece at [0, 0] of shape [5, 4] leaves the tensor of shape [4, 4]"),
        ([hollow((4, 4), 0, 1)], "leaves the tensor"),
        ([hollow((4, 4), -1, 0)], "leaves the tensor"),
        ([hollow((16,), 0)], "leaves the tensor"),
        ([hollow((4, 4), 0)], "leaves the tensor"),
        ([hollow((2**62, 4), 2**62, 0)], "leaves the tensor"),
        ([piece(np.zeros((4, 4), np.int32), 0, 0)], "is int32, the tensor float32"),
    ],
)
def test_what_does_not_tile_is_refused(pieces, match):
    with pytest.raises(Corrupt, match=re.escape(match)) as error:
        tiled(whole_of(4, 4), pieces, "folder")
    assert str(error.value).startswith("folder: tensor t: ")


def test_more_pieces_than_any_trainer_saves():
    with pytest.raises(Corrupt, match=f"more than {MAX_PIECES} pieces"):
        tiled(whole_of(2**40), (hollow((1,), i) for i in range(2**40)), "here")


def test_a_scalar_and_an_empty_tensor():
    scalar = tiled(info_of(np.float32(3)), [Piece((), held(np.array(3, np.float32)))], "here")
    assert scalar.read() == 3
    assert [block.tolist() for block in scalar.blocks(64)] == [[3]]
    with pytest.raises(InvalidInput, match="is a scalar"):
        scalar.rows(0, 1)
    empty = tiled(whole_of(0, 4), [hollow((0, 4), 0, 0)], "here")
    assert empty.read().shape == empty.rows(0, 0).shape == (0, 4)
    assert list(empty.blocks(64)) == []


def test_ranges_and_buffers_are_checked():
    values = np.zeros((4, 2), np.float32)
    joined = tiled(info_of(values), [piece(values[:3], 0, 0), piece(values[3:], 3, 0)], "here")
    for start, stop in ((-1, 2), (3, 2), (0, 5)):
        with pytest.raises(InvalidInput, match="has rows 0 to 4"):
            joined.rows(start, stop)
    with pytest.raises(InvalidInput, match="no C-order"):
        joined.read_into(0, np.empty((4, 3), np.float32))
    with pytest.raises(InvalidInput, match="rows 0 to 4, not 2 to 6"):
        joined.read_into(2, np.empty((4, 2), np.float32))


@settings(deadline=None)
@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=5), row=st.lists(st.integers(1, 3), max_size=2))
def test_parts_of_a_dump_are_joined_in_order(counts, row):
    parts = [np.random.default_rng(i).integers(0, 99, (count, *row)) for i, count in enumerate(counts)]
    joined = concatenated("table/keys", [held(part) for part in parts], "here", role="other")
    assert (joined.info.name, joined.info.role, joined.info.dtype) == ("table/keys", "other", "int64")
    assert np.array_equal(joined.read(), np.concatenate(parts))
    assert joined.info.nbytes == sum(part.nbytes for part in parts)


def test_parts_that_differ_are_refused():
    first = held(np.zeros((2, 4), np.float32))
    for other in (np.zeros((2, 5), np.float32), np.zeros((2, 4), np.float64), np.zeros(2, np.float32), np.float32(0)):
        with pytest.raises(Corrupt, match=r"here: part 1 of tensor rows, other, is .*, not float32\[…, 4\]"):
            concatenated("rows", [first, held(np.asarray(other), "other")], "here")
    huge = hollow((2**62, 1)).source
    with pytest.raises(Corrupt, match="overflows 64 bits|is no size"):
        concatenated("rows", [huge, huge], "here")
