"""Checkpoints of TorchEasyRec: what torch and dynamicemb wrote, side by side in one folder."""

import numpy as np
import pytest
from open_files import nothing_left_open
from raw_dumps import parts_of, write_dynamicemb
from torch_files import DistributedFolder
from torch_pickles import number

from penstock.pipeline.core.errors import Corrupt, Unsupported
from penstock.slicer.readers import open_checkpoint

KEYS = np.array([3, -1, 2**62], np.int64)
ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)
WEIGHT = np.arange(8, dtype=np.float32).reshape(4, 2)
TABLE = "model.ebc.embedding_bags.user.weight"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model.ckpt-100"
    model = DistributedFolder(path / "model")
    model.chunks(TABLE, WEIGHT, [((0, 0), (2, 2)), ((2, 0), (2, 2))])
    model.whole("model.over.weight", WEIGHT[0])
    model.write()
    optimizer = DistributedFolder(path / "optimizer")
    optimizer.whole(f"state.{TABLE}.momentum1", WEIGHT[:, 0].copy())
    optimizer.object("step", number(100))
    optimizer.write()
    write_dynamicemb(path / "dynamicemb" / "model.ec", "item", parts_of(KEYS, ROWS, [1]))
    (path / "dynamicemb/model.ec/item_counter_keys.rank_0.world_size_2").write_bytes(b"1")
    (path / "plan").write_text("{}")
    return path


def test_all_of_it_is_one_checkpoint(folder):
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.format == "torcheasyrec"
        assert {info.name: info.role for info in checkpoint.tensors} == {
            TABLE: "embedding", "model.over.weight": "dense",
            f"optimizer/state.{TABLE}.momentum1": "optimizer", "optimizer/step": "optimizer",
            "model.ec/item/keys": "other", "model.ec/item/rows": "embedding",
        }  # fmt: skip
        assert checkpoint.read(TABLE).tobytes() == WEIGHT.tobytes()
        assert checkpoint.read("model.ec/item/keys").tobytes() == KEYS.tobytes()
        assert checkpoint.read("model.ec/item/rows").tobytes() == ROWS.tobytes()
        assert checkpoint.read("optimizer/step") == 100


@pytest.mark.parametrize("kept", ["plan", "optimizer", "dynamicemb"])
def test_parts_that_a_model_does_not_have(folder, kept):
    for name in {"plan", "optimizer", "dynamicemb"} - {kept}:
        (folder / name).rename(folder.parent / name)
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.format == "torcheasyrec"
        assert checkpoint.read(TABLE).tobytes() == WEIGHT.tobytes()
    (folder / kept).rename(folder.parent / kept)
    with pytest.raises(Unsupported, match="a folder without a checkpoint"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("gone", "match"),
    [
        ("model/.metadata", "model: .*the save did not finish"),
        ("optimizer/.metadata", "optimizer: .*the save did not finish"),
        ("dynamicemb/model.ec/item_emb_values.rank_1.world_size_2", "table model.ec/item, emb_values: part 1 of 2 is missing"),
    ],
)
def test_a_save_that_did_not_finish(folder, gone, match):
    (folder / gone).unlink()
    with nothing_left_open(), pytest.raises(Corrupt, match=match):
        open_checkpoint(folder)
