"""The dense slice: equal tensors are equal bytes, and safetensors reads them."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy
from msgspec.structs import replace

from penstock.pipeline.core.errors import Corrupt, NotFound, Refused, Unsupported
from penstock.pipeline.ports.store import Overwrite
from penstock.slicer.dense import dense_digest, read_dense, write_dense

TENSORS = {
    "mlp.0.weight": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "mlp.0.bias": np.float32(4).reshape(()),
    "steps": np.array([3, -4]),
    "mask": np.array([True, False, True]),
    "empty": np.zeros((0, 3), np.float16),
    "big": np.arange(3, dtype=">i4"),
    'quoted "é"': np.ones(2),
}


def test_tensors_come_back(store):
    info = write_dense(store, "m/data/u/dense.safetensors", TENSORS)
    for found in (read_dense(store, info), safetensors.numpy.load(store.get(info.path).data)):
        assert found.keys() == TENSORS.keys()
        for name, tensor in TENSORS.items():
            assert found[name].dtype == tensor.dtype.newbyteorder("=")
            assert np.array_equal(found[name], tensor)
    assert info.bytes == store.size(info.path)


def test_equal_tensors_are_equal_bytes(store):
    first = write_dense(store, "m/a", TENSORS)
    second = write_dense(store, "m/b", {name: np.array(TENSORS[name]) for name in reversed(TENSORS)})
    assert store.get("m/a").data == store.get("m/b").data
    assert first.digest == second.digest == dense_digest(TENSORS)
    assert dense_digest(TENSORS | {"steps": np.array([3, -5])}) != first.digest


def test_a_model_without_dense_tensors_has_an_empty_slice(store):
    assert read_dense(store, write_dense(store, "m/a", {})) == {}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_tensor_that_is_not_finite_is_refused(store, value):
    with pytest.raises(Refused, match=r"dense tensor w: holds a NaN"):
        write_dense(store, "m/a", {"v": np.ones(2), "w": np.array([1, value])})
    assert not list(store.list("m/"))


@pytest.mark.parametrize("tensor", [np.array([1j]), np.array(["x"]), np.array([None])])
def test_a_dtype_that_is_not_shared_is_refused(store, tensor):
    with pytest.raises(Unsupported, match="dense tensor w: dtype"):
        write_dense(store, "m/a", {"w": tensor})


def test_damage_is_found(store):
    info = write_dense(store, "m/a", TENSORS)
    data = bytearray(store.get("m/a").data)
    with pytest.raises(NotFound):
        read_dense(store, replace(info, path="m/b"))
    store.put("m/a", bytes(data[:-1]), Overwrite())
    with pytest.raises(Corrupt, match="m/a: .* bytes"):
        read_dense(store, info)
    for at in range(0, len(data), 41):
        flipped = bytearray(data)
        flipped[at] ^= 1
        store.put("m/a", bytes(flipped), Overwrite())
        with pytest.raises(Corrupt, match="m/a: digest"):
            read_dense(store, info)


def test_what_has_the_digest_and_is_no_safetensors_file_is_refused(store):
    import hashlib

    store.put("m/a", b"\x10" + b"\0" * 40, Overwrite())
    info = write_dense(store, "m/b", {})
    digest = hashlib.blake2b(store.get("m/a").data, digest_size=16).hexdigest()
    with pytest.raises(Corrupt, match="not a safetensors file"):
        read_dense(store, replace(info, path="m/a", bytes=41, digest=digest))
