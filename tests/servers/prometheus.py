"""A real Prometheus, and promtool, from the PATH (on Debian: apt-get install prometheus). Missing, a test fails in CI and is
skipped elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from .s3 import free_port

START_S, END_S = 120.0, 10.0


def executable(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing = f"{name} is not installed (on Debian: apt-get install prometheus)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    return found


@pytest.fixture(scope="session")
def promtool():
    """Runs promtool in a folder; what it said, and whether all was well."""
    path = executable("promtool")

    def run(*arguments, cwd):
        done = subprocess.run([path, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode == 0, done.stdout + done.stderr

    return run


@dataclass(frozen=True)
class Prometheus:
    url: str

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """The labels and values of an instant query."""
        with urllib.request.urlopen(f"{self.url}/api/v1/query?query={urllib.parse.quote(expr)}", timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        return {labels["alertname"] for labels, _ in self.query('ALERTS{alertstate="firing"}')}

    def targets(self) -> dict[str, str]:
        """The health of each target, by address."""
        with urllib.request.urlopen(f"{self.url}/api/v1/targets", timeout=10) as answer:
            active = json.load(answer)["data"]["activeTargets"]
        return {each["labels"]["instance"]: each["health"] for each in active}


@contextmanager
def running_prometheus(folder: Path, config: Path) -> Iterator[Prometheus]:
    """With `config` and its data in `folder`, until it is left."""
    path, port = executable("prometheus"), free_port()
    command = [
        path,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with open(folder / "prometheus.log", "wb") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        _await_ready(f"http://127.0.0.1:{port}/-/ready", server, folder / "prometheus.log")
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(END_S)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _await_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while True:
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2):
            return
        if server.poll() is not None or time.monotonic() > until:
            raise AssertionError(f"prometheus did not start: {log.read_text()[-2000:]}")
        time.sleep(0.05)
