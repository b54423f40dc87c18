"""Slicing a checkpoint of 4 GiB as the snapshot DAG does it, over one task and over two, all in memory: by the tasks' own times.

One process may use every core by itself; what fan-out brings shows where each task has one core.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from penstock.pipeline.catalog.catalog import Actor, Catalog
from penstock.pipeline.config import Config, LogConfig, ModelConfig, StoreConfig, TableConfig
from penstock.pipeline.core.ids import Offset, Position, Positions
from penstock.pipeline.environment import open_environment
from penstock.pipeline.ports.local_store import LocalStore
from penstock.pipeline.ports.log_checks import LogSettings
from penstock.pipeline.ports.open_log import open_log
from penstock.pipeline.ports.wall_clock import system_clock
from penstock.pipeline.runs.publishing import Chosen, slice_part

from .checkpoint_files import TENSOR, write_pt
from .figures import Figure, median_ratio
from .tables import GIB_ROWS, write_table

ROUNDS = 4
ROWS = 4 * GIB_ROWS
MEMORY = Path("/dev/shm")
WARM_ROWS = 10_000
CORES = sorted(os.sched_getaffinity(0))
MODEL, TABLE, BUCKETS = "bench", "item", 1024


def run() -> list[Figure]:
    if not MEMORY.is_dir():
        return []
    with tempfile.TemporaryDirectory(prefix="penstock-bench-", dir=MEMORY) as scratch:
        folder = Path(scratch)
        write_table(folder / "table", ROWS)
        write_pt(folder / "table", folder)
        (folder / "table").unlink()
        (folder / "model.pt.penstock.json").write_text(json.dumps({"trained_through": "2026-01-01T00:00:00Z"}))
        taken: dict[int, list[float]] = {1: [], 2: []}
        rows: list[int] = []
        for number in range(-1, ROUNDS):  # what goes first would pay for memory that the machine has to give at all
            for parts in (1, 2) if number % 2 else (2, 1):
                cores = [*CORES[number % 2 :], *CORES[: number % 2]]  # they need not be alike
                tasks = _tasks(folder, f"run-{number}-{parts}", parts, cores)
                if number >= 0:
                    taken[parts].append(max(task["seconds"] for task in tasks))
                rows = [int(task["rows"]) for task in tasks]
    peer = f"one task: {statistics.median(taken[1]):.2f} s; rows of each: {', '.join(f'{count:,}' for count in rows)}"
    ratio = median_ratio(taken[2], taken[1])
    return [Figure("slice 4 GiB over two tasks, a core each", statistics.median(taken[2]), "s", peer, ratio, "ratio <= 0.65")]


def _tasks(folder: Path, name: str, parts: int, cores: list[int]) -> list[dict[str, float]]:
    """What each says of itself; all begin at one moment, warm."""
    _born(folder)
    started = []
    for part in range(1, parts + 1):
        command = [sys.executable, "-m", "bench.mapped_tasks", str(folder), name, str(part), str(parts)]
        task = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        os.sched_setaffinity(task.pid, {cores[(part - 1) % len(cores)]})
        started.append(task)
    for task in started:
        assert task.stdout is not None
        task.stdout.readline()
    found = [json.loads(said) for said in _answers(started)]
    for place in ("store", "log"):
        shutil.rmtree(folder / place)
    return found


def _answers(started: list[subprocess.Popen[str]]) -> list[str]:
    for task in started:
        assert task.stdin is not None
        task.stdin.write("go\n")
        task.stdin.flush()
    said = [task.communicate()[0] for task in started]
    if failed := [task.returncode for task in started if task.returncode]:
        raise RuntimeError(f"a task ended with {failed[0]}")
    return said


def _config(folder: Path) -> Config:
    return Config(
        store=StoreConfig(url=(folder / "store").as_uri()), log=LogConfig(url=(folder / "log").as_uri(), partitions=1),
        models={MODEL: ModelConfig(tables={TABLE: TableConfig(tensor=TENSOR)}, buckets=BUCKETS)},
    )  # fmt: skip


def _born(folder: Path) -> None:
    """A model without versions."""
    config = _config(folder)
    with closing(open_log(config.log.url, name=MODEL, partitions=1, create=LogSettings(retention_ms=-1))) as log:
        empty = Positions(log.identity, (Position(Offset(0), {}),))
        actor = Actor(who="bench", now=system_clock())
        Catalog.create(LocalStore(folder / "store"), MODEL, buckets=BUCKETS, positions=empty, actor=actor)


def _task(folder: Path, name: str, part: int, parts: int) -> None:
    """Slices a little, then its part when a line comes in, and says how long that took."""
    chosen = Chosen(path=str(folder / "model.pt"), run=name, parts=parts)
    with open_environment(_config(folder), MODEL) as env:
        slice_part(env, Chosen(path=chosen.path, run=f"{name}-warm-{part}", parts=ROWS // WARM_ROWS), 1)
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.perf_counter()
        rows = slice_part(env, chosen, part).rows
        print(json.dumps({"seconds": time.perf_counter() - began, "rows": rows}))


if __name__ == "__main__":
    _task(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
