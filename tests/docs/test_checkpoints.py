"""What docs/checkpoints.md shows works: its Python runs, with frameworks that only write what they would have written, and its
config reads the result, which `inspect` proposes as well."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import onnx
import pytest
from easyrec_deltas import write_step
from raw_dumps import Part, write_dynamicemb, write_sok, write_table_folder, write_tfra
from safetensors.numpy import save_file
from tensorflow_files import Partitioned, write_bundle
from torch_files import DistributedFolder
from word_files import write_binary

from penstock.pipeline.config import parse_config
from penstock.publishers import hash_texts
from penstock.publishers.delivery import read_sidecar
from penstock.publishers.table_reading import Reading
from penstock.slicer.checkpoint_chain import ordered_checkpoints
from penstock.slicer.inspect import inspect_checkpoint
from penstock.slicer.proposed_config import toml_of
from penstock.slicer.readers import open_checkpoint

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests/data"
PAGE = (ROOT / "docs/checkpoints.md").read_text()
INTRODUCTION, *_ = PAGE.partition("\n## ")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
TOP = '[store]\nurl = "file://{0}/store"\n[log]\nurl = "file://{0}/log"\npartitions = 1\n[models.shop]\nbuckets = 16\n'
COUNT, DIM = 6, 4
ROWS = np.arange(COUNT * DIM, dtype=np.float32).reshape(COUNT, DIM)
KEYS = np.arange(COUNT) * 7
TOP_WEIGHT = np.ones((2, 2), np.float32)


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


# ---- frameworks: what they would write ---------------------------------------------------------------------------------


def distributed(*tensors):
    def save(state, *, checkpoint_id):
        folder = DistributedFolder(Path(checkpoint_id))
        for name in tensors:
            folder.chunks(name, ROWS, [((0, 0), (3, DIM)), ((3, 0), (COUNT - 3, DIM))])
        folder.whole("model.over.weight", TOP_WEIGHT)
        folder.write()

    return save


def bundle(tensors):
    def save(prefix):
        write_bundle(Path(prefix), {**tensors, "top/weight": TOP_WEIGHT}, shards=2)
        return prefix

    return save


def saved_model(tensors):
    def save(model, folder):
        (Path(folder) / "variables").mkdir(parents=True)
        (Path(folder) / "saved_model.pb").write_bytes(b"\x08\x01")
        bundle(tensors)(Path(folder) / "variables/variables")

    return save


def saver(tensors):
    return SimpleNamespace(save=lambda session, path, *, global_step: bundle(tensors)(f"{path}-{global_step}"))


def save_pt(state, path):
    shutil.copy(DATA / "torch_dlrm_retail/step_0002.pt", path)
    shutil.copy(DATA / "torch_dlrm_retail/ids.npz", Path(path).parent)


def save_tfra(model, folder):
    saved_model({"graph": np.array(1)})(model, folder)
    files = Path(folder) / "variables/TFRADynamicEmbedding"
    write_tfra(files, "user", [[Part(KEYS[:2], ROWS[:2]), Part(KEYS[2:3], ROWS[2:3])], [Part(KEYS[3:], ROWS[3:])]])


def save_keras(path):
    with h5py.File(path, "w") as file:
        file["layers/user_embedding/vars/0"] = ROWS
        file["layers/dense/vars/0"] = TOP_WEIGHT
        file["optimizer/vars/0"] = np.array(100)


def export_onnx(model, example, path):
    gather = onnx.helper.make_node("Gather", ["user.weight", "ids"], ["rows"])
    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, [None])
    rows = onnx.helper.make_tensor_value_info("rows", onnx.TensorProto.FLOAT, [None, DIM])
    weight = onnx.numpy_helper.from_array(ROWS, "user.weight")
    onnx.save_model(onnx.helper.make_model(onnx.helper.make_graph([gather], "shop", [ids], [rows], [weight])), path)


def save_words(path, *, binary):
    assert binary
    Path(path).parent.mkdir(exist_ok=True)
    write_binary(Path(path), [f"item-{key}".encode() for key in KEYS], ROWS)


OBJECT_GRAPH = "/.ATTRIBUTES/VARIABLE_VALUE"
DEEPREC = {f"user/part_{n}-{column}": values[n::2] for n in (0, 1) for column, values in (("keys", KEYS), ("values", ROWS))}
NAMES = {
    "PyTorch": {"torch": SimpleNamespace(save=save_pt)},
    "safetensors": {
        "safetensors": SimpleNamespace(
            torch=SimpleNamespace(save_file=lambda state, path: save_file({"embeddings.customer.weight": ROWS}, path))
        )
    },
    "PyTorch distributed (DCP)": {
        "torch": SimpleNamespace(
            distributed=SimpleNamespace(
                checkpoint=SimpleNamespace(
                    save=lambda state, *, checkpoint_id: shutil.copytree(DATA / "torch_dcp_dlrm_retail/step_0002", checkpoint_id)
                )
            )
        )
    },
    "TorchRec": {
        "torch": SimpleNamespace(
            distributed=SimpleNamespace(checkpoint=SimpleNamespace(save=distributed("model.ebc.embedding_bags.t_user.weight")))
        )
    },
    "TensorFlow 1 and Estimator": {
        "session": None,
        "saver": saver(
            {"input_layer/user_embedding/embedding_weights": Partitioned(ROWS, [((0, 4), (0, None)), ((4, 2), (0, None))])}
        ),
    },
    "TensorFlow 2": {
        "tf": SimpleNamespace(
            train=SimpleNamespace(
                Checkpoint=lambda *, model: SimpleNamespace(write=bundle({f"model/user/embeddings{OBJECT_GRAPH}": ROWS}))
            )
        )
    },
    "SavedModel": {
        "tf": SimpleNamespace(saved_model=SimpleNamespace(save=saved_model({f"user/embeddings{OBJECT_GRAPH}": ROWS})))
    },
    "TensorFlow Recommenders-Addons": {
        "de": SimpleNamespace(keras=SimpleNamespace(models=SimpleNamespace(de_save_model=save_tfra)))
    },
    "DeepRec": {"session": None, "saver": saver(DEEPREC)},
    "Keras": {"model": SimpleNamespace(save_weights=save_keras)},
    "ONNX": {"torch": SimpleNamespace(onnx=SimpleNamespace(export=export_onnx)), "example": None},
    "HugeCTR": {
        "model": SimpleNamespace(
            save_params_to_files=lambda prefix: write_table_folder(Path(f"{prefix}0_sparse_100.model"), Part(KEYS, ROWS))
        )
    },
    "SparseOperationKit": {
        "sok": SimpleNamespace(dump=lambda path, variables, optimizer: write_sok(Path(path), "user_0", KEYS, ROWS, m=ROWS)),
        "variables": None,
    },
    "dynamicemb": {
        "DynamicEmbDump": lambda path, model: write_dynamicemb(
            Path(path) / "model.sparse", "user", [Part(KEYS[:2], ROWS[:2]), Part(KEYS[2:], ROWS[2:])]
        )
    },
    "TorchEasyRec": {},
    "numpy": {"numpy": np, "keys": KEYS, "rows": ROWS, "top": TOP_WEIGHT},
    "word2vec, GloVe, text": {"model": SimpleNamespace(wv=SimpleNamespace(save_word2vec_format=save_words))},
}
"""What the snippets of each section take as given, besides `model`, `optimizer` and what the introduction defines."""


REAL = {"PyTorch", "PyTorch distributed (DCP)"}
"""Sections whose framework has written real files."""


@pytest.fixture(scope="module")
def introduced(tmp_path_factory):
    """The names that the introduction defines, and a trainer's own."""
    folder = tmp_path_factory.mktemp("introduction")
    module = SimpleNamespace(state_dict=dict)
    names = {"step": 100, "model": module, "optimizer": module}
    (folder / "penstock.toml").write_text(TOP.format(folder))
    (folder / "checkpoints").mkdir()
    np.savez(folder / "checkpoints/step_100.pt.npz", user_emb=ROWS)
    (folder / "checkpoints/step_100.pt.npz").rename(folder / "checkpoints/step_100.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks(INTRODUCTION, "python"):
            exec(compile(block, "checkpoints.md", "exec"), names)
    yield names, folder
    names["delivery"].close()


def test_what_the_introduction_writes_is_found(introduced):
    names, folder = introduced
    found = read_sidecar(folder / "checkpoints/step_100.pt")
    assert (found.step, found.trained_through) == (100, "2024-11-21T10:00:00Z")
    assert [each.name for each in ordered_checkpoints(folder / "checkpoints").checkpoints] == ["step_100.pt"]
    assert names["each"].step == 100


def test_every_section_is_tried():
    assert set(SECTIONS) == set(NAMES)


@pytest.mark.parametrize("section", NAMES)
def test_a_section_saves_a_checkpoint_with_its_sidecar_and_reads_it(section, introduced, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").mkdir()
    if section == "TorchEasyRec":
        distributed("model.ebc.embedding_bags.user.weight")({}, checkpoint_id="checkpoints/model.ckpt-100/model")
        write_dynamicemb(Path("checkpoints/model.ckpt-100/dynamicemb/model.ec"), "item", [Part(KEYS, ROWS)])
    (code,) = blocks(SECTIONS[section], "python")
    exec(compile(code, "checkpoints.md", "exec"), {**introduced[0], **NAMES[section]})
    (written,) = ordered_checkpoints(tmp_path / "checkpoints").checkpoints
    assert (written.error, written.step) == (None, 100), "the sidecar is where it is looked for"
    path = Path("checkpoints") / written.name
    (text,) = blocks(SECTIONS[section], "toml")
    ((name, table),) = parse_config(TOP.format(tmp_path) + text, section).models["shop"].tables.items()
    with open_checkpoint(path) as checkpoint:
        found = Reading(checkpoint, path).table(name, table)
        rows = found.read(0, np.empty((found.rows, found.dim), np.float32))
        if section not in REAL:
            order = [0, 2, 4, 1, 3, 5] if section == "DeepRec" else slice(None)
            assert np.array_equal(rows, ROWS[order])
            if table.keys is not None and section != "word2vec, GloVe, text":
                assert np.array_equal(found.keys(0, COUNT), KEYS[order])
    proposed = (
        parse_config(TOP.format(tmp_path) + toml_of("shop", inspect_checkpoint(path).tables), section).models["shop"].tables
    )
    asked = {field: getattr(table, field) for field in ("tensor", "vocabulary", "keys", "rows", "key_type")}
    assert asked in [{field: getattr(each, field) for field in asked} for each in proposed.values()], "inspect says the same"


def test_words_are_looked_up_by_what_they_hash_to(introduced, tmp_path):
    save_words(tmp_path / "items.bin", binary=True)
    with open_checkpoint(tmp_path / "items.bin") as checkpoint:
        table = parse_config(TOP.format(tmp_path) + blocks(SECTIONS["word2vec, GloVe, text"], "toml")[0], "page")
        found = Reading(checkpoint, tmp_path / "items.bin").table("items", table.models["shop"].tables["items"])
        texts = checkpoint.texts("keys", 0, COUNT)
        assert np.array_equal(found.keys(0, COUNT), hash_texts(texts))
        assert found.names(0, COUNT).to_pylist() == texts.to_pylist()


@pytest.mark.parametrize("section", ["DeepRec", "TorchEasyRec"])
def test_what_changed_is_read_by_the_same_config(section, tmp_path):
    (text,) = blocks(SECTIONS[section], "toml")
    ((name, table),) = parse_config(TOP.format(tmp_path) + text, section).models["shop"].tables.items()
    if section == "DeepRec":
        path = write_bundle(
            tmp_path / "model.ckpt-110",
            {f"user/part_{n}-sparse_incr_{column}": values[n : n + 1] for n in (0, 1)
             for column, values in (("keys", KEYS), ("values", ROWS))},
        )  # fmt: skip
    else:
        path = write_step(tmp_path, [[("ebc.user", int(KEYS[n]), ROWS[n] + 1) for n in (0, 1)] + [("ebc.user", 5, [0.0] * DIM)]])
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.partial
        read = Reading(checkpoint, path)
        assert read.table(name, table).keys(0, 2).tolist() == KEYS[:2].tolist()
        assert read.deleted(name, table).tolist() == ([] if section == "DeepRec" else [5])
