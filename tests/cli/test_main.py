"""The command line as a whole: help, exit codes, one line and a hint for every failure, and what is loaded for what."""

import errno
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from penstock.pipeline.cli import main, moves, output
from penstock.pipeline.cli.main import app, run
from penstock.pipeline.cli.reference import PRINTS, reference
from penstock.pipeline.core import errors
from penstock.pipeline.core.errors import CommitConflict, Corrupt, InvalidInput, NotFound, PenstockError, StorageFull, Unreachable

ROOT = Path(__file__).parents[2]


def commands(group=None, name=()):
    for short, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*name, short))
        else:
            yield (*name, short)


@pytest.mark.parametrize("command", [(), ("publish",), *commands()], ids=" ".join)
@pytest.mark.parametrize("width", [80, 140])
def test_help_is_plain_and_fits(command, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERMINAL_WIDTH", str(width))
    assert run([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: {' '.join(('penstock', *command))} " in shown
    assert not re.search(r"\[/?(dim|bold|red|green)?\]", shown), "markup is read, not shown"
    assert max(map(len, shown.splitlines())) <= width


def test_every_command_has_an_example():
    for command in commands():
        assert f"\npenstock {' '.join(command)}" in reference().split(f"### penstock {' '.join(command)}\n")[1]


def test_the_reference_says_what_the_code_does():
    assert (ROOT / "docs/cli.md").read_text() == reference(), "python -m penstock.pipeline.cli.reference > docs/cli.md"


def test_the_reference_knows_what_every_command_prints():
    with_json = {" ".join(c) for c in commands() if c not in {("replica",), ("exporter",)}}
    assert {name.partition(" --")[0] for name in PRINTS} == with_json


def test_the_version(capsys):
    assert run(["--version"]) == 0
    assert re.fullmatch(r"penstock \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["versions", "--nonsense"], "No such option: --nonsense"),
        (["promote"], "Missing argument"),
        (["promote", "x"], "valid integer"),
        (["lookup", "1"], "Missing option '--table'"),
        (["freeze"], "Missing option '--reason'"),
    ],
)
def test_wrong_usage_is_code_2(arguments, says, capsys):
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert says in said.err
    assert said.err.startswith("error: ")


def test_a_group_without_a_command_shows_its_help(capsys):
    assert run(["publish"]) == 2
    said = capsys.readouterr()
    assert "snapshot" in said.out + said.err
    assert "error" not in said.err


EVERY = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, PenstockError)
]  # fmt: skip


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_error_is_one_line_and_a_hint(kind, monkeypatch, capsys):
    def fail(*_):
        raise kind("table [item]\nis broken", hint="look [there]")

    monkeypatch.setattr(moves, "stored", fail)
    assert run(["versions"]) == kind.exit_code
    assert capsys.readouterr().err.splitlines() == ["error: table [item] is broken", "hint: look [there]"]


@pytest.mark.parametrize(
    ("kind", "code"),
    [(PenstockError, 1), (InvalidInput, 2), (Corrupt, 3), (CommitConflict, 4), (NotFound, 5), (Unreachable, 6), (StorageFull, 6)],
)  # fmt: skip
def test_exit_codes_are_those_of_the_interface(kind, code):
    assert kind.exit_code == code


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk"), 6, "No space left on device: /disk"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "/root"), 1, "Permission denied: /root"),
        (RuntimeError("[surprise]"), 1, "RuntimeError: [surprise]"),
    ],
)
def test_no_failure_shows_a_traceback(raised, code, says, monkeypatch, capsys):
    def fail(*_):
        raise raised

    monkeypatch.delenv("PENSTOCK_TRACEBACK", raising=False)
    monkeypatch.setattr(moves, "stored", fail)
    assert run(["versions"]) == code
    said = capsys.readouterr().err
    assert said.splitlines()[0] == f"error: {says}"
    assert "Traceback" not in said


def test_an_interrupt_ends_it_quietly(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(moves, "stored", interrupt)
    assert run(["versions"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_shows_where_on_request(monkeypatch):
    monkeypatch.setenv("PENSTOCK_TRACEBACK", "1")
    monkeypatch.setattr(moves, "stored", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(["versions"])


MAIN = "from penstock.pipeline.cli.main import main; main()"
LOADED = """
import json, sys
from penstock.pipeline.cli.main import run
code = run(sys.argv[1:])
print(json.dumps([code, sorted({name.split(".")[0] for name in sys.modules})]), file=sys.stderr)
"""


@pytest.mark.parametrize("command", [["--help"], ["versions"], ["history"], ["pin", "2"]], ids=lambda c: c[0])
def test_simple_commands_load_no_compiler_and_no_client(command, shell):
    arguments = command if command == ["--help"] else [*command, "--config", str(shell.config)]
    said = subprocess.run([sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=True, timeout=120)
    code, loaded = json.loads(said.stderr)
    assert code == 0
    assert not {"numba", "llvmlite", "pyarrow", "boto3", "kafka", "matplotlib"} & set(loaded)


def test_a_reader_that_has_enough_sees_no_error(shell):
    read, write = os.pipe()
    os.close(read)
    said = subprocess.run(
        [sys.executable, "-c", MAIN, "versions", "--json", "--config", shell.config],
        stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=120,
    )  # fmt: skip
    os.close(write)
    assert (said.returncode, said.stderr) == (1, "")


def test_the_config_is_found_as_documented(shell, monkeypatch, capsys):
    monkeypatch.setenv("PENSTOCK_CONFIG", str(shell.config))
    assert run(["versions", "--json"]) == 0
    monkeypatch.delenv("PENSTOCK_CONFIG")
    monkeypatch.chdir(shell.folder)
    assert run(["versions", "--json"]) == 0
    monkeypatch.chdir(ROOT / "tests")
    capsys.readouterr()
    assert run(["versions"]) == 5
    assert "PENSTOCK_CONFIG" in capsys.readouterr().err


def test_a_model_must_be_named_where_there_are_two(shell):
    with shell.config.open("a") as file:
        file.write("[models.other]\n")
    assert shell("versions").code == 2
    assert "other, shop" in shell("versions").err
    assert shell.json("versions", "--model", "shop")[-1]["version"] == 3
    assert shell("versions", "--model", "third").code == 2
    assert shell("versions", "--model", "other").code == 5


def test_main_exits_with_the_code(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["penstock", "nonsense"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2


def test_numbers_and_sizes_are_for_people():
    assert [output.human_bytes(n) for n in (0, 1023, 1024, 1.5 * 2**20, 2**40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 MiB",
        "1.0 TiB",
    ]
    assert [output.human_seconds(s) for s in (None, 1.25, 600, 10_000, 400_000)] == ["–", "1.2 s", "10.0 min", "2.8 h", "4.6 d"]


def test_spare_columns_go_first_where_it_is_narrow():
    rows = [("a" * 10, "b" * 10, "1,000")]
    columns = ["one", "two", "three"]
    kept = [
        [column.header for column in output.fitting_table(columns, rows, spare=("two", "one"), width=width).columns]
        for width in (40, 29, 28, 17, 16)
    ]
    assert kept == [columns, columns, ["one", "three"], ["one", "three"], ["three"]]
