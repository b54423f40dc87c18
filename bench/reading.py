"""Slicing a table of 2 GiB out of checkpoints of several formats, against `cp` and `sync` of the same files: the time, the
memory, and what two processes make of two parts."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from penstock.pipeline.config import ModelConfig, TableConfig
from penstock.pipeline.ports.local_store import LocalStore
from penstock.publishers.sources import checkpoint_source
from penstock.slicer.slicing import slice_table

from .checkpoint_files import TENSOR, WRITERS
from .figures import Figure, alternating, median_ratio
from .slicing import resident_kib
from .tables import GIB_ROWS, LAYOUT, scratch_folder, write_table

ROUNDS = 3
ROWS = 2 * GIB_ROWS
MODEL = ModelConfig(tables={"bench": TableConfig(tensor=TENSOR)})
MEMORY = Path("/dev/shm")


def run() -> list[Figure]:
    figures = []
    for kind in WRITERS:
        with scratch_folder() as folder:
            checkpoint = _written(kind, folder)
            figures += [*_on_disk(kind, checkpoint, folder), *_in_memory(kind, checkpoint)]
    return figures


def _written(kind: str, folder: Path) -> Path:
    table, files = folder / "table", folder / "files"
    files.mkdir()
    write_table(table, ROWS)
    subprocess.run([sys.executable, "-m", "bench.checkpoint_files", kind, str(table), str(files)], check=True)
    table.unlink()
    os.sync()
    return files / WRITERS[kind][1]


def _on_disk(kind: str, checkpoint: Path, folder: Path) -> list[Figure]:
    files = checkpoint.parent

    def copy() -> None:
        subprocess.run(["cp", "-r", files, folder / "copy"], check=True)
        os.sync()

    def parts(count: int) -> float:
        with _Workers(checkpoint, folder / "store", count) as workers:
            return workers.seconds()

    copied: list[float] = []
    whole: list[float] = []
    halves: list[float] = []
    peaks: list[int] = []
    for _ in range(ROUNDS):
        copied += alternating(1, copy, tidy=lambda: shutil.rmtree(folder / "copy"))[0]
        with _Workers(checkpoint, folder / "store", 1) as workers:
            whole.append(workers.seconds())
            peaks.append(workers.peak_kib)
        halves.append(parts(2))
    peer = f"cp + sync: {statistics.median(copied):.2f} s"
    return [
        Figure(f"{kind}: slice 2 GiB", statistics.median(whole), "s", peer, median_ratio(whole, copied), "ratio <= 1.2"),
        Figure(f"{kind}: two parts at once", statistics.median(halves), "s", peer, median_ratio(halves, copied), "ratio <= 1.2"),
        Figure(f"{kind}: memory", max(peaks) / 1024, "MiB", "RssAnon + RssShmem, peak", None, "<= 256 MiB"),
    ]


def _in_memory(kind: str, checkpoint: Path) -> list[Figure]:
    """One process may use every core by itself; what fan-out brings shows where each process has one core."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-", dir=MEMORY) as scratch:
        files = Path(scratch) / "files"
        shutil.copytree(checkpoint.parent, files)
        figures = []
        for cores, target in ((1, "ratio <= 0.65"), (None, "")):
            taken: dict[int, list[float]] = {1: [], 2: []}
            for _ in range(ROUNDS):
                for count, found in taken.items():
                    with _Workers(files / checkpoint.name, Path(scratch) / "store", count, cores) as workers:
                        found.append(workers.seconds())
            with_cores = "a core each" if cores else "all cores"
            name = f"{kind}: two parts on tmpfs, {with_cores}"
            peer = f"one process: {statistics.median(taken[1]):.2f} s"
            figures.append(Figure(name, statistics.median(taken[2]), "s", peer, median_ratio(taken[2], taken[1]), target))
        return figures


class _Workers:
    """Processes that slice a part each, warm, and all begin at one moment; on so many cores of their own, or on any (None)."""

    def __init__(self, checkpoint: Path, store: Path, count: int, cores: int | None = None) -> None:
        self._store, self._started = store, []
        command, free = [sys.executable, "-m", "bench.reading", str(checkpoint), str(store)], sorted(os.sched_getaffinity(0))
        for part in range(count):
            worker = subprocess.Popen([*command, str(part), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            if cores is not None:
                os.sched_setaffinity(worker.pid, free[part * cores : (part + 1) * cores] or free)
            self._started.append(worker)
        self.peak_kib = 0

    def __enter__(self) -> _Workers:
        for worker in self._started:
            assert worker.stdout is not None
            worker.stdout.readline()
        return self

    def seconds(self) -> float:
        began = time.perf_counter()
        for worker in self._started:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker in self._started:
            assert worker.stdout is not None
            self.peak_kib = max(self.peak_kib, int(worker.stdout.readline()))
        return time.perf_counter() - began

    def __exit__(self, *_: object) -> None:
        for worker in self._started:
            worker.communicate()
        shutil.rmtree(self._store)


def _work(checkpoint: str, folder: str, part: int, of: int) -> None:
    """Slices a part when a line comes in; prints the peak of its memory, in KiB, looked at every 5 ms."""
    store, peak, done = LocalStore(Path(folder)), 0, threading.Event()
    with checkpoint_source(Path(checkpoint), MODEL) as source:
        table = source.tables["bench"]
        slice_table(table, LAYOUT, store, f"warm-{part}", stop=10_000)
        print("ready", flush=True)
        sys.stdin.readline()

        def slice_part() -> None:
            try:
                slice_table(table, LAYOUT, store, "sliced", start=table.rows * part // of, stop=table.rows * (part + 1) // of)
            finally:
                done.set()

        threading.Thread(target=slice_part).start()
        while not done.wait(0.005):
            peak = max(peak, resident_kib())
    print(peak, flush=True)


if __name__ == "__main__":
    _work(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
