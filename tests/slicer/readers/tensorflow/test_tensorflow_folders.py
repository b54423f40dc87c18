"""Which bundle a path means: SavedModel, training folder, prefix; and the paths that lead elsewhere."""

import numpy as np
import pytest
from open_files import nothing_left_open
from tensorflow_files import write_bundle

from penstock.pipeline.core.errors import Corrupt, NotFound, Refused, Unsupported
from penstock.slicer.readers import open_checkpoint
from penstock.slicer.readers.tensorflow.tensorflow_folders import latest_index

LINE = 'model_checkpoint_path: "{}"\nall_model_checkpoint_paths: "old"\nall_model_checkpoint_paths: "{}"\n'


@pytest.fixture
def write():
    def one(prefix, value=1):
        prefix.parent.mkdir(parents=True, exist_ok=True)
        return write_bundle(prefix, {"v": np.full(3, value)}, shards=2)

    return one


def value(path):
    with open_checkpoint(path) as checkpoint:
        return int(checkpoint.read("v")[0])


def test_a_saved_model(tmp_path, write):
    write(tmp_path / "variables" / "variables", 5)
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")
    (tmp_path / "fingerprint.pb").write_bytes(b"\x08\x01")
    assert value(tmp_path) == value(tmp_path / "variables") == 5


def test_a_folder_that_only_looks_like_a_saved_model(tmp_path, write):
    write(tmp_path / "variables" / "variables", 5)
    with pytest.raises(Unsupported, match="without a checkpoint"):
        open_checkpoint(tmp_path)
    (tmp_path / "variables" / "variables.index").write_bytes(b"no table")
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")
    with pytest.raises(Unsupported, match="without a checkpoint"):
        open_checkpoint(tmp_path)


def test_one_bundle_in_a_folder_and_by_its_prefix(tmp_path, write):
    write(tmp_path / "model.ckpt-7", 7)
    assert value(tmp_path) == value(tmp_path / "model.ckpt-7") == value(tmp_path / "model.ckpt-7.index") == 7
    with pytest.raises(NotFound, match="no checkpoint at"):
        open_checkpoint(tmp_path / "model.ckpt-8")


def test_several_bundles_need_a_state(tmp_path, write):
    for step in (7, 8, 9):
        write(tmp_path / f"model.ckpt-{step}", step)
    with pytest.raises(Refused, match=r"a folder of 3 checkpoints \(model.ckpt-7.index"):
        open_checkpoint(tmp_path)
    (tmp_path / "checkpoint").write_text(LINE.format("model.ckpt-8", "model.ckpt-8"))
    assert value(tmp_path) == 8
    assert value(tmp_path / "model.ckpt-9") == 9


@pytest.mark.parametrize(
    "named",
    [
        "model.ckpt-8",
        "./model.ckpt-8",
        "/home/somebody/elsewhere/model.ckpt-8",
        "model\\056ckpt-8",
        "model\\x2eckpt-8",
        "\\155odel.ckpt-8",
        "model.ckpt\\-8",
    ],
)
def test_how_a_state_names_the_latest(tmp_path, write, named):
    write(tmp_path / "model.ckpt-8", 8)
    write(tmp_path / "model.ckpt-9", 9)
    (tmp_path / "checkpoint").write_text(f'# comment\n  model_checkpoint_path : "{named}"\n')
    assert value(tmp_path) == 8


def test_a_state_that_names_a_folder_below(tmp_path, write):
    write(tmp_path / "step_8" / "ckpt", 8)
    (tmp_path / "checkpoint").write_text(LINE.format("step_8/ckpt", "step_8/ckpt"))
    assert value(tmp_path) == 8


@pytest.mark.parametrize(
    "named", ["../b/ckpt", "a/../../b/ckpt", "..", ".", "", "a/", "nul\\000", "/", "out/ckpt", "\\056\\056/b/ckpt"]
)
def test_a_state_that_leads_elsewhere(tmp_path, write, named):
    write(tmp_path / "b" / "ckpt")
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "out").symlink_to(tmp_path / "b")
    (folder / "checkpoint").write_text(LINE.format(named, named))
    with nothing_left_open(), pytest.raises(Refused, match="is not in this folder"):
        open_checkpoint(folder)


def test_a_state_that_names_what_is_gone(tmp_path, write):
    write(tmp_path / "model.ckpt-7")
    (tmp_path / "checkpoint").write_text(LINE.format("model.ckpt-8", "model.ckpt-8"))
    with pytest.raises(NotFound, match="latest checkpoint 'model.ckpt-8' is not there"):
        open_checkpoint(tmp_path)


def test_a_state_that_is_none(tmp_path, write):
    write(tmp_path / "model.ckpt-7", 7)
    (tmp_path / "checkpoint").write_text("all_model_checkpoint_paths: 'x'\n")
    assert value(tmp_path) == 7
    with pytest.raises(Corrupt, match="no model_checkpoint_path"):
        latest_index(tmp_path)
    (tmp_path / "checkpoint").write_bytes(b'model_checkpoint_path: "\\xff\xff"\n')
    with pytest.raises(Corrupt, match="is not UTF-8"):
        open_checkpoint(tmp_path)


class TestTablesOfTfra:
    """Files of their own beside a bundle."""

    @pytest.fixture
    def write_tables(self):
        def one(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "user_mht_1of1_rank0_size1-keys").write_bytes(np.arange(3).tobytes())
            (folder / "user_mht_1of1_rank0_size1-values").write_bytes(np.ones((3, 4), np.float32).tobytes())

        return one

    def test_of_a_saved_model(self, tmp_path, write, write_tables):
        write(tmp_path / "variables" / "variables", 5)
        write_tables(tmp_path / "variables" / "TFRADynamicEmbedding")
        (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")
        for path in (tmp_path, tmp_path / "variables"):
            with open_checkpoint(path) as checkpoint:
                assert checkpoint.read("user/keys").tolist() == [0, 1, 2]
                assert checkpoint.read("v").tolist() == [5, 5, 5]
        with open_checkpoint(tmp_path / "variables" / "variables.index") as checkpoint:
            assert [info.name for info in checkpoint.tensors] == ["v"]

    def test_of_the_latest_checkpoint(self, tmp_path, write, write_tables):
        for step in (7, 8):
            write(tmp_path / f"ckpt-{step}", step)
        write_tables(tmp_path / "TFRADynamicEmbedding")
        (tmp_path / "checkpoint").write_text(LINE.format("ckpt-8", "ckpt-8"))
        with open_checkpoint(tmp_path) as checkpoint:
            assert {info.name for info in checkpoint.tensors} >= {"v", "user/keys"}
            assert checkpoint.read("v").tolist() == [8, 8, 8]
        with open_checkpoint(tmp_path / "ckpt-7") as checkpoint:
            assert [info.name for info in checkpoint.tensors] == ["v"]

    def test_that_are_broken(self, tmp_path, write, write_tables):
        write(tmp_path / "ckpt")
        write_tables(tmp_path / "TFRADynamicEmbedding")
        (tmp_path / "TFRADynamicEmbedding" / "user_mht_1of1_rank0_size1-values").unlink()
        with nothing_left_open(), pytest.raises(Corrupt, match="there is no -values file"):
            open_checkpoint(tmp_path)


def test_other_files_with_these_names(tmp_path):
    (tmp_path / "a.index").write_bytes(b"x" * 100)
    (tmp_path / "b.data-00000-of-00001").write_bytes(bytes(8) + b"{")
    with pytest.raises(Unsupported, match="a folder without a checkpoint"):
        open_checkpoint(tmp_path)
    with pytest.raises(Unsupported, match="no checkpoint of a known format"):
        open_checkpoint(tmp_path / "a")
