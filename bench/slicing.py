"""Slicing a table of 1 GiB against copying the same bytes; the memory that slicing 4 GiB takes."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import threading
from pathlib import Path

from penstock.pipeline.ports.local_store import LocalStore
from penstock.slicer.slicing import slice_table

from .figures import Figure, alternating, median_ratio
from .tables import GIB_ROWS, LAYOUT, MappedRows, scratch_folder, write_table

ROUNDS = 5


def run() -> list[Figure]:
    with scratch_folder() as folder:
        return [_speed(folder), _memory(folder)]


def _speed(folder: Path) -> Figure:
    table, store = folder / "table", LocalStore(folder / "store")
    write_table(table, GIB_ROWS)
    source = MappedRows.of(table)
    slice_table(source, LAYOUT, store, "warm", stop=100_000)
    os.sync()

    def copy() -> None:
        subprocess.run(["cp", table, folder / "copy"], check=True)
        os.sync()

    def slice_it() -> None:
        slice_table(source, LAYOUT, store, "sliced")

    copied, sliced = alternating(ROUNDS, copy, slice_it, tidy=lambda: _remove(folder / "copy", folder / "store" / "sliced"))
    table.unlink()
    peer = f"cp + sync: {statistics.median(copied):.2f} s"
    ratio = median_ratio(sliced, copied)
    return Figure("slice 1 GiB, durable", statistics.median(sliced), "s", peer, ratio, "ratio <= 0.9")


def _memory(folder: Path) -> Figure:
    table = folder / "large"
    write_table(table, 4 * GIB_ROWS)
    command = [sys.executable, "-m", "bench.slicing", str(table), str(folder / "store")]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return Figure("memory to slice 4 GiB", peak / 1024, "MiB", "RssAnon + RssShmem, peak", None, "<= 256 MiB")


def _remove(copy: Path, sliced: Path) -> None:
    copy.unlink()
    shutil.rmtree(sliced)


def resident_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))


def _sliced_and_watched(table: str, store: str) -> int:
    """The peak while slicing, in KiB, looked at every 5 ms."""
    peak, done = 0, threading.Event()

    def work() -> None:
        try:
            slice_table(MappedRows.of(Path(table)), LAYOUT, LocalStore(Path(store)), "large")
        finally:
            done.set()

    threading.Thread(target=work).start()
    while not done.wait(0.005):
        peak = max(peak, resident_kib())
    return peak


if __name__ == "__main__":
    print(_sliced_and_watched(*sys.argv[1:3]))
