"""Distributed checkpoints: those of a real trainer on two ranks, and any grid of chunks over any number of files."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_files import DistributedFolder
from torch_pickles import mapping, number, text, tuple_of

from penstock.pipeline.core.errors import InvalidInput, NotFound, Unsupported
from penstock.slicer.readers import open_checkpoint

REAL = Path(__file__).parents[3] / "data" / "torch_dcp_dlrm_retail"
TABLES = {f"model.embeddings.{table}.weight" for table in ("customer", "product", "country", "hour")}


@pytest.fixture(params=[2, 3])
def real(request):
    return REAL / f"step_000{request.param}", np.load(REAL / f"step_000{request.param}.expected.npz")


def test_every_tensor_is_what_torch_loads(real):
    path, expected = real
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "pytorch distributed"
        numbers = {"train_state.step", "train_state.trained_through"}
        assert {info.name for info in checkpoint.tensors} == {f"model.{name}" for name in expected} | numbers
        for name, wanted in expected.items():
            found, info = checkpoint.read(f"model.{name}"), checkpoint.info(f"model.{name}")
            assert (found.dtype, found.shape, found.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())
            assert (info.dtype, info.shape, info.nbytes) == (wanted.dtype.name, wanted.shape, wanted.nbytes)
            assert b"".join(block.tobytes() for block in checkpoint.blocks(info.name, limit_bytes=1000)) == wanted.tobytes()


def test_roles_and_plain_numbers(real):
    path, _ = real
    with open_checkpoint(path) as checkpoint:
        assert {info.name for info in checkpoint.tensors if info.role == "embedding"} == TABLES
        assert {info.name for info in checkpoint.tensors if info.role == "other"} == {
            "model.seen", "train_state.step", "train_state.trained_through",
        }  # fmt: skip
        assert checkpoint.read("train_state.step") == int(path.name[-1])
        assert checkpoint.read("train_state.trained_through") > 1.3e9


def test_rows_within_a_rank_are_mapped_and_across_ranks_joined(real):
    path, expected = real
    wanted = expected["embeddings.customer.weight"]
    with open_checkpoint(path) as checkpoint:
        name = "model.embeddings.customer.weight"
        for start, stop in ((0, 1487), (1487, 2974), (1480, 1495), (0, 2974), (7, 7)):
            assert np.array_equal(checkpoint.rows(name, start, stop), wanted[start:stop])
        buffer = np.empty((300, 16), np.float32)
        for start in range(0, 2974 - 300, 300):
            checkpoint.read_rows_into(name, start, buffer)
            assert np.array_equal(buffer, wanted[start : start + 300])
        with pytest.raises(InvalidInput, match="rows 0 to 2974"):
            checkpoint.rows(name, 2970, 2975)
        rows = checkpoint.rows(name, 0, 100)
    assert np.array_equal(rows, wanted[:100])


def test_the_folder_or_its_metadata_and_nothing_else_names_it(real, tmp_path):
    path, expected = real
    for place in (path, path / ".metadata"):
        with open_checkpoint(place) as checkpoint:
            assert np.array_equal(checkpoint.read("model.seen"), expected["seen"])
    with pytest.raises(Unsupported, match="what one rank saved") as error:
        open_checkpoint(path / "__0_0.distcp")
    assert str(path) in error.value.hint
    shutil.copytree(path, tmp_path / "moved")
    (tmp_path / "moved" / "penstock.json").write_text("{}")
    with open_checkpoint(tmp_path / "moved") as checkpoint:
        assert checkpoint.format == "pytorch distributed"


def boxes_of(draw, shape):
    """Cuts along every dimension, and so a grid of boxes; some are empty."""
    boxes = [((), ())]
    for whole in shape:
        cuts = [0, *sorted(draw(st.lists(st.integers(0, whole), max_size=2))), whole]
        spans = list(pairwise(cuts))
        boxes = [((*at, start), (*sizes, stop - start)) for at, sizes in boxes for start, stop in spans]
    return draw(st.permutations(boxes))


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_grid_of_chunks_over_any_ranks(tmp_path_factory, data):
    made = DistributedFolder(tmp_path_factory.mktemp("dcp"))
    tensors = {}
    for i in range(data.draw(st.integers(1, 3))):
        shape = tuple(data.draw(st.lists(st.integers(0, 6), max_size=3)))
        dtype = data.draw(st.sampled_from(["float32", "int64", "float16", "bool"]))
        tensors[f"model.t{i}"] = values = np.random.default_rng(i).integers(0, 2, shape).astype(dtype)
        made.chunks(f"model.t{i}", values, boxes_of(data.draw, shape), ranks=data.draw(st.integers(1, 4)))
    with open_checkpoint(made.write()) as checkpoint:
        assert [info.name for info in checkpoint.tensors] == list(tensors)
        for name, values in tensors.items():
            found = checkpoint.read(name)
            assert (found.dtype, found.shape, found.tobytes()) == (values.dtype, values.shape, values.tobytes())
            if values.ndim:
                start = data.draw(st.integers(0, len(values)))
                assert np.array_equal(checkpoint.rows(name, start, len(values)), values[start:])


def test_tables_cut_by_columns_as_torchrec_does(tmp_path):
    made = DistributedFolder(tmp_path / "dcp")
    values = np.arange(5000 * 24, dtype=np.float32).reshape(5000, 24)
    names = {
        "model.ebc.embedding_bags.t_item.weight": "embedding",
        "optim.state.ebc.embedding_bags.t_item.weight.t_item.momentum1": "optimizer",
        "optim.state.ebc.embedding_bags.t_item.weight.t_item.exp_avg": "optimizer",
        "model.ebc.embedding_bags.t_item.weight.exp_avg_sq": "optimizer",
        "model.over.0.weight": "dense",
    }
    for name in names:
        rows = 30 if name == "model.over.0.weight" else 5000
        made.chunks(name, values[:rows], [((0, at), (rows, 8)) for at in (0, 8, 16)])
    with open_checkpoint(made.write()) as checkpoint:
        assert {info.name: info.role for info in checkpoint.tensors} == names
        assert np.array_equal(checkpoint.rows("model.ebc.embedding_bags.t_item.weight", 4000, 4100), values[4000:4100])
        assert np.array_equal(checkpoint.read("model.ebc.embedding_bags.t_item.weight"), values)


def test_objects_give_their_numbers_and_tensors(tmp_path):
    made = DistributedFolder(tmp_path / "dcp")
    made.object("train.step", number(12))
    made.object("optim.param_groups", b"](" + mapping({"lr": number(0.5), "fused": b"\x88", "name": text("sgd")}) + b"e")
    made.object("betas", tuple_of(number(0.9), number(0.999)))
    made.object("comment", text("trained on a Tuesday"))
    made.whole("model.w", np.ones((2, 2), np.float32))
    with open_checkpoint(made.write()) as checkpoint:
        found = {info.name: (info.role, checkpoint.read(info.name).tolist()) for info in checkpoint.tensors}
    assert found == {
        "train.step": ("other", 12),
        "optim.param_groups.0.lr": ("optimizer", 0.5),
        "optim.param_groups.0.fused": ("optimizer", True),
        "betas.0": ("other", 0.9),
        "betas.1": ("other", 0.999),
        "model.w": ("dense", [[1, 1], [1, 1]]),
    }


def test_only_the_pieces_that_are_asked_for_are_opened(tmp_path):
    made = DistributedFolder(tmp_path / "dcp")
    values = np.arange(40, dtype=np.float32).reshape(10, 4)
    made.chunks("t", values, [((at, 0), (2, 4)) for at in range(0, 10, 2)], ranks=5)
    made.files["__3_0.distcp"][:] = bytes(len(made.files["__3_0.distcp"]))
    with open_checkpoint(made.write()) as checkpoint:
        assert np.array_equal(checkpoint.rows("t", 0, 6), values[:6])
        assert np.array_equal(checkpoint.rows("t", 8, 10), values[8:])


def test_what_is_not_there(tmp_path):
    made = DistributedFolder(tmp_path / "dcp")
    made.whole("model.w", np.ones((2, 2), np.float32))
    with open_checkpoint(made.write()) as checkpoint, pytest.raises(NotFound, match="no tensor 'model.v'"):
        checkpoint.read("model.v")
    with pytest.raises(InvalidInput, match="is closed"):
        checkpoint.rows("model.w", 0, 1)
