"""A trainer and two replicas as processes that are killed with -9 and started again by one command each, as a supervisor does;
and what must hold of the rows that the trainer's ledger says were acknowledged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from course import KEYS, Course, rows_at, touched
from restarting_trainer import MODEL, TABLE

from penstock.pipeline.config import load_config
from penstock.pipeline.core.errors import Unreachable
from penstock.pipeline.environment import open_environment
from penstock.publishers.verification import verify
from penstock.serving.client import Client
from penstock.serving.replica import Replica

WAIT_S = 180.0
LOOK_S = 0.02
ALL_KEYS = np.arange(KEYS)
T = TypeVar("T")


def say(what: str) -> None:
    """The order of events, for whoever reads why a test failed."""
    print(f"{time.strftime('%T')} {what}")


@dataclass
class Program:
    """One process of a command that is always the same, but for the number of the run; in a session of its own."""

    name: str
    command: Callable[[int], list[str]]
    folder: Path
    run: int = 0
    kills: int = 0
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.run += 1
        say(f"{self.name} starts, run {self.run}")
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(self.run), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}
            )

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self.kills += 1
        say(f"{self.name} was killed")

    def end(self) -> int:
        """By SIGTERM; the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(WAIT_S)

    def tend(self) -> None:
        """A supervisor's round: what ended as nothing answered is started again; whatever else it ends with is a failure."""
        code = None if self._process is None else self._process.poll()
        if code == Unreachable.exit_code:
            self.start()
        assert code in {None, 0, Unreachable.exit_code}, f"{self.name} ended with {code}:\n{self.tail()}"

    def tail(self) -> str:
        return (self.folder / f"{self.name}.log").read_text(errors="replace")[-3000:]

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@dataclass
class Owed:
    """What a reader must find, by the trainer's ledger: of each key the row of step `since[key]` or of a later one that wrote it.

    A trainer that comes back from a checkpoint writes its steps from there on again, so a row may be as old as that for a while;
    and rows that were shed are owed from the next delta on."""

    path: Path
    since: np.ndarray = field(default_factory=lambda: np.zeros(KEYS, np.int64))
    lines: list[dict] = field(default_factory=list)
    _clean: bool = True
    _before: dict = field(default_factory=dict)

    def read(self) -> None:
        """Reads on in the ledger."""
        text = self.path.read_text() if self.path.exists() else ""
        for line in text.splitlines(keepends=True)[len(self.lines) :]:
            if line.endswith("\n"):
                self._take(json.loads(line))

    def _take(self, line: dict) -> None:
        before, step = self._before, line["step"]
        if line["what"] == "resumed":
            self.since = np.minimum(self.since, course_at(step).touched_at)
        elif line["what"] == "delta":
            self.since = np.maximum(self.since, course_at(step).touched_at)
        elif line["shed"] == before["shed"]:
            for each in range(before["step"] + 1, step + 1):
                self.since[np.concatenate(touched(each))] = each
        self._before = line
        self.lines.append(line)

    def missing(self, rows: np.ndarray, found: np.ndarray) -> list[str]:
        """What is wrong with the rows float32[KEYS, DIM], found bool[KEYS], of all keys."""
        steps = np.where(found, rows[:, 0], 0).astype(np.int64)
        wrong = [f"key {k} torn: {rows[k]}" for k in np.flatnonzero(found & (rows != rows_at(ALL_KEYS, steps)).any(axis=1))]
        wrong += [f"key {k}: step {steps[k]}, owed {self.since[k]}" for k in np.flatnonzero(found & (steps < self.since))]
        newest = course_at(max((line["step"] for line in self.lines), default=0) + 500)
        gone = ~found & (self.since > 0) & (newest.deleted_at < self.since)
        return wrong + [f"key {k} is not there, owed the row of step {self.since[k]}" for k in np.flatnonzero(gone)]


_courses: dict[int, Course] = {}


def course_at(step: int) -> Course:
    """The state after a step; those before are remembered, as it only goes forward."""
    start = max((known for known in _courses if known <= step), default=0)
    course = Course() if not start else Course(start, *(a.copy() for a in (_courses[start].put_at, _courses[start].deleted_at)))
    course.advance(step)
    return _courses.setdefault(step, course)


class Turmoil:
    """The processes, and the work of their supervisor."""

    def __init__(self, folder: Path, config: Path, ports: list[int], *, pace_ms: int) -> None:
        self.config = load_config(config)
        shown, main = str(config), "from penstock.pipeline.cli.main import main; main()"
        trainer = [sys.executable, "-m", "restarting_trainer", shown, str(folder)]
        self.trainer = Program("trainer", lambda run: [*trainer, str(run), str(pace_ms)], folder)
        self.replicas = {
            f"grpc://127.0.0.1:{port}": Program(f"replica-{port}", self._replica(main, shown, port), folder) for port in ports
        }
        self.owed = Owed(folder / "ledger")

    @staticmethod
    def _replica(main: str, config: str, port: int) -> Callable[[int], list[str]]:
        listen = ["--listen", f"127.0.0.1:{port}", "--name", f"replica-{port}"]
        return lambda run: [sys.executable, "-c", main, "replica", "--config", config, "--model", MODEL, *listen]

    @property
    def programs(self) -> list[Program]:
        return [self.trainer, *self.replicas.values()]

    def tend(self) -> None:
        self.trainer.tend()
        self.tend_replicas()

    def tend_replicas(self) -> None:
        for program in self.replicas.values():
            program.tend()

    def awaited(self, look: Callable[[], T | None], what: str, *, pause: Callable[[], object]) -> T:
        """What `look` finds once it finds something, while the supervisor goes its rounds."""
        until = time.monotonic() + WAIT_S
        while (found := look()) is None:
            assert time.monotonic() < until, f"{what}\n" + "\n".join(program.tail() for program in self.programs)
            pause()
            threading.Event().wait(LOOK_S)
        return found

    def learned(self, lines: int) -> None:
        """Until the trainer's present run has written so many lines."""

        def look() -> bool | None:
            self.owed.read()
            return True if sum(line["run"] == self.trainer.run for line in self.owed.lines) >= lines else None

        self.awaited(look, f"run {self.trainer.run} of the trainer gets nothing acknowledged", pause=self.tend)

    def check_serving(self) -> None:
        """Every replica comes to serve what is owed by now, while the trainer goes on."""
        for url in self.replicas:
            self.owed.read()
            self.awaited(lambda url=url: self._is_served(url), f"{url} does not serve what is owed", pause=self.tend)

    def _is_served(self, url: str) -> bool | None:
        found = rows_of(url)
        if found is not None and not self.owed.missing(*found):
            return True
        if self.owed.lines[-1]["run"] != self.trainer.run:
            self.owed.read()  # a trainer that has come back writes older rows again
        return None

    def check_quiet(self) -> None:
        """While no trainer runs: a newborn replica has what is owed, and the others come to have the same rows."""
        with self.newborn() as replica:
            self.owed.read()
            answer = replica.lookup(TABLE, ALL_KEYS)
            assert not (wrong := self.owed.missing(answer.rows, answer.found)), wrong[:10]
            for url in self.replicas:
                told = f"{url} differs from a newborn replica"
                self.awaited(lambda url=url: same(rows_of(url), answer.rows, answer.found), told, pause=self.tend_replicas)

    @contextmanager
    def newborn(self) -> Iterator[Replica]:
        """A replica in this process that has begun from nothing, and has read all there is."""
        with open_environment(self.config, MODEL) as env:
            replica = Replica(env, name="newborn")
            ends = {p: env.log.end(p) for p in replica.follower.partitions}
            until = time.monotonic() + WAIT_S
            while any(state.reads_from < ends[p] for p, state in replica.follower.partitions.items()):
                assert time.monotonic() < until, replica.follower.partitions
                replica.step(0.05)
            yield replica

    def check_end(self) -> None:
        """After the trainer's own end: all serve exactly its state, at one version, with the digest that all bytes give."""
        self.owed.read()
        version = max(line["version"] for line in self.owed.lines)
        last = self.owed.lines[-1]
        assert last["what"] == "done"
        course = course_at(last["step"])
        keys, rows = course.table()
        with open_environment(self.config, MODEL) as env:
            found = verify(env)
            assert (found.version, found.ok, list(found.findings)) == (version, True, [])
        with self.newborn() as replica, ExitStack() as closing:
            replica.report()
            assert replica.confirmed is not None
            digests = {"newborn": replica.confirmed.digest}
            assert same((replica.lookup(TABLE, ALL_KEYS).rows, replica.lookup(TABLE, ALL_KEYS).found), *exactly(keys, rows))
            for url in self.replicas:
                told = f"{url} differs from the trainer"
                self.awaited(lambda url=url: same(rows_of(url), *exactly(keys, rows)), told, pause=self.tend_replicas)
                client = closing.enter_context(Client(url))
                told = f"{url} is not at version {version}"
                self.awaited(lambda client=client: client.status().version == version or None, told, pause=self.tend_replicas)
                status = client.status()
                digests[url] = status.digest
                assert not status.failure
                assert [p.alarm for p in status.partitions] == [""] * len(status.partitions)
                assert sum(p.counters["disagreed"] for p in status.partitions) == 0
                assert client.dense()[1]["w"].tolist() == [last["step"]] * 3
        assert set(digests.values()) == {found.digest}

    def close(self) -> None:
        for program in self.programs:
            program.close()


def rows_of(url: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows and found of all keys; None while it does not answer."""
    try:
        with Client(url, timeout_s=5) as client:
            return client.lookup(TABLE, ALL_KEYS)
    except Unreachable:
        return None


def exactly(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    whole, found = np.zeros((KEYS, rows.shape[1]), np.float32), np.zeros(KEYS, bool)
    whole[keys], found[keys] = rows, True
    return whole, found


def same(answer: tuple[np.ndarray, np.ndarray] | None, rows: np.ndarray, found: np.ndarray) -> bool | None:
    """True, or None as long as the answer differs."""
    if answer is None or not np.array_equal(answer[1], found):
        return None
    return True if np.array_equal(answer[0][found], rows[found]) else None
