"""Real checkpoints that may not be committed: read where PENSTOCK_TEST_SAMPLES names the folder that holds them."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from penstock.slicer.readers import open_checkpoint
from penstock.slicer.readers.tensorflow.tensorflow_bundle import step_of

FOLDER = os.environ.get("PENSTOCK_TEST_SAMPLES")
pytestmark = pytest.mark.skipif(not FOLDER, reason="PENSTOCK_TEST_SAMPLES names no folder of samples")


@pytest.fixture(scope="module")
def samples() -> Path:
    return Path(FOLDER or "")


class TestTensorflowBundles:
    """Versions of a SavedModel; the checksum of every tensor is verified as its blocks are read."""

    @pytest.mark.parametrize(("version", "step"), [("v1_20201201", 41180), ("v2_20201209a", 37015), ("v3_20201209b", 37015)])
    def test_a_saved_model(self, samples, version, step):
        path = samples / "checkpoints" / "tf_savedmodel_neuralcf_chain" / version
        with open_checkpoint(path) as checkpoint:
            tables = {info.name: info.shape for info in checkpoint.tensors if info.role == "embedding"}
            assert sorted(tables.values()) == [(1001, 10), (30001, 10)]
            assert step_of(checkpoint) == step
            for info in checkpoint.tensors:
                data = b"".join(block.tobytes() for block in checkpoint.blocks(info.name))
                if info.dtype != "string":
                    assert data == checkpoint.read(info.name).tobytes()
                    assert len(data) == info.nbytes


class TestTextTables:
    """Embeddings that Spark wrote as `key:value …` lines, and four versions of one table."""

    @pytest.mark.parametrize(
        ("name", "rows"),
        [
            ("sparrow_userEmb.csv", 29_776),
            ("sparrow_item2vecEmb.csv", 881),
            ("item2vec_chain/v1_20210317.csv", 881),
            ("item2vec_chain/v2_20210317b.csv", 881),
            ("item2vec_chain/v3_20210318.csv", 881),
            ("item2vec_chain/v4_20210319.csv", 881),
        ],
    )
    def test_every_key_and_value(self, samples, name, rows):
        path = samples / "tables" / name
        lines = [line.split(":") for line in path.read_text().splitlines()]
        expected = np.array([[np.float32(value) for value in values.split()] for _, values in lines], np.float32)
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.format == "text table"
            assert checkpoint.read("rows").tobytes() == expected.tobytes()
            assert checkpoint.info("rows").shape == (rows, 10)
            assert checkpoint.texts("keys", 0, rows).to_pylist() == [key.encode() for key, _ in lines]


class TestTorchRec:
    """A collection of embedding bags on two ranks: one table on one of them, one cut by rows; three versions."""

    TABLES = ("model.ebc.embedding_bags.t_user.weight", "model.ebc.embedding_bags.t_item.weight")

    def test_the_rows_that_differ_are_those_that_were_touched(self, samples):
        folder = samples / "checkpoints" / "torchrec_dcp_mlls"
        before: dict[str, np.ndarray] = {}
        for version in ("v1", "v2", "v3"):
            with open_checkpoint(folder / version) as checkpoint:
                assert checkpoint.format == "pytorch distributed"
                assert {info.name for info in checkpoint.tensors if info.role == "embedding"} == {*self.TABLES}
                optimizer = {info.name: info.shape for info in checkpoint.tensors if info.role == "optimizer"}
                assert sorted(optimizer.values()) == [(610,), (9724,)]
                now = {name: checkpoint.read(name).copy() for name in self.TABLES}
            for name, old in before.items():
                touched = np.load(folder / f"{version}.touched_{name.split('.')[3][2:]}_rows.npy")
                assert np.array_equal(np.flatnonzero((old != now[name]).any(1)), np.sort(touched))
            before = now

    @pytest.mark.parametrize("step", [1, 2, 3, 4])
    def test_every_step_of_the_retail_model(self, samples, step):
        folder = samples / "checkpoints" / "torch_dcp_dlrm_retail"
        expected = np.load(folder / f"step_000{step}.expected.npz")
        with open_checkpoint(folder / f"step_000{step}") as checkpoint:
            for name, wanted in expected.items():
                assert checkpoint.read(f"model.{name}").tobytes() == wanted.tobytes()


class TestKerasHdf5:
    """Two models of neural collaborative filtering, saved by Keras 1 in 2017."""

    @pytest.mark.parametrize(("name", "columns"), [("ml-1m_GMF_8_1501651698.h5", 8), ("ml-1m_MLP_64_32_16_8_1501652038.h5", 32)])
    def test_every_weight(self, samples, name, columns):
        path = samples / "checkpoints" / "keras_h5_ncf" / name
        with open_checkpoint(path) as checkpoint, h5py.File(path, locking=False) as file:
            tables = [info.shape for info in checkpoint.tensors if info.role == "embedding"]
            assert tables == [(3706, columns), (6040, columns)]
            for info in checkpoint.tensors:
                assert checkpoint.read(info.name).tobytes() == file[info.name][()].tobytes()
