"""A trainer as a process that may be killed at any moment and started again by the same command. It goes on from its last marked
checkpoint, and writes down durably what was acknowledged:

    python -m restarting_trainer CONFIG FOLDER RUN PACE_MS      until SIGTERM; then it finishes and ends

Each line of FOLDER/ledger: {"run", "step", "what", "shed", "version"}, `what` being "resumed", "flushed", "delta" or "done".
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from course import Course, rows_at, touched

from penstock.pipeline.core.checkpoint import Sidecar
from penstock.pipeline.core.errors import PenstockError
from penstock.publishers import FRESH, Delivery
from penstock.slicer.sidecar import find_sidecar, sidecar_path

MODEL, TABLE = "shop", "item"
FLUSH_EVERY, MARK_EVERY = 3, 100
EPOCH_US = 1_700_000_000_000_000
T = TypeVar("T")


class RestartingTrainer:
    def __init__(self, config: Path, folder: Path, run: int) -> None:
        self._folder, self._run = folder, run
        self._ledger = os.open(folder / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        newest = newest_checkpoint(folder)
        self._course = Course() if newest is None else loaded(newest)
        self._delivery = Delivery.open(config, publisher="trainer", resume=newest or FRESH, model=MODEL)
        self._updates = self._delivery.updates()
        if newest is None:  # nothing is marked yet, but there is something to come back to
            self._save(Sidecar(model=MODEL, state=str(self._updates.resumed_from)))
        self._write("resumed")

    def learn(self) -> None:
        step = self._course.step + 1
        keys, deleted = touched(step)
        rows, through = rows_at(keys, np.full(len(keys), step)), EPOCH_US + step * 1_000_000
        insisted(lambda: self._updates.put(TABLE, keys, rows, trained_through=through))
        if len(deleted):
            insisted(lambda: self._updates.delete(TABLE, deleted, trained_through=through))
        self._course.advance(step)
        if step % MARK_EVERY == 0:
            self.publish()
        elif step % FLUSH_EVERY == 0:
            insisted(self._updates.flush)
            self._write("flushed")

    def publish(self) -> None:
        sidecar = insisted(lambda: self._updates.mark(step=self._course.step))
        self._save(sidecar)
        arrays, dense = {TABLE: self._course.table()}, {"w": np.full(3, self._course.step, np.float32)}
        found = insisted(lambda: self._delivery.publish_delta(arrays, dense=dense, sidecar=sidecar))
        self._write("delta", found.version)

    def finish(self) -> None:
        self.publish()
        self._write("done")
        self._delivery.close()

    def _write(self, what: str, version: int = 0) -> None:
        line = {"run": self._run, "step": self._course.step, "what": what, "shed": self._updates.rows_shed, "version": version}
        os.write(self._ledger, json.dumps(line).encode() + b"\n")
        os.fsync(self._ledger)

    def _save(self, sidecar: Sidecar) -> None:
        """The sidecar last: a checkpoint without one is none."""
        path, course = self._folder / f"step_{self._course.step:06d}.npz", self._course
        whole = path.with_suffix(".partial")
        with whole.open("wb") as file:
            np.savez(file, step=course.step, put_at=course.put_at, deleted_at=course.deleted_at)
        whole.replace(path)
        whole.write_bytes(sidecar.encode())
        whole.replace(sidecar_path(path))


def newest_checkpoint(folder: Path) -> Path | None:
    return max((path for path in folder.glob("step_*.npz") if find_sidecar(path)), default=None)


def loaded(path: Path) -> Course:
    with np.load(path) as found:
        return Course(int(found["step"]), found["put_at"], found["deleted_at"])


def insisted(call: Callable[[], T]) -> T:
    """As a trainer does where the error says that trying again can help."""
    while True:
        try:
            return call()
        except PenstockError as error:
            if not error.retriable:
                raise
            print(f"{time.strftime('%T')} again: {error}", flush=True)


def main(config: str, folder: str, run: str, pace_ms: str) -> int:
    asked_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked_to_end.set())
    try:
        trainer = RestartingTrainer(Path(config), Path(folder), int(run))
        while not asked_to_end.wait(int(pace_ms) / 1000):
            trainer.learn()
        trainer.finish()
    except PenstockError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
