"""`inspect`, `publish`, `export`: from a checkpoint to a version and back, on real checkpoints and on small ones."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_shell import ITEMS, at
from safetensors.numpy import load_file

from penstock.pipeline.cli import care, output
from penstock.pipeline.cli.main import run
from penstock.publishers.fanout import PartDocument

REAL = Path(__file__).parents[1] / "data" / "torch_dlrm_retail"
TABLES = ("customer", "product", "country", "hour")
REAL_CONFIG = """
[models.shop]
buckets = 16
""" + "".join(f'[models.shop.tables.{name}]\ntensor = "model.embeddings.{name}.weight"\n' for name in TABLES)
THROUGH = ["2011-02-04T11:54:00Z", "2011-03-21T16:59:00Z"]


@pytest.fixture
def real(empty):
    text = empty.config.read_text()
    empty.config.write_text(text[: text.index("[models")] + REAL_CONFIG)
    return empty


def expected(step):
    with np.load(REAL / f"step_000{step}.expected.npz") as found:
        return {name: found[f"embeddings.{name}.weight"] for name in TABLES}


def test_a_real_checkpoint_goes_through_every_command(real):
    first = real.json("publish", "snapshot", REAL / "step_0001.pt", "--trained-through", THROUGH[0])
    assert first.items() >= {"version": 1, "kind": "snapshot", "state": "1-1", "base": 0, "tombstones": 0}.items()
    assert first["trained_through"] == THROUGH[0]
    assert set(first) == set(output.VersionDocument.__struct_fields__)
    second = real.json("publish", "delta", REAL / "step_0002.pt", "--trained-through", THROUGH[1], "--reason", "hourly")
    before, after = expected(1), expected(2)
    assert second["kind"] == "delta"
    assert second["rows"] == sum(int((before[name] != after[name]).any(axis=1).sum()) for name in TABLES)
    for version, tables in ((1, before), (2, after)):
        path = real.folder / f"{version}.parquet"
        assert real.json("export", version, "--table", "product", "--output", path) == {
            "version": version, "table": "product", "rows": len(tables["product"]),
        }  # fmt: skip
        read = pq.read_table(path)
        dim = tables["product"].shape[1]
        key, row = read.schema.types
        assert read.schema.names == ["key", "row"]
        assert key == pa.int64()
        assert pa.types.is_fixed_size_list(row)
        assert (row.list_size, row.value_type) == (dim, pa.float32())
        order = np.argsort(read["key"].to_numpy())
        rows = read["row"].combine_chunks().flatten().to_numpy().reshape(-1, dim)[order]
        assert np.array_equal(rows, tables["product"])
    assert real.json("verify", 2)["ok"]


@pytest.mark.parametrize(("kind", "load"), [("npz", np.load), ("safetensors", load_file)])
def test_an_exported_checkpoint_is_what_was_published(shell, kind, load):
    path = shell.folder / f"restart.{kind}"
    found = shell.json("export", "--format", kind, "--output", path)
    assert {each["table"]: each["rows"] for each in found} == {"customer": 20, "item": 12}
    assert all(set(each) == set(care.ExportDocument.__struct_fields__) for each in found)
    arrays, saved = load(path), np.load(shell.folder / "step_3.npz")
    for name in ("customer", "item/keys", "item/rows", "top.weight"):
        assert np.array_equal(arrays[name], saved[name])
    again = shell.json("publish", "delta", path)
    assert (again["version"], again["state"]) == (3, "1-3"), "its sidecar says which state it is"


def test_a_table_as_it_was_at_a_moment(shell):
    path = shell.folder / "before.parquet"
    shell.json("export", "--table", "item", "--before", "2024-11-01T10:20:00Z", "--output", path)
    table = pq.read_table(path).to_pydict()
    found = dict(zip(table["key"], (row[0] for row in table["row"]), strict=True))
    assert found[30] == 7.0, "put at 10:10"
    assert found[50] == pytest.approx(2.05), "put at 10:20"


def test_a_delta_from_the_log(shell):
    assert shell.json("publish", "delta", "--from-log")["version"] == 3
    assert shell("publish", "delta", "--from-log", "--touched", "x.npz").code == 2


def test_touched_keys_are_all_that_is_published(empty):
    empty.json("publish", "snapshot", empty.save("a.npz"), "--trained-through", "2024-11-01T10:00:00Z")
    items = np.full((12, 4), 5, np.float32)
    np.savez(empty.folder / "touched.npz", item=np.array([10, 20]), customer=np.array([3]))
    found = empty.json(
        "publish", "delta", empty.save("b.npz", items=items), "--touched", empty.folder / "touched.npz",
        "--trained-through", "2024-11-01T10:01:00Z", "--no-promote",
    )  # fmt: skip
    assert (found["rows"], found["source"], found["refs"]) == (3, "touched", [])
    assert empty.live() == 1


def test_parts_are_joined_into_one_version(empty):
    path, run = empty.save("a.npz"), ("--run", "nightly")
    through = ("--trained-through", "2024-11-01T10:00:00Z")
    part = empty.json("publish", "snapshot", path, "--part", "1/2", *run, *through)
    assert set(part) == set(PartDocument.__struct_fields__)
    missing = empty("publish", "commit", *run)
    assert missing.code == 3
    assert empty.live() == 0
    assert "publish commit --run nightly" in empty("publish", "snapshot", path, "--part", "2/2", *run, *through).out
    joined = empty.json("publish", "commit", *run)
    assert (joined["version"], joined["rows"], joined["kind"]) == (1, 32, "snapshot")
    assert empty("publish", "commit", "--run", "weekly").code == 5
    for wrong in (("--part", "1/2"), ("--run", "x"), ("--part", "3/2", "--run", "x"), ("--part", "a/b", "--run", "x")):
        assert empty("publish", "snapshot", path, *wrong, *through).code == 2


def test_people_can_read_what_was_published(empty, columns):
    said = empty("publish", "snapshot", empty.save("a.npz"), "--trained-through", "2024-11-01T10:00:00Z")
    assert (said.code, said.err) == (0, "")
    assert max(map(len, said.out.splitlines())) <= columns
    assert "snapshot" in said.out


@pytest.mark.parametrize(
    "wrong",
    [(), ("--table", "item"), ("--output", "x"), ("--output", "x", "--table", "item", "--format", "npz"),
     ("--output", "x", "--format", "pickle"), ("--output", "x", "--format", "npz", "--before", "2024-11-01T10:00:00Z")],
)  # fmt: skip
def test_an_export_that_makes_no_sense_is_refused(shell, wrong):
    said = shell("export", *wrong)
    assert said.code == 2
    assert said.err.startswith("error: ")


def test_inspect_names_every_tensor(capsys):
    assert run(["inspect", str(REAL / "step_0001.safetensors"), "--checksums", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    tensors = load_file(REAL / "step_0001.safetensors")
    assert found["format"] == "safetensors"
    assert {each["name"] for each in found["tensors"]} == set(tensors)
    for each in found["tensors"]:
        tensor = tensors[each["name"]]
        assert each["shape"] == list(tensor.shape)
        assert each["dtype"] == str(tensor.dtype)
        assert each["role"] in ("dense", "embedding", "optimizer", "other")
        assert each["sha256"] == hashlib.sha256(tensor.tobytes()).hexdigest()
    assert run(["inspect", str(REAL / "step_0001.pt")]) == 0
    shown = capsys.readouterr().out
    assert '[models.NAME.tables.product]\ntensor = "model.embeddings.product.weight"' in shown
    assert "of the optimizer" in shown


def test_an_archived_checkpoint_comes_back_as_it_was(shell):
    refused = shell("export", "--format", "archive", "--output", shell.folder / "restart")
    assert refused.code == 5
    assert "no archived checkpoint" in refused.err
    shell.config.write_text(shell.config.read_text().replace("[models.shop]\n", '[models.shop]\noptimizer = "archive"\n'))
    saved = shell.save("step_4.npz")
    version = shell.json("publish", "snapshot", saved, "--trained-through", "2024-11-01T10:30:00Z")["version"]
    found = shell.json("export", "--format", "archive", "--output", shell.folder / "restart")
    assert (found if isinstance(found, dict) else found[0])["version"] == version
    assert (shell.folder / "restart/step_4.npz").read_bytes() == saved.read_bytes()
    assert (shell.folder / "restart/step_4.npz.penstock.json").exists()


def test_what_becomes_of_tables_is_said_on_standard_error(shell):
    """A snapshot with another dim, a delta that clears what was before, and a table that is retired."""
    wide = np.repeat(np.arange(ITEMS, dtype=np.float32)[:, None], 6, axis=1)
    path = shell.save("wide.npz", items=wide)
    told = shell("publish", "delta", path, "--trained-through", at(30))
    assert (told.code, told.out) == (3, "")
    assert "table item: dim 6 was asked for, it has dim 4" in told.err
    assert "penstock publish snapshot" in told.err
    told = shell("publish", "snapshot", path, "--trained-through", at(30), "--json")
    assert (told.code, told.err) == (0, "table item: dim 4 becomes 6\n")
    assert json.loads(told.out)["kind"] == "snapshot"
    assert shell.json("history")[-2]["why"] == "table item: dim 4 becomes 6"
    assert shell.json("status")["tables"]["item@2"] == {"dim": 6, "codec": "float32"}
    output_path = shell.folder / "item.parquet"
    for version, dim in ((3, 4), (4, 6)):
        assert shell.json("export", version, "--table", "item", "--output", output_path)["rows"] == ITEMS
        assert pq.read_schema(output_path).field("row").type.list_size == dim
    assert {entry["table"] for entry in shell.json("trace", "--table", "item", 30)} == {"item", "item@2"}
    assert "item@2" in shell("trace", "--table", "item", 30).out

    shell.config.write_text(shell.config.read_text() + "retired = true\n")
    told = shell("publish", "delta", path, "--trained-through", at(40), "--json")
    assert (told.code, told.err) == (0, "table item is retired\n")
    assert json.loads(told.out)["tombstones"] == 2 * ITEMS
    done = shell.json("rollback", "--to-version", 3, "--table", "item", "--reason", "kept after all", "--wait", "0s")
    assert done["plan"]["tables"] == ["item", "item@2"]
    assert shell.json("export", "--table", "item", "--output", output_path)["rows"] == ITEMS
    assert shell.json("verify")["ok"]
