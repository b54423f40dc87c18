"""`penstock inspect`, as people and as scripts see it."""

import json
from pathlib import Path

import numpy as np
import pytest

from penstock.pipeline.cli import inspection
from penstock.pipeline.cli.main import run
from penstock.pipeline.config import parse_config

REAL = Path(__file__).parents[1] / "data" / "torch_dlrm_retail"
TOP = '[store]\nurl = "file:///s"\n[log]\nurl = "file:///l"\n'


@pytest.fixture
def inspect(capsys):
    def run_it(*arguments):
        capsys.readouterr()
        assert run(["inspect", *map(str, arguments)]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run_it


def save(path, **arrays):
    with path.open("wb") as file:
        np.savez(file, **arrays)


def test_people_see_what_would_be_sliced_how(inspect):
    shown = inspect(REAL / "step_0002.pt")
    line = next(line for line in shown.splitlines() if line.startswith("model.embeddings.customer.weight"))
    assert line.split()[1:8] == ["embedding", "float32", "2974×16", "2,974", "16", "185.9", "KiB"]
    assert line.rstrip().endswith("table customer, keys in ids.npz#customer")
    assert "43 of the optimizer" in shown
    assert "4 tables of 6,317 rows, 394.8 KiB; 8 tensors in the dense slice" in shown
    assert "optimizer.state.0.sum" in inspect(REAL / "step_0002.pt", "--all")
    tables = parse_config(TOP + shown.partition("proposed config\n")[2], "shown").models["NAME"].tables
    assert {name: table.vocabulary for name, table in tables.items()} == {
        "customer": "ids.npz#customer", "product": "ids.npz#product", "country": "ids.npz#country", "hour": None,
    }  # fmt: skip


def test_names_do_not_steer_the_terminal(inspect, tmp_path):
    name = "user_emb\x1b[2J\n\x9b31m\u202e[red]"
    save(tmp_path / "a.npz", **{name: np.ones((3, 2), np.float32)})
    shown = inspect(tmp_path / "a.npz")
    assert shown.replace("\n", "").isprintable()
    assert r"user_emb\x1b[2J\n\x9b31m\u202e[red]" in shown
    tables = parse_config(TOP + shown.partition("proposed config\n")[2], "shown").models["NAME"].tables
    assert [table.tensor for table in tables.values()] == [name]


def test_the_sidecar_is_told(inspect, tmp_path):
    save(tmp_path / "a.npz", user_emb=np.ones((3, 2), np.float32))
    assert "its sidecar" not in inspect(tmp_path / "a.npz")
    (tmp_path / "a.npz.penstock.json").write_text('{"step": 7, "state": "1-2", "trained_through": "2024-11-01T10:00:00Z"}')
    assert "its sidecar: step 7, state 1-2, trained through 2024-11-01T10:00:00Z\n" in inspect(tmp_path / "a.npz")
    (tmp_path / "a.npz.penstock.json").write_text('{"step": "seven"}')
    assert "its sidecar cannot be read: " in inspect(tmp_path / "a.npz")


def test_where_nothing_looks_like_a_table_it_says_so(inspect):
    assert "no tensor looks like an embedding" in inspect(REAL / "ids.npz")


def test_many_tables_are_not_all_proposed_at_once(inspect, tmp_path):
    count = inspection.FEW_TABLES + 3
    save(tmp_path / "a.npz", **{f"emb_{n:03}": np.ones((3, 2), np.float32) for n in range(count)})
    shown = inspect(tmp_path / "a.npz")
    assert shown.count("[models.NAME.tables.") == inspection.FEW_TABLES
    assert "# and 3 more, which --all shows" in shown
    assert inspect(tmp_path / "a.npz", "--all").count("[models.NAME.tables.") == count


def test_scripts_get_every_tensor_and_the_tables(inspect):
    found = json.loads(inspect(REAL / "step_0002.pt", "--json"))
    assert (found["format"], found["partial"], len(found["tensors"])) == ("pytorch", False, 59)
    assert [table["name"] for table in found["tables"]] == ["customer", "product", "country", "hour"]
    assert found["tables"][0]["config"] == {
        "tensor": "model.embeddings.customer.weight", "vocabulary": "ids.npz#customer",
    }  # fmt: skip


def test_brackets_in_names_are_brackets(inspect, tmp_path):
    save(tmp_path / "a[bold].npz", **{"[red]emb": np.ones((3, 2), np.float32)})
    shown = inspect(tmp_path / "a[bold].npz")
    assert "a[bold].npz: npz" in shown
    assert "[red]emb" in shown
    assert 'tensor = "[red]emb"' in shown


def test_a_folder_of_checkpoints_is_listed(inspect, tmp_path):
    save(tmp_path / "step_9.pt", user_emb=np.ones((3, 2), np.float32))
    save(tmp_path / "step_10.pt", user_emb=np.ones((4, 2), np.float32))
    (tmp_path / "step_11.pt").write_bytes((tmp_path / "step_10.pt").read_bytes()[:200])
    shown = inspect(tmp_path)
    assert "3 checkpoints, ordered by their names" in shown
    lines = [line for line in shown.splitlines() if line.startswith("step_")]
    assert [line.split()[0] for line in lines] == ["step_9.pt", "step_10.pt", "step_11.pt"]
    assert "user_emb grows (3 to 4)" in lines[1]
    assert "cannot be read: " in lines[2]
    assert f"penstock inspect {tmp_path}/step_10.pt shows its tensors" in shown
    found = json.loads(inspect(tmp_path, "--json"))
    assert [each["name"] for each in found["checkpoints"]] == ["step_9.pt", "step_10.pt", "step_11.pt"]
    assert found["checkpoints"][1]["changes"] == [{"table": "user_emb", "change": "grows", "before": [3, 2], "after": [4, 2]}]


def test_steps_are_shown_where_sidecars_say_them(inspect, tmp_path):
    for name, step in (("b.npz", 4), ("a.npz", 5)):
        save(tmp_path / name, user_emb=np.ones((3, 2), np.float32))
        (tmp_path / f"{name}.penstock.json").write_text(json.dumps({"step": step}))
    shown = inspect(tmp_path)
    assert "ordered by the steps in their sidecars" in shown
    assert [line.split()[:3] for line in shown.splitlines() if ".npz " in line][:2] == [
        ["b.npz", "npz", "4"],
        ["a.npz", "npz", "5"],
    ]
    assert "trained through" not in shown


def test_a_folder_of_one_is_that_one(inspect, tmp_path):
    (tmp_path / "step_1").mkdir()
    save(tmp_path / "step_1/model.npz", user_emb=np.ones((3, 2), np.float32))
    assert f"{tmp_path}/step_1: npz, 1 tensor" in inspect(tmp_path)


def test_sums_are_shown_with_a_line_each(inspect):
    shown = inspect(REAL / "step_0001.safetensors", "--checksums")
    sums = {tensor["name"]: tensor["sha256"] for tensor in json.loads(
        inspect(REAL / "step_0001.safetensors", "--checksums", "--json")
    )["tensors"]}  # fmt: skip
    squeezed = "".join(shown.split())
    assert all(name in squeezed for name in sums)
    assert all(sum_[:12] in squeezed for sum_ in sums.values())
