"""Checkpoints of a real trainer read as torch reads them, byte for byte, in every format that they come in."""

import hashlib
import shutil

import numpy as np
import pytest

from penstock.pipeline.core.errors import Corrupt, InvalidInput, NotFound, Refused, Unsupported
from penstock.slicer.inspect import inspect_checkpoint, inspect_with_checksums
from penstock.slicer.readers import open_checkpoint

FORMATS = {"pt": ("pytorch", "model."), "safetensors": ("safetensors", ""), "expected.npz": ("npz", "")}
TABLES = {"embeddings.customer.weight", "embeddings.product.weight", "embeddings.country.weight", "embeddings.hour.weight"}


@pytest.fixture(params=[(step, ending) for step in (1, 2, 3, 4) for ending in FORMATS], ids=lambda at: f"{at[0]}.{at[1]}")
def case(request, retail):
    step, ending = request.param
    return retail / f"step_000{step}.{ending}", *FORMATS[ending], np.load(retail / f"step_000{step}.expected.npz")


def test_every_tensor_is_what_torch_reads(case):
    path, form, prefix, expected = case
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == form
        infos = {info.name: info for info in checkpoint.tensors}
        for name in expected:
            wanted, info, found = expected[name], infos[prefix + name], checkpoint.read(prefix + name)
            assert (info.shape, info.dtype, info.nbytes) == (wanted.shape, wanted.dtype.name, wanted.nbytes)
            assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
            assert found.tobytes() == wanted.tobytes()


def test_rows_by_range_and_into_a_buffer(case):
    path, _, prefix, expected = case
    with open_checkpoint(path) as checkpoint:
        for table in TABLES:
            wanted = expected[table]
            buffer = np.empty((50, 16), np.float32)
            for start in [*range(0, len(wanted) - 50, 50), 7, max(0, len(wanted) - 50), 0]:
                part = buffer[: len(wanted) - start]
                checkpoint.read_rows_into(prefix + table, start, part)
                assert np.array_equal(part, wanted[start : start + 50])
                assert np.array_equal(checkpoint.rows(prefix + table, start, start + len(part)), part)


def test_roles_and_checksums(case):
    path, form, prefix, expected = case
    found = inspect_with_checksums(path)
    assert found.format == form
    tensors = {tensor.name: tensor for tensor in found.tensors}
    for name in expected:
        assert tensors[prefix + name].sha256 == hashlib.sha256(expected[name].tobytes()).hexdigest()
    assert {name.removeprefix(prefix) for name, tensor in tensors.items() if tensor.role == "embedding"} == TABLES
    dense = {name.removeprefix(prefix) for name, tensor in tensors.items() if tensor.role == "dense"}
    assert dense == {name for name in expected if name.startswith(("bottom", "top"))}
    assert tensors[f"{prefix}seen"].role == "other"
    quick = inspect_checkpoint(path)
    assert [(t.name, t.shape, t.dtype, t.role, t.sha256) for t in quick.tensors] == [
        (t.name, t.shape, t.dtype, t.role, None) for t in found.tensors
    ]


def test_a_torch_checkpoint_brings_optimizer_state_and_numbers(retail):
    with open_checkpoint(retail / "step_0002.pt") as checkpoint:
        infos = {info.name: info for info in checkpoint.tensors}
        assert infos["optimizer.state.0.sum"].role == "optimizer"
        assert infos["optimizer.state.0.sum"].shape == (2974, 16)
        assert infos["meta.step"].role == "other"
        assert [checkpoint.read(f"meta.{name}") for name in ("step", "examples", "trained_through")] == [2, 86528, 1300726740.0]
        assert checkpoint.read("optimizer.param_groups.0.lr") == 0.05


def test_the_format_is_found_by_content_and_in_a_folder(case, tmp_path):
    path, form, prefix, expected = case
    (tmp_path / "penstock.json").write_text("{}")
    (tmp_path / ".hidden").write_bytes(path.read_bytes())
    with pytest.raises(Unsupported, match="without a checkpoint"):
        open_checkpoint(tmp_path)
    shutil.copy(path, tmp_path / "weights.bin")
    (tmp_path / "weights.bin.penstock.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("trained on a Tuesday")
    for place in (tmp_path, tmp_path / "weights.bin"):
        with open_checkpoint(place) as checkpoint:
            assert checkpoint.format == form
            assert np.array_equal(checkpoint.read(f"{prefix}seen"), expected["seen"])
    shutil.copy(path, tmp_path / "again.bin")
    with pytest.raises(Refused, match="a folder of 2 checkpoints"):
        open_checkpoint(tmp_path)


def test_what_is_not_there_is_not_found(retail, tmp_path):
    with pytest.raises(NotFound, match=r"no checkpoint at .*nowhere"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(NotFound, match=r"no checkpoint at "):
        open_checkpoint(retail / "step_0001.pt" / "inside")
    with open_checkpoint(retail / "step_0001.pt") as checkpoint:
        with pytest.raises(NotFound, match=r"step_0001.pt: no tensor 'embeddings.customer.weight'") as error:
            checkpoint.info("embeddings.customer.weight")
        assert "model.embeddings.customer.weight" in error.value.hint
        for start, stop in ((-1, 4), (5, 4), (0, 2975)):
            with pytest.raises(InvalidInput, match=f"rows 0 to 2974, not {start} to {stop}"):
                checkpoint.rows("model.embeddings.customer.weight", start, stop)
        with pytest.raises(InvalidInput, match=r"meta\.step is a scalar"):
            checkpoint.rows("meta.step", 0, 1)
        for buffer in (np.empty((4, 15), np.float32), np.empty((4, 32), np.float32)[:, ::2], np.empty(16, np.float32)):
            with pytest.raises(InvalidInput, match="no C-order"):
                checkpoint.read_rows_into("model.embeddings.customer.weight", 0, buffer)
        with pytest.raises(InvalidInput, match="cannot be read as int64"):
            checkpoint.read_rows_into("model.embeddings.customer.weight", 0, np.empty((4, 16), np.int64))


def test_a_closed_checkpoint_says_so_and_its_views_stay(retail):
    checkpoint = open_checkpoint(retail / "step_0001.safetensors")
    rows = checkpoint.rows("embeddings.hour.weight", 0, 24)
    before = rows.copy()
    checkpoint.close()
    checkpoint.close()
    assert np.array_equal(rows, before)
    with pytest.raises(InvalidInput, match="is closed"):
        checkpoint.rows("embeddings.hour.weight", 0, 24)
    with pytest.raises(InvalidInput, match="is closed"):
        checkpoint.read_rows_into("embeddings.hour.weight", 0, np.empty((24, 16), np.float32))


def test_what_is_no_checkpoint_is_unsupported(tmp_path):
    for number, data in enumerate((b"", b"x", b"hello, this is text", b"\x80\x04N.", b"\x89HDF" + bytes(100))):
        path = tmp_path / f"file{number}"
        path.write_bytes(data)
        with pytest.raises(Unsupported, match="no checkpoint of a known format"):
            open_checkpoint(path)


def test_a_whole_signature_is_its_format_however_broken(tmp_path):
    for at in (0, 512, 1024):
        path = tmp_path / f"file{at}"
        path.write_bytes(bytes(at) + b"\x89HDF\r\n\x1a\n" + bytes(100))
        with pytest.raises(Corrupt, match="no HDF5 file that can be read"):
            open_checkpoint(path)
