"""What the README shows works: its commands parse, its config is one, and its main path is run from end to end."""

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import typer.main

from penstock.pipeline.cli.main import app, run
from penstock.pipeline.config import load_config, parse_config
from penstock.pipeline.environment import open_environment
from penstock.serving.replica import Replica
from penstock.serving.server import Server

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("*/README.md"), ROOT / "examples/retail/README.md"]
CUSTOMERS = 18000
ADDRESSES = ("grpc://replica-0:8815", "grpc://replica-1:8815")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def shell_lines(text):
    """The arguments of every command in the blocks of a page."""
    for block in blocks(text, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.rstrip("& "), comments=True)
            if words[:1] == ["penstock"]:
                yield words[1:]


def all_lines():
    return sorted({tuple(words) for page in PAGES for words in shell_lines(page.read_text())})


@pytest.mark.parametrize("words", all_lines(), ids=" ".join)
def test_every_command_that_is_shown_parses(words):
    command, rest, name = typer.main.get_command(app), list(words), "penstock"
    while hasattr(command, "commands"):
        name = rest.pop(0)
        command = command.commands[name]
    assert command.make_context(name, rest).params


def test_commands_in_running_text_exist():
    """`penstock x` in backticks, with options or without."""
    group = typer.main.get_command(app)
    for page in PAGES:
        for said in re.findall(r"`penstock ([^`]+)`", page.read_text()):
            command, rest = group, shlex.split(said)
            while hasattr(command, "commands") and rest and rest[0].isalpha():
                assert rest[0] in command.commands, f"{page.name}: penstock {said}"
                command = command.commands[rest.pop(0)]
            known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            for option in rest:
                assert not option.startswith("--") or option in known, f"{page.name}: penstock {said}"


@pytest.mark.parametrize("block", blocks(README, "toml"))
def test_its_config_is_one(block):
    config = parse_config(block, "README.md")
    assert set(config.models["retail"].tables) == {"customer", "item"}


@pytest.mark.parametrize("page", [*PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_its_code_compiles(page):
    for number, block in enumerate(blocks(page.read_text(), "python")):
        compile(block, f"{page.name}, block {number}", "exec")


def test_its_targets_of_make_exist():
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = re.findall(r"^make (\w+)", "\n".join(blocks(README, "sh")), re.MULTILINE) + re.findall(r"`make (\w+)`", README)
    assert shown
    assert set(shown) <= known


def save(path, customers, items):
    with path.open("wb") as file:
        keys = np.arange(len(items)) * 7
        np.savez(file, **{"model.embeddings.customer.weight": customers, "item/keys": keys, "item/rows": items})


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the README's config and checkpoints; its times lie in the past, whenever this runs."""
    text = blocks(README, "toml")[0].replace("file:///srv/penstock", f"file://{tmp_path}/penstock")
    (tmp_path / "penstock.toml").write_text(text)
    (tmp_path / "checkpoints").mkdir()
    customers = np.arange(2.0 * CUSTOMERS, dtype=np.float32).reshape(-1, 2)
    items = np.ones((100, 3), np.float32)
    save(tmp_path / "checkpoints/step_100.pt", customers, items)
    customers[13047] = 5
    save(tmp_path / "checkpoints/step_101.pt", customers, items)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PENSTOCK_CONFIG", raising=False)
    return tmp_path


def past(words):
    return [re.sub(r"^2026-", "2024-", word) for word in words]


def test_its_main_path_works(place, capsys):
    """Every command of the README in its order, but for those that wait for ever; then its Python, against a replica."""
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL))
    deliver = list(shell_lines(sections["Deliver a model"]))
    publishing = [words for words in deliver if words[0] == "publish"]
    assert [words[1] for words in publishing] == ["snapshot", "delta"]
    for words in publishing:
        assert run(past(words)) == 0, capsys.readouterr().err
    with open_environment(load_config(Path("penstock.toml")), "retail") as env:
        replica = Replica(env, name="replica-0")
        server = Server(replica, host="127.0.0.1", port=0)
        replica.address = server.address
        replica.start()
        replica.report()
        try:
            for words in deliver:
                if words[0] not in ("publish", "replica"):
                    assert run(words) == 0, capsys.readouterr().err
            assert "5 5" in capsys.readouterr().out, "what step_101 has changed"
            trainer, service = blocks(sections["Deliver a model"], "python")
            train(trainer, place)
            serve(service, server.address)
            for words in shell_lines(sections["See the lag, roll back"]):
                if "--watch" not in words:
                    assert run(past(words)) == 0, capsys.readouterr().err
            said = capsys.readouterr().out
            assert "replica-0 confirms" in said
            assert (place / "restart.safetensors").exists()
            assert (place / "restart.safetensors.penstock.json").exists()
        finally:
            replica.close()
            server.shutdown()


def train(block, place):
    """What the trainer's process does, with what it has at hand."""
    names = {
        "keys": np.array([1, 2]), "rows": np.full((2, 2), 9, np.float32), "gone": np.array([3]),
        "newest_event": "2024-11-21T10:20:00Z",
        "save_checkpoint": lambda path: save(Path(path), np.full((CUSTOMERS, 2), 9, np.float32), np.ones((100, 3), np.float32)),
    }  # fmt: skip
    exec(compile(block, "README.md", "exec"), names)
    assert (names["sidecar"].step, names["sidecar"].model) == (101, "retail")


def serve(block, address):
    for url in ADDRESSES:
        assert url in block
        block = block.replace(url, address)
    names = {"keys": np.array([1, 2, -1])}
    exec(compile(block, "README.md", "exec"), names)
    assert names["found"].tolist() == [True, True, False]
    names["client"].close()


def test_it_is_what_the_package_says(capsys):
    """The first lines of the help, and of the page."""
    assert run(["--help"]) == 0
    assert "Continuous delivery of recommendation models" in capsys.readouterr().out
    assert README.splitlines()[2].startswith("**Continuous delivery of recommendation models.**")


def test_make_help_lists_what_the_readme_says():
    said = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True, timeout=60).stdout
    for target in ("demo", "test", "check"):
        assert f"make {target}" in said
