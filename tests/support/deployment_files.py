"""The files that deploy Penstock, as those read them who run them: Compose's own loader, and the API types of Kubernetes."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer.main
from servers.kafka import skip_or_fail

from penstock.examples.fleet.trainer import arguments
from penstock.pipeline.cli.main import app

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests/deploy/checker"
BUILT = ROOT / ".cache" / "servers"


@pytest.fixture(scope="session")
def checker(tmp_path_factory):
    """Runs the checker: what it said, and what it complained of. It is built once, and again when its source changes."""
    go = shutil.which("go")
    if go is None:
        skip_or_fail(AssertionError("deployment files are checked with a Go program, and go is not installed"))
    source = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCE.iterdir()))).hexdigest()[:16]
    binary = BUILT / f"checker-{source}"
    if not binary.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        fresh = tmp_path_factory.mktemp("checker") / "checker"
        command = [go, "build", "-p", "1", "-o", str(fresh), "."]
        done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode:
            skip_or_fail(AssertionError(f"the checker could not be built: {done.stderr.strip()[-300:]}"))
        shutil.copy(fresh, partial := binary.with_suffix(f".{os.getpid()}"))
        partial.replace(binary)

    def run(*given, environment=None):
        minimal = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")} | (environment or {})
        done = subprocess.run([binary, *given], cwd=ROOT, env=minimal, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout if done.returncode == 0 else None, done.stderr

    return run


def parsed(words):
    """The options of a command that a container runs, by the parser of who takes them. An error where it is no such command."""
    if words[0] == "penstock":
        command, rest, name = typer.main.get_command(app), list(words[1:]), "penstock"
        while hasattr(command, "commands"):
            name = rest.pop(0)
            command = command.commands[name]
        return name, command.make_context(name, rest).params
    assert words[:3] == ["python", "-m", "penstock.examples.fleet.trainer"], shlex.join(words)
    return "trainer", vars(arguments().parse_args(words[3:]))


def port_of(options):
    return int(options["listen"].rpartition(":")[2])


def objects(checker, *paths):
    """Those of Kubernetes in the files, by kind and name."""
    said, wrong = checker("kubernetes", *map(str, paths))
    assert said is not None, wrong
    return {(found["kind"], found["metadata"]["name"]): found for found in json.loads(said)}
