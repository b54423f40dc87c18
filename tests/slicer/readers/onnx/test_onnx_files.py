"""ONNX models against the onnx package, which writes them here and reads what it wrote."""

import tracemalloc

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto, helper, numpy_helper
from onnx_wire import data, external, model, number, tensor, varint

from penstock.pipeline.core.errors import InvalidInput, Unsupported
from penstock.slicer.readers.formats import open_checkpoint

RNG = np.random.default_rng(3)
TABLE = RNG.standard_normal((5000, 16)).astype(np.float32)
INPUT = [helper.make_tensor_value_info("ids", TensorProto.INT64, [1])]
OUTPUT = [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [1, 16])]


def save(path, tensors, nodes=(), **options):
    graph = helper.make_graph(list(nodes), "graph", INPUT, OUTPUT, list(tensors))
    onnx.save_model(helper.make_model(graph), path, **options)


def check_against_onnx(checkpoint, tensors):
    """Every tensor in every way of reading, byte for byte."""
    assert [info.name for info in checkpoint.tensors] == [each.name for each in tensors]
    for each in tensors:
        wanted = numpy_helper.to_array(each)
        found = checkpoint.read(each.name)
        assert checkpoint.info(each.name).shape == found.shape == wanted.shape
        assert checkpoint.info(each.name).dtype == wanted.dtype.name
        assert found.tobytes() == wanted.tobytes()
        for limit in (7, 1000, 1 << 20):
            assert b"".join(block.tobytes() for block in checkpoint.blocks(each.name, limit_bytes=limit)) == wanted.tobytes()
        if wanted.ndim:
            for start in (len(wanted) // 2, 0):
                part = np.empty((len(wanted) - start, *wanted.shape[1:]), found.dtype)
                checkpoint.read_rows_into(each.name, start, part)
                assert part.tobytes() == wanted[start:].tobytes()
                assert checkpoint.rows(each.name, start, len(wanted)).tobytes() == wanted[start:].tobytes()


KINDS = {
    "FLOAT": [1.5, -2.25], "DOUBLE": [1.5, -2.25], "FLOAT16": [1.5, -2.25], "BFLOAT16": [1.5, -2.25], "FLOAT8E4M3FN": [1.5, -2.0],
    "FLOAT8E5M2": [1.5, -2.0], "FLOAT8E4M3FNUZ": [1.5, -2.0], "FLOAT8E5M2FNUZ": [1.5, -2.0], "COMPLEX64": [1 + 2j, -3j],
    "COMPLEX128": [1 + 2j, -3j], "INT8": [-128, 127], "INT16": [-(2**15), 2**15 - 1], "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1], "UINT8": [0, 255], "UINT16": [0, 2**16 - 1], "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1], "BOOL": [True, False],
}  # fmt: skip


def test_every_type_in_its_own_field_and_raw(tmp_path):
    typed = [helper.make_tensor(kind, getattr(TensorProto, kind), [2, 3], values * 3) for kind, values in KINDS.items()]
    raw = [numpy_helper.from_array(numpy_helper.to_array(each), f"raw {each.name}") for each in typed]
    save(tmp_path / "m.onnx", typed + raw)
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        assert checkpoint.format == "onnx"
        check_against_onnx(checkpoint, typed + raw)


def test_shapes_without_rows_and_without_dimensions(tmp_path):
    tensors = [
        helper.make_tensor("scalar", TensorProto.FLOAT, [], [3.5]),
        helper.make_tensor("number", TensorProto.INT64, [], [-7]),
        helper.make_tensor("none", TensorProto.FLOAT, [0, 4], []),
        helper.make_tensor("no keys", TensorProto.INT64, [0], []),
        numpy_helper.from_array(np.zeros((3, 0), np.float16), "no columns"),
    ]
    save(tmp_path / "m.onnx", tensors)
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        check_against_onnx(checkpoint, tensors)


@settings(deadline=None, max_examples=60)
@given(
    values=arrays(np.int64, array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=30)),
    start=st.floats(0, 1),
    size=st.floats(0, 1),
)
def test_any_integers_at_any_range(tmp_path_factory, values, start, size):
    path = tmp_path_factory.mktemp("ints") / "m.onnx"
    save(path, [helper.make_tensor("t", TensorProto.INT64, values.shape, values.reshape(-1).tolist())])
    begin = int(start * len(values))
    end = begin + int(size * (len(values) - begin))
    with open_checkpoint(path) as checkpoint:
        for first, last in ((begin, end), (0, begin), (begin, len(values))):
            assert np.array_equal(checkpoint.rows("t", first, last), values[first:last])


def test_long_lists_of_varints_take_little_memory(tmp_path):
    values = np.arange(-200_000, 200_000, dtype=np.int64) ** 3
    save(tmp_path / "m.onnx", [helper.make_tensor("t", TensorProto.INT64, [len(values)], values.tolist())])
    buffer = np.empty(3000, np.int64)
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        tracemalloc.start()
        for start in range(0, len(values) - 3000, 3000):
            checkpoint.read_rows_into("t", start, buffer)
            assert np.array_equal(buffer, values[start : start + 3000])
        assert sum(block.nbytes for block in checkpoint.blocks("t", limit_bytes=4096)) == values.nbytes
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 6 << 20


def test_what_a_node_gathers_from_is_an_embedding(tmp_path):
    tensors = [
        numpy_helper.from_array(TABLE[:20], "few"),
        numpy_helper.from_array(TABLE[:20], "weight"),
        numpy_helper.from_array(np.arange(20), "shape"),
        numpy_helper.from_array(TABLE[:20], "optimizer.exp_avg"),
    ]
    nodes = [
        helper.make_node("Gather", ["few", "ids"], ["rows"]),
        helper.make_node("Gather", ["shape", "weight"], ["x"]),
        helper.make_node("MatMul", ["weight", "few"], ["y"]),
    ]
    save(tmp_path / "m.onnx", tensors, nodes)
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        assert [info.role for info in checkpoint.tensors] == ["embedding", "dense", "other", "optimizer"]


@pytest.mark.parametrize("one_file", [True, False])
def test_external_data(tmp_path, one_file):
    tensors = [
        numpy_helper.from_array(TABLE, "table"), numpy_helper.from_array(TABLE[:3].astype(np.float16), "half"),
        helper.make_tensor("bias", TensorProto.FLOAT, [2], [1.0, 2.0]),
    ]  # fmt: skip
    path = tmp_path / "m.onnx"
    kept = [onnx.TensorProto.FromString(each.SerializeToString()) for each in tensors]
    save(path, tensors, save_as_external_data=True, all_tensors_to_one_file=one_file, location="m.data" if one_file else None,
         size_threshold=0)  # fmt: skip
    assert path.stat().st_size < TABLE.nbytes
    with open_checkpoint(path) as checkpoint:
        check_against_onnx(checkpoint, kept)


def test_external_data_without_a_length_is_the_rest_of_the_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"head" + TABLE[:2].tobytes())
    (tmp_path / "link.bin").symlink_to("sub/w.bin")
    tensors = [
        tensor(name, 1, (2, 16), external(location=location, offset=4))
        for name, location in (("a", "sub/w.bin"), ("b", "./sub/w.bin"), ("c", "link.bin"))
    ]
    (tmp_path / "m.onnx").write_bytes(model(*tensors))
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        for name in "abc":
            assert np.array_equal(checkpoint.read(name), TABLE[:2])


def test_strings(tmp_path):
    texts = [b"a", b"", "größer".encode(), b"x" * 500] * 50
    save(tmp_path / "m.onnx", [
        helper.make_tensor("names", TensorProto.STRING, [200], texts),
        helper.make_tensor("matrix", TensorProto.STRING, [2, 2], texts[:4]),
        helper.make_tensor("none", TensorProto.STRING, [0], []),
    ])  # fmt: skip
    framed = b"".join(len(text).to_bytes(8, "little") + text for text in texts)
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        assert (checkpoint.info("names").dtype, checkpoint.info("names").nbytes) == ("string", len(framed))
        assert checkpoint.texts("names", 0, 200).to_pylist() == texts
        assert checkpoint.texts("names", 2, 5).to_pylist() == texts[2:5]
        assert checkpoint.texts("none", 0, 0).to_pylist() == []
        for limit in (1, 100, 1 << 20):
            assert b"".join(block.tobytes() for block in checkpoint.blocks("names", limit_bytes=limit)) == framed
        with pytest.raises(InvalidInput, match="no list of texts"):
            checkpoint.texts("matrix", 0, 1)
        with pytest.raises(InvalidInput, match="names has elements|has rows 0 to 200|not 0 to 201"):
            checkpoint.texts("names", 0, 201)


def test_what_is_listed_and_not_read(tmp_path):
    values = numpy_helper.from_array(TABLE[0], "sparse")
    indices = numpy_helper.from_array(np.arange(16), "at")
    sparse = helper.make_sparse_tensor(values, indices, [100]).SerializeToString()
    unpacked = b"".join(varint(5 << 3) + varint(each) for each in (1, 2))
    (tmp_path / "m.onnx").write_bytes(
        model(
            tensor("whole", 1, (4,), data(9, bytes(16))),
            helper.make_tensor("int4", TensorProto.INT4, [3], [1, -2, 3]).SerializeToString(),
            tensor("newer", 99, (4,), data(9, bytes(16))),
            tensor("part", 1, (4,), data(3, number(1, 0) + number(2, 2)), data(9, bytes(8))),
            tensor("unpacked", 6, (2,), unpacked),
            graph=data(15, sparse),
        )
    )
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        assert checkpoint.read("whole").tolist() == [0] * 4
        for name, match in (
            ("int4", "elements of int4"), ("newer", "elements of type 99"), ("part", "stored in segments"),
            ("unpacked", "not packed"), ("sparse", "is sparse"),
        ):  # fmt: skip
            with pytest.raises(Unsupported, match=match):
                checkpoint.read(name)


def test_a_graph_in_two_fields_is_one(tmp_path):
    one, other = (tensor(name, 1, (1,), data(9, bytes(4))) for name in "ab")
    (tmp_path / "m.onnx").write_bytes(model(one) + data(7, data(5, other)))
    with open_checkpoint(tmp_path / "m.onnx") as checkpoint:
        assert [info.name for info in checkpoint.tensors] == ["a", "b"]
