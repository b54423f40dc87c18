"""Codecs against FBGEMM's bytes, against numpy, and against what they must refuse."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from penstock.pipeline.core.codecs import CODECS, codec, first_not_finite
from penstock.pipeline.core.errors import Corrupt, InvalidInput, Refused, Unsupported

REFERENCE = Path(__file__).parents[1] / "data" / "codecs"
WIDTHS = {"float32": 4 * 16, "float16": 2 * 16, "int8": 16 + 8}
FINITE = arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 40)),
    elements=st.floats(-60000, 60000, width=32, allow_subnormal=True),
)


@pytest.fixture(scope="module")
def rows():
    return np.load(REFERENCE / "rows.f32.npy")


def test_int8_is_fbgemm_byte_for_byte(rows):
    encoded = codec("int8").encode(rows)
    assert np.array_equal(encoded, np.load(REFERENCE / "int8_rowwise.f32_scale_bias.npy"))
    assert codec("int8").decode(encoded, 16).tobytes() == np.load(REFERENCE / "int8_dequantized.f32.npy").tobytes()


def test_float16_is_torchs_cast(rows):
    assert codec("float16").encode(rows).tobytes() == np.load(REFERENCE / "rows.f16.npy").tobytes()


def test_every_half_decodes_and_encodes_as_in_numpy():
    halves = np.arange(65536, dtype=np.uint16)
    finite = halves[np.isfinite(halves.view(np.float16))].reshape(-1, 2)
    values = codec("float16").decode(finite.view(np.uint8), 2)
    assert np.array_equal(values, finite.view(np.float16).astype(np.float32))
    assert np.array_equal(codec("float16").encode(values), finite.view(np.uint8))


@settings(deadline=None)
@given(arrays(np.uint32, st.tuples(st.integers(1, 5), st.integers(1, 8))))
def test_any_bits_become_the_half_that_numpy_makes_or_are_refused(bits):
    values = bits.view(np.float32)
    with np.errstate(all="ignore"):
        expected = values.astype(np.float16)
    if np.isfinite(expected).all():
        assert np.array_equal(codec("float16").encode(values), expected.view(np.uint8))
    else:
        with pytest.raises(Refused, match=f"row {np.argmin(np.isfinite(expected).all(axis=1))}:"):
            codec("float16").encode(values)


@settings(deadline=None)
@given(FINITE)
def test_int8_is_the_reference_formula(values):
    least, most = (np.array([pick(map(float, row)) for row in values], np.float32)[:, None] for pick in (min, max))
    spread = most - least
    inverse = np.float32(255) / (spread + np.float32(1e-8))
    line = np.hstack([spread / np.float32(255), least])
    encoded = codec("int8").encode(values)
    assert np.array_equal(encoded[:, : values.shape[1]], np.rint((values - least) * inverse).astype(np.uint8))
    assert encoded[:, values.shape[1] :].tobytes() == line.tobytes()


@settings(deadline=None)
@given(FINITE)
def test_int8_is_off_by_at_most_half_a_step(values):
    decoded = codec("int8").decode(codec("int8").encode(values), values.shape[1])
    step = (values.max(axis=1, keepdims=True).astype(float) - values.min(axis=1, keepdims=True)) / 255
    # The epsilon of the format moves values of a row that is nearly constant by up to itself.
    assert (np.abs(decoded.astype(float) - values) <= 0.501 * step + 1e-7 * np.abs(values).max() + 1e-8).all()


@settings(deadline=None)
@given(FINITE)
def test_float32_is_the_values_and_copies_nothing(values):
    encoded = codec("float32").encode(values)
    assert encoded.tobytes() == values.tobytes()
    assert np.shares_memory(encoded, values)
    assert np.shares_memory(codec("float32").decode(encoded, values.shape[1]), values)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 15, 16 * 3000 + 7])
def test_nan_and_infinity_are_refused_by_row(name, bad, at):
    rows = np.ones((4000, 16), np.float32)
    rows.flat[at] = bad
    rows[3999] = np.nan
    with pytest.raises(Refused, match=f"^row {at // 16}: holds a NaN or an infinity"):
        codec(name).encode(rows)
    with pytest.raises(Refused, match=f"^key {100 + at // 16}: "):
        codec(name).encode(rows, row_name=lambda row: f"key {100 + row}")
    assert first_not_finite(rows) == at // 16


@pytest.mark.parametrize(("name", "row"), [("float16", [1.0, 65520.0]), ("int8", [3e38, -3e38])])
def test_finite_rows_that_do_not_fit_are_refused(name, row):
    with pytest.raises(Refused, match=f"row 1: .* overflow {name}"):
        codec(name).encode(np.array([[0.0, 0.0], row], np.float32))
    assert codec("float16").encode(np.array([[65519.0]], np.float32)).view(np.float16) == 65504


@pytest.mark.parametrize("name", CODECS)
def test_widths_shapes_and_layouts(name, rows):
    it = codec(name)
    assert it.name == name
    assert it.width(16) == WIDTHS[name]
    assert it.encode(rows[:0]).shape == (0, WIDTHS[name])
    assert it.decode(it.encode(rows[:0]), 16).shape == (0, 16)
    wide = np.ones((len(rows), 40), np.float32)
    wide[:, 3:19] = rows
    assert np.array_equal(it.encode(wide[:, 3:19]), it.encode(rows))
    padded = np.zeros((len(rows), WIDTHS[name] + 3), np.uint8)
    padded[:, 1 : 1 + WIDTHS[name]] = it.encode(rows)
    assert np.array_equal(it.decode(padded[:, 1 : 1 + WIDTHS[name]], 16), it.decode(it.encode(rows), 16))
    with pytest.raises(Corrupt, match=rf"not uint8\[n, {WIDTHS[name]}\]"):
        it.decode(padded, 16)
    for wrong in (rows.astype(np.float64), rows[0], np.empty((3, 0), np.float32)):
        with pytest.raises(InvalidInput):
            it.encode(wrong)


def test_an_unknown_codec_is_unsupported_and_lists_those_there_are():
    with pytest.raises(Unsupported, match=r"'int5'.*float32, float16, int8"):
        codec("int5")
