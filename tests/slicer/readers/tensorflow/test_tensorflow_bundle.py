"""TensorFlow bundles: dtypes, shards, byte orders, partitioned variables, hash tables."""

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from tensorflow_files import (
    DTYPES,
    Partitioned,
    Stored,
    slice_key,
    write_bundle,
)

from penstock.pipeline.core.errors import Corrupt, InvalidInput, Refused, Unsupported
from penstock.slicer.readers import open_checkpoint
from penstock.slicer.readers.tensorflow.tensorflow_bundle import step_of
from penstock.slicer.readers.tensorflow.tensorflow_index import FULL
from penstock.slicer.readers.tensorflow.tensorflow_index import slice_key as key_of_slice

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
VALUES = st.sampled_from(list(DTYPES)).flatmap(lambda dtype: arrays(dtype, array_shapes(min_dims=0, min_side=0, max_dims=3)))
TEXTS = st.lists(st.binary(max_size=20), max_size=8)
ROWS = np.arange(48, dtype=np.float32).reshape(12, 4)


def read_all(checkpoint):
    return {info.name: b"".join(block.tobytes() for block in checkpoint.blocks(info.name)) for info in checkpoint.tensors}


@settings(max_examples=80, deadline=None)
@given(
    tensors=st.dictionaries(NAMES, VALUES | TEXTS, max_size=6),
    shards=st.integers(1, 4),
    order=st.sampled_from("<>"),
    snappy=st.booleans(),
    per_block=st.integers(1, 5),
    align=st.sampled_from([1, 64]),
)
def test_whatever_is_written(tmp_path_factory, tensors, shards, order, snappy, per_block, align):
    prefix = tmp_path_factory.mktemp("any") / "model.ckpt-7"
    options = {"shards": shards, "order": order, "snappy": snappy, "per_block": per_block, "align": align}
    index = write_bundle(prefix, tensors, **options)
    with open_checkpoint(index) as checkpoint:
        assert (checkpoint.format, checkpoint.partial) == ("tensorflow", False)
        assert [info.name for info in checkpoint.tensors] == sorted(tensors, key=str.encode)
        for name, value in tensors.items():
            if isinstance(value, list):
                assert checkpoint.texts(name, 0, len(value)).to_pylist() == value
                continue
            found = checkpoint.read(name)
            assert (found.dtype, found.shape, found.tobytes()) == (value.dtype, value.shape, value.tobytes())
            assert b"".join(block.tobytes() for block in checkpoint.blocks(name, limit_bytes=16)) == value.tobytes()
            if value.ndim:
                middle = len(value) // 2
                assert checkpoint.rows(name, middle, len(value)).tobytes() == value[middle:].tobytes()


@st.composite
def partitioned(draw):
    """Values, and a grid that cuts each dimension at some places."""
    shape = draw(array_shapes(min_dims=1, max_dims=3, max_side=7))
    values = np.arange(prod(shape), dtype=draw(st.sampled_from(["float32", "int64", "uint8"]))).reshape(shape)
    parts = [()]
    for size in shape:
        cuts = sorted(draw(st.sets(st.integers(1, size - 1), max_size=3))) if size > 1 else []
        bounds = list(zip([0, *cuts], [*cuts, size], strict=True))
        whole = len(bounds) == 1 and draw(st.booleans())
        extents = [(0, None)] if whole else [(start, stop - start) for start, stop in bounds]
        parts = [(*part, extent) for part in parts for extent in extents]
    return Partitioned(values, draw(st.permutations(parts)))


@settings(max_examples=60, deadline=None)
@given(tensor=partitioned(), shards=st.integers(1, 3), data=st.data())
def test_partitioned_variables_are_joined(tmp_path_factory, tensor, shards, data):
    if tensor.slices == [((0, None),) * tensor.values.ndim]:
        tensor = Stored(tensor.values)
    index = write_bundle(tmp_path_factory.mktemp("any") / "p", {"v": tensor, "w": ROWS}, shards=shards)
    with open_checkpoint(index) as checkpoint:
        values = tensor.values
        assert checkpoint.info("v").shape == values.shape
        assert checkpoint.read("v").tobytes() == values.tobytes()
        start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(values))] * 2)))
        out = np.empty((stop - start, *values.shape[1:]), values.dtype)
        checkpoint.read_rows_into("v", start, out)
        assert out.tobytes() == checkpoint.rows("v", start, stop).tobytes() == values[start:stop].tobytes()
        assert read_all(checkpoint) == {"v": values.tobytes(), "w": ROWS.tobytes()}


@given(numbers=st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1) | st.none()), max_size=4))
def test_keys_of_slices(numbers):
    part = tuple((start, FULL if length is None else length) for start, length in numbers)
    if part:
        assert key_of_slice("näme", part) == slice_key("näme", tuple(numbers))


def test_keys_of_slices_as_the_sources_show_them():
    assert key_of_slice("foo", ((0, FULL), (0x424242, 1))) == b"\0foo\0\1\1\2\x80\x7f" + bytes.fromhex("f0424242") + b"\x81"


def test_rows_of_one_shard_are_views_of_the_file(tmp_path):
    with open_checkpoint(write_bundle(tmp_path / "p", {"v": ROWS}, align=64)) as checkpoint:
        rows = checkpoint.rows("v", 2, 5)
        assert not rows.flags.owndata
        assert not rows.flags.writeable


def test_floats_that_numpy_lacks_and_quantised_integers(tmp_path):
    bits = np.array([0x3F80, 0x4000, 0xBF80, 0], np.uint16)
    tensors = {
        "bf": Stored(bits, dtype=14),
        "f8": Stored(np.array([1, 2], np.uint8), dtype=25),
        "q": Stored(bits.view(np.int16), dtype=15),
    }
    with open_checkpoint(write_bundle(tmp_path / "p", tensors)) as checkpoint:
        assert [(each.name, each.dtype) for each in checkpoint.tensors] == [
            ("bf", "bfloat16"),
            ("f8", "float8_e4m3fn"),
            ("q", "int16"),
        ]
        out = np.empty(4, np.float32)
        checkpoint.read_rows_into("bf", 0, out)
        assert out.tolist() == [1, 2, -1, 0]


@pytest.mark.parametrize(("dtype", "word"), [(21, "variant"), (20, "resource"), (29, "int4"), (99, "type 99"), (120, "type 120")])
def test_tensors_of_other_types_are_listed_and_the_rest_is_read(tmp_path, dtype, word):
    with open_checkpoint(
        write_bundle(tmp_path / "p", {"odd": Stored(np.zeros(3, np.uint8), dtype=dtype), "v": ROWS})
    ) as checkpoint:
        assert (checkpoint.info("odd").dtype, checkpoint.info("odd").role) == (word, "other")
        assert checkpoint.read("v").tobytes() == ROWS.tobytes()
        for read in (
            lambda: checkpoint.read("odd"),
            lambda: checkpoint.rows("odd", 0, 1),
            lambda: checkpoint.blocks("odd"),
            lambda: checkpoint.read_rows_into("odd", 0, np.empty(1, np.uint8)),
        ):
            with pytest.raises(Unsupported, match=f"tensor odd of .* is {word}"):
                read()


def test_roles_and_the_step(tmp_path):
    tall = np.zeros((1000, 4), np.float32)
    keys = np.arange(1000)
    tensors = {
        "global_step": np.array(70),
        "ev-keys": keys, "ev-values": tall[:, :1].copy(), "ev-freqs": keys, "ev-versions": keys,
        "ev/Adagrad-keys": keys, "ev/Adagrad-values": tall,
        "beta1_power": np.array(0.9, np.float32), "dense/kernel": np.zeros((4, 4), np.float32),
        "dense/kernel/Adam": np.zeros((4, 4), np.float32), "dense/kernel/Adam_1": np.zeros((4, 4), np.float32),
        "dense/kernel/Ftrl_1": np.zeros((4, 4), np.float32), "dense/kernel/Momentum": np.zeros((4, 4), np.float32),
        "a/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE": tall,
        "save_counter/.ATTRIBUTES/VARIABLE_VALUE": np.array(3),
        "keras_api/metrics/0/total/.ATTRIBUTES/VARIABLE_VALUE": np.array(1, np.float32),
        "_CHECKPOINTABLE_OBJECT_GRAPH": Stored([b"graph"], shape=()),
    }  # fmt: skip
    with open_checkpoint(write_bundle(tmp_path / "p", tensors)) as checkpoint:
        found = {}
        for info in checkpoint.tensors:
            found.setdefault(info.role, set()).add(info.name.partition("/.ATTRIBUTES")[0])
        assert step_of(checkpoint) == 70
        assert found == {
            "other": {
                "global_step", "ev-keys", "ev-freqs", "ev-versions", "save_counter", "keras_api/metrics/0/total",
                "_CHECKPOINTABLE_OBJECT_GRAPH",
            },
            "dense": {"dense/kernel"},
            "embedding": {"ev-values"},
            "optimizer": {
                "beta1_power", "dense/kernel/Adam", "dense/kernel/Adam_1", "dense/kernel/Ftrl_1", "dense/kernel/Momentum",
                "a/.OPTIMIZER_SLOT/optimizer/m", "ev/Adagrad-values",
            } | {"ev/Adagrad-keys"},
        }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "step"),
    [
        (["save_counter/.ATTRIBUTES/VARIABLE_VALUE"], 0),
        (["save_counter/.ATTRIBUTES/VARIABLE_VALUE", "optimizer/iter/.ATTRIBUTES/VARIABLE_VALUE"], 0),
        (["optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE", "save_counter/.ATTRIBUTES/VARIABLE_VALUE"], 0),
        (["scope/global_step", "optimizer/iterations"], None),
        ([], None),
    ],
)
def test_the_step_by_its_names(tmp_path, names, step):
    tensors = {name: np.array(index if "save" not in name or len(names) == 1 else 99) for index, name in enumerate(sorted(names))}
    with open_checkpoint(write_bundle(tmp_path / "p", tensors)) as checkpoint:
        assert step_of(checkpoint) == step


def test_an_incremental_checkpoint_is_partial(tmp_path):
    keys = np.array([5, -7, 2**62])
    tensors = {
        "ev/part_0-sparse_incr_keys": keys, "ev/part_0-sparse_incr_values": ROWS[:3], "ev/part_0-sparse_incr_versions": keys,
        "ev/part_0-sparse_incr_freqs": keys, "ev/part_0-incr_partition_offset": np.zeros(1001, np.int32),
        "ev/part_0/Adagrad-sparse_incr_keys": keys, "ev/part_0/Adagrad-sparse_incr_values": ROWS[:3],
        "dense": ROWS, "global_step": np.array(12),
    }  # fmt: skip
    with open_checkpoint(write_bundle(tmp_path / "p", tensors)) as checkpoint:
        assert checkpoint.partial
        assert checkpoint.read("ev/part_0/keys").tolist() == keys.tolist()
        assert checkpoint.read("ev/part_0/rows").tobytes() == ROWS[:3].tobytes()
        assert checkpoint.read("ev/part_0/Adagrad/rows").tobytes() == ROWS[:3].tobytes()
        roles = {info.name: info.role for info in checkpoint.tensors}
        assert roles["ev/part_0/rows"] == "embedding"
        assert roles["ev/part_0/Adagrad/rows"] == "optimizer"
        assert roles["dense"] == "dense"
        assert {roles[f"ev/part_0/{name}"] for name in ("keys", "versions", "freqs")} == {"other"}


def test_two_tensors_that_come_to_one_name(tmp_path):
    index = write_bundle(tmp_path / "p", {"a-sparse_incr_keys": ROWS, "a/keys": ROWS})
    with pytest.raises(Refused, match="two tensors are called 'a/keys'"):
        open_checkpoint(index)


class TestChecksums:
    @pytest.fixture(params=["<", ">"])
    def broken(self, request, tmp_path):
        """One bit is not what was written."""
        index = write_bundle(tmp_path / "p", {"v": ROWS, "w": ROWS}, order=request.param)
        path = tmp_path / "p.data-00000-of-00001"
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)
        with open_checkpoint(index) as checkpoint:
            yield checkpoint

    def test_of_all_at_once(self, broken):
        with pytest.raises(Corrupt, match="tensor v differs from its checksum"):
            broken.read("v")
        assert broken.read("w").tobytes() == ROWS.tobytes()

    def test_of_blocks(self, broken):
        with pytest.raises(Corrupt, match="tensor v differs from its checksum"):
            list(broken.blocks("v", limit_bytes=64))

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_of_ascending_ranges(self, broken, dtype):
        out = np.empty((5, 4), dtype)
        broken.read_rows_into("v", 0, out)
        broken.read_rows_into("v", 5, out)
        with pytest.raises(Corrupt, match="tensor v differs from its checksum"):
            broken.read_rows_into("v", 10, out[:2])
        for start in (0, 5, 10):
            broken.read_rows_into("w", start, out[: 12 - start])

    def test_not_of_ranges_in_any_other_order(self, broken):
        out = np.empty((6, 4), np.float32)
        broken.read_rows_into("v", 6, out)
        broken.read_rows_into("v", 0, out)
        broken.rows("v", 0, 12)
        with pytest.raises(Corrupt, match="tensor v differs from its checksum"):
            broken.read_rows_into("v", 6, out)

    def test_of_slices(self, tmp_path):
        index = write_bundle(tmp_path / "p", {"v": Partitioned(ROWS, [((0, 6), (0, None)), ((6, 6), (0, None))])})
        path = tmp_path / "p.data-00000-of-00001"
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
        with open_checkpoint(index) as checkpoint:
            assert checkpoint.rows("v", 0, 6).tobytes() == ROWS[:6].tobytes()
            with pytest.raises(Corrupt, match=r"tensor v from \[6, 0\] differs from its checksum"):
                checkpoint.read("v")

    def test_that_were_never_written(self, tmp_path):
        with open_checkpoint(
            write_bundle(tmp_path / "p", {"v": Stored(ROWS, bare=True), "t": Stored([b"a"], bare=True)})
        ) as checkpoint:
            assert checkpoint.read("v").tobytes() == ROWS.tobytes()
            assert checkpoint.texts("t", 0, 1).to_pylist() == [b"a"]


def test_texts_are_no_numbers_and_numbers_no_texts(tmp_path):
    with open_checkpoint(write_bundle(tmp_path / "p", {"t": [b"a", b"b"], "v": ROWS})) as checkpoint:
        for read in (lambda: checkpoint.read("t"), lambda: checkpoint.rows("t", 0, 1), lambda: checkpoint.texts("v", 0, 1)):
            with pytest.raises(InvalidInput, match=r"tensor [tv] (holds texts|is float32)"):
                read()
