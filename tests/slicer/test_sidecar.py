"""The sidecar is found where the format says, and nowhere else."""

import pytest

from penstock.pipeline.core.errors import Corrupt
from penstock.slicer.sidecar import find_sidecar, is_sidecar, read_sidecar, sidecar_path


def test_inside_a_folder_and_beside_a_file(tmp_path):
    folder, file = tmp_path / "step_1", tmp_path / "step_2.pt"
    folder.mkdir()
    file.write_bytes(b"")
    assert find_sidecar(folder) is find_sidecar(file) is None
    assert read_sidecar(file) is None
    (tmp_path / "penstock.json").write_text("{}")
    assert find_sidecar(file) is None
    for checkpoint, name in ((folder, "step_1/penstock.json"), (file, "step_2.pt.penstock.json")):
        assert sidecar_path(checkpoint) == tmp_path / name
        sidecar_path(checkpoint).write_text('{"step": 3, "trained_through": "2026-11-21T10:07:00Z"}')
        assert find_sidecar(checkpoint) == tmp_path / name
        assert is_sidecar(tmp_path / name)
        assert read_sidecar(checkpoint).step == 3
    assert not is_sidecar(file)


def test_a_sidecar_that_is_none_is_corrupt(tmp_path):
    (tmp_path / "penstock.json").write_text('{"step": "three"}')
    with pytest.raises(Corrupt, match=r"penstock\.json: not a sidecar"):
        read_sidecar(tmp_path)
