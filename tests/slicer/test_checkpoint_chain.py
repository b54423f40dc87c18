"""Folders of checkpoints: which are found, in which order, and what changed between them."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tensorflow_files import write_bundle

from penstock.pipeline.core.errors import Refused
from penstock.slicer import checkpoint_chain
from penstock.slicer.checkpoint_chain import ordered_checkpoints
from penstock.slicer.readers import open_checkpoint

REAL = Path(__file__).parents[1] / "data" / "torch_dlrm_retail"


def save(path, rows=5, dim=2, sidecar=None, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, **{"user_emb.weight": np.ones((rows, dim), np.float32), **more})
    if sidecar is not None:
        path.with_name(f"{path.name}.penstock.json").write_text(json.dumps(sidecar))


def names(chain):
    return [each.name for each in chain.checkpoints]


def test_real_checkpoints_in_order_without_what_is_none():
    chain = ordered_checkpoints(REAL)
    assert chain.ordered_by == "names"
    assert names(chain) == [f"step_000{n}.{ending}" for n in (1, 2, 3, 4) for ending in ("expected.npz", "pt", "safetensors")]
    assert all(each.error is None and each.changes == () and each.step is None for each in chain.checkpoints)
    sizes = {each.name: (each.format, each.tensors, each.nbytes) for each in chain.checkpoints}
    with open_checkpoint(REAL / "step_0002.pt") as checkpoint:
        assert sizes["step_0002.pt"] == ("pytorch", 59, sum(info.nbytes for info in checkpoint.tensors))


def test_numbers_in_names_count_as_numbers(tmp_path):
    for name in ("step_10.pt", "step_9.pt", "step_100.pt"):
        save(tmp_path / name)
    assert names(ordered_checkpoints(tmp_path)) == ["step_9.pt", "step_10.pt", "step_100.pt"]


def test_sidecars_order_where_all_have_a_step(tmp_path):
    save(tmp_path / "a.pt", sidecar={"step": 30, "trained_through": "2024-11-01T10:00:00Z"})
    save(tmp_path / "b.pt", sidecar={"step": 5})
    save(tmp_path / "c_2" / "model.npz")
    (tmp_path / "c_2/penstock.json").write_text('{"step": 7, "trained_through": 1730455200}')
    chain = ordered_checkpoints(tmp_path)
    assert (chain.ordered_by, names(chain)) == ("steps", ["b.pt", "c_2", "a.pt"])
    assert [each.step for each in chain.checkpoints] == [5, 7, 30]
    assert [each.trained_through for each in chain.checkpoints] == [None, "2024-11-01T10:00:00Z", "2024-11-01T10:00:00Z"]
    save(tmp_path / "d.pt", sidecar={"trained_through": "2024-11-01T10:00:00Z"})
    chain = ordered_checkpoints(tmp_path)
    assert (chain.ordered_by, names(chain)) == ("names", ["a.pt", "b.pt", "c_2", "d.pt"])


def test_times_of_files_are_not_asked(tmp_path):
    for number in (1, 2, 3):
        save(tmp_path / f"{number}.npz")
        os.utime(tmp_path / f"{number}.npz", (9 - number, 9 - number))
    assert names(ordered_checkpoints(tmp_path)) == ["1.npz", "2.npz", "3.npz"]


def test_what_changed_in_the_tables(tmp_path):
    save(tmp_path / "step_1.npz", rows=5)
    save(tmp_path / "step_2.npz", rows=7, **{"item/keys": np.arange(3), "item/rows": np.ones((3, 2), np.float32)})
    save(tmp_path / "step_3.npz", rows=7, dim=4)
    save(tmp_path / "other_9.npz", rows=70, dim=4)
    found = {each.name: [str(change) for change in each.changes] for each in ordered_checkpoints(tmp_path).checkpoints}
    assert found == {
        "other_9.npz": [],
        "step_1.npz": [],
        "step_2.npz": ["user_emb grows (5 to 7)", "item appears (3 x 2)"],
        "step_3.npz": ["user_emb changes dim (2 to 4)", "item vanishes (3 x 2)"],
    }


def test_one_that_cannot_be_read_is_listed_and_passed_over(tmp_path):
    save(tmp_path / "step_1.npz")
    save(tmp_path / "step_2.npz")
    save(tmp_path / "step_3.npz", rows=6)
    data = (tmp_path / "step_2.npz").read_bytes()
    (tmp_path / "step_2.npz").write_bytes(data[: len(data) // 2])
    chain = ordered_checkpoints(tmp_path)
    assert names(chain) == ["step_1.npz", "step_2.npz", "step_3.npz"]
    assert [each.error is None for each in chain.checkpoints] == [True, False, True]
    assert "zip" in chain.checkpoints[1].error
    assert str(tmp_path) not in chain.checkpoints[1].error
    assert [str(change) for change in chain.checkpoints[2].changes] == ["user_emb grows (5 to 6)"]


def test_a_sidecar_that_is_none_is_an_error_of_its_checkpoint(tmp_path):
    save(tmp_path / "step_1.npz", sidecar={"step": 1})
    save(tmp_path / "step_2.npz", sidecar={"step": "two"})
    chain = ordered_checkpoints(tmp_path)
    assert [each.error is None for each in chain.checkpoints] == [True, False]
    assert "step" in chain.checkpoints[1].error


def test_folders_that_are_checkpoints_or_hold_one(tmp_path):
    shutil.copytree(Path(__file__).parents[1] / "data/torch_dlrm_retail", tmp_path / "many")
    for step in (2, 10):
        save(tmp_path / f"step_{step}" / "model.npz")
        (tmp_path / f"step_{step}" / "notes.txt").write_text("good")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/events.txt").write_text("started")
    save(tmp_path / ".trash" / "step_1.npz")
    chain = ordered_checkpoints(tmp_path)
    assert names(chain) == ["many", "step_2", "step_10"]
    assert "a folder of" in chain.checkpoints[0].error


def test_a_trainer_s_folder_of_bundles_under_their_prefixes(tmp_path):
    for step in (900, 1000):
        tensors = {"user_emb/weights": np.ones((step, 2), np.float32), "global_step": np.array(step)}
        write_bundle(tmp_path / f"model.ckpt-{step}", tensors, shards=2)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1000"\n')
    chain = ordered_checkpoints(tmp_path)
    assert names(chain) == ["model.ckpt-900", "model.ckpt-1000"]
    assert [str(change) for change in chain.checkpoints[1].changes] == ["user_emb grows (900 to 1,000)"]
    for each in chain.checkpoints:
        with open_checkpoint(tmp_path / each.name) as checkpoint:
            assert checkpoint.format == each.format == "tensorflow"


def test_increments_of_deeprec_come_in_between(tmp_path):
    def whole(step):
        write_bundle(
            tmp_path / f"model.ckpt-{step}",
            {"user/emb-keys": np.arange(4), "user/emb-values": np.ones((4, 2), np.float32), "w": np.ones(3, np.float32)},
        )

    whole(100)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-100"\n')
    assert ordered_checkpoints(tmp_path) is None, "one checkpoint is no chain"
    (tmp_path / ".incremental_checkpoint").mkdir()
    for step in (110, 90):
        write_bundle(
            tmp_path / ".incremental_checkpoint" / f"model.ckpt-{step}",
            {"user/emb-sparse_incr_keys": np.arange(1), "user/emb-sparse_incr_values": np.ones((1, 2), np.float32)},
        )
    (tmp_path / ".incremental_checkpoint/checkpoint").write_text('model_checkpoint_path: "model.ckpt-110"\n')
    whole(120)
    chain = ordered_checkpoints(tmp_path)
    assert [(each.name.rpartition("-")[2], each.partial) for each in chain.checkpoints] == [
        ("90", True), ("100", False), ("110", True), ("120", False),
    ]  # fmt: skip
    assert all(each.error is None and each.changes == () for each in chain.checkpoints)


def test_a_table_that_is_called_after_its_file_is_the_same_one(tmp_path):
    for day, rows in (("20210317", 4), ("20210318b", 6)):
        np.save(tmp_path / f"user_emb_{day}.npy", np.ones((rows, 2), np.float32))
    changes = [str(change) for change in ordered_checkpoints(tmp_path).checkpoints[1].changes]
    assert changes == ["table grows (4 to 6)"]


def test_what_is_no_folder_of_checkpoints(tmp_path):
    save(tmp_path / "one" / "a.npz")
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "empty" / "ids.npz", user=np.arange(5))
    for path in (tmp_path / "nothing", tmp_path / "one/a.npz", tmp_path / "empty"):
        assert ordered_checkpoints(path) is None
    assert names(ordered_checkpoints(tmp_path / "one")) == ["a.npz"]


def test_there_is_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_chain, "MAX_CHECKPOINTS", 2)
    for number in range(3):
        save(tmp_path / f"{number}.npz")
    with pytest.raises(Refused, match="more than 2 checkpoints"):
        ordered_checkpoints(tmp_path)
