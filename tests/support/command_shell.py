"""A shell that runs commands in this process; and a small shop, published for real once and copied for every test."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from penstock.pipeline.cli import output
from penstock.pipeline.cli.main import run
from penstock.publishers import FRESH, Delivery

HEARS_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
COMMAND = (sys.executable, "-c", f"{HEARS_INTERRUPTS}; from penstock.pipeline.cli.main import main; main()")
"""In a process of its own, which is interrupted by SIGINT even where the tests were started in the background."""
CONFIG = """
[store]
url = "file://{folder}/store"
[log]
url = "file://{folder}/log"
partitions = 2
[replica]
drain_grace = "200ms"
[models.shop]
buckets = 16
[models.shop.tables.customer]
tensor = "customer"
[models.shop.tables.item]
keys = "item/keys"
rows = "item/rows"
"""
DIM = 4
ITEMS, CUSTOMERS = 12, 20


def at(minute):
    return f"2024-11-01T10:{minute:02}:00Z"


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self):
        assert (self.code, self.err) == (0, ""), self.err
        return json.loads(self.out)


@dataclass
class Shell:
    """`folder` holds the config, the store, the log and whatever is exported."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def config(self):
        return self.folder / "penstock.toml"

    def __call__(self, *arguments):
        self.capsys.readouterr()
        code = run([*map(str, arguments), "--config", str(self.config)])
        return Said(code, *self.capsys.readouterr())

    def json(self, *arguments):
        """What a command prints, which must be one document, with nothing on standard error."""
        return self(*arguments, "--json").json

    def live(self):
        refs = json.loads((self.folder / "store/shop/refs.json").read_bytes())
        return refs["refs"]["live"]["version"]

    def save(self, name, *, customers=None, items=None, keys=None):
        """A checkpoint, by default the newest one of the shop."""
        path = self.folder / name
        customers = rows(CUSTOMERS, 1.0) if customers is None else customers
        items = rows(ITEMS, 2.0) if items is None else items
        keys = np.arange(len(items)) * 10 if keys is None else keys
        np.savez(path, customer=customers, **{"item/keys": keys, "item/rows": items, "top.weight": np.ones((3, 2), np.float32)})
        return path


def rows(count, value):
    """float32[count, DIM] that tell their own number."""
    return (value + np.arange(count, dtype=np.float32)[:, None] / 100).repeat(DIM, axis=1)


def write_config(folder):
    (folder / "penstock.toml").write_text(CONFIG.format(folder=folder))


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Version 1: a snapshot up to 10:00. 2: item 30 is 7, up to 10:10. 3: item 50 is 9, up to 10:20."""
    folder = tmp_path_factory.mktemp("built")
    write_config(folder)
    shell = Shell(folder, None)
    customers, items = rows(CUSTOMERS, 1.0), rows(ITEMS, 2.0)
    with Delivery.open(folder / "penstock.toml", publisher="trainer-0", resume=FRESH) as delivery:
        delivery.publish_snapshot(shell.save("step_1.npz"), trained_through=at(0), why="the first")
        updates = delivery.updates()
        for step, minute, key, value in ((2, 10, 30, 7.0), (3, 20, 50, 9.0)):
            items[key // 10] = value
            updates.put("item", [key], items[key // 10][None], trained_through=at(minute))
            path = shell.save(f"step_{step}.npz", customers=customers, items=items)
            path.with_name(f"{path.name}.penstock.json").write_bytes(updates.mark(step=step).encode())
            delivery.publish_delta(path)
    return folder


def copied(built, folder):
    shutil.copytree(built, folder, dirs_exist_ok=True)
    write_config(folder)


@pytest.fixture
def shell(built, tmp_path, capsys):
    """A shell in a shop of three versions."""
    copied(built, tmp_path)
    return Shell(tmp_path, capsys)


@pytest.fixture
def empty(tmp_path, capsys):
    """A shell in a folder where no model was born."""
    write_config(tmp_path)
    return Shell(tmp_path, capsys)


@pytest.fixture(params=[80, 160])
def columns(request, monkeypatch):
    """The width of the terminal."""
    monkeypatch.setattr(output.stdout, "_width", request.param)
    return request.param
