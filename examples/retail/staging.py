"""Where the demo plays: a config, and processes of `penstock` that all end with it, however it ends.

It knows how to start, await and end processes, and nothing of what they are for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

import msgspec

from penstock.pipeline.core.errors import PenstockError, Unreachable

T = TypeVar("T")
PENSTOCK = (sys.executable, "-c", "from penstock.pipeline.cli.main import main; main()")
PARTITIONS = 4
START_S, COMMAND_S, END_S = 120.0, 120.0, 10.0
"""A process that has to compile its loops first, on a machine that is busy, takes a good part of a minute."""
LOOK_S = 0.01


def config_text(*, model: str, tables: tuple[str, ...], store: str, log: str, endpoint: str | None) -> str:
    """The config file of the demo; everything that it does not say has its default."""
    lines = ["[store]", f"url = {_quoted(store)}"]
    lines += [f"endpoint = {_quoted(endpoint)}"] if endpoint else []
    lines += ["[log]", f"url = {_quoted(log)}", f"partitions = {PARTITIONS}"]
    lines += [f"[models.{model}]", 'dense = ["dense/*"]']
    for table in tables:
        lines += [f"[models.{model}.tables.{table}]", f'keys = "{table}/keys"', f'rows = "{table}/rows"']
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


@dataclass(slots=True)
class Command:
    """One command in a process of its own, `penstock` or another program."""

    name: str
    process: subprocess.Popen[bytes]
    said: Path
    logged: Path

    def running(self) -> bool:
        """`PenstockError` with its last words, if it has failed."""
        code = self.process.poll()
        if code:
            raise PenstockError(f"{self.name} ended with exit code {code}: {self._last_words()}")
        return code is None

    def result(self) -> bytes:
        """What it printed, once it has ended."""
        try:
            self.process.wait(COMMAND_S)
        except subprocess.TimeoutExpired:
            raise Unreachable(f"{self.name} has not ended in {COMMAND_S:.0f} s: {self._last_words()}") from None
        self.running()
        return self.said.read_bytes()

    def signal(self, how: signal.Signals) -> None:
        """To it and whatever it has started, unless it has ended."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, how)

    def _last_words(self) -> str:
        return " ".join(self.logged.read_text(errors="replace").split())[-400:] or "it said nothing"


@dataclass(slots=True)
class Stage:
    """`folder` holds the config and what the processes print."""

    folder: Path
    config: Path
    _commands: list[Command] = field(default_factory=list)

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Command:
        """`penstock` with these arguments."""
        return self.start_program(arguments[0], *PENSTOCK, *arguments, environment=environment)

    def start_program(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> Command:
        number = len(self._commands)
        said, logged = (self.folder / f"{number}-{name}.{kind}" for kind in ("out", "log"))
        with said.open("wb") as out, logged.open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True,
                env={**os.environ, "PENSTOCK_CONFIG": str(self.config), **(environment or {})},
            )  # fmt: skip
        started = Command(name, process, said, logged)
        self._commands.append(started)
        return started

    def check(self) -> None:
        """`PenstockError` if anything that was started has failed."""
        for command in self._commands:
            command.running()

    def close(self) -> None:
        """Asks all that still run to end, and makes sure of it."""
        for command in self._commands:
            command.signal(signal.SIGTERM)
        for command in self._commands:
            try:
                command.process.wait(END_S)
            except subprocess.TimeoutExpired:
                command.signal(signal.SIGKILL)
                command.process.wait()


@contextmanager
def open_stage(folder: Path, config: str) -> Iterator[Stage]:
    """A stage in `folder`; a SIGTERM meanwhile ends it as an interrupt does."""
    path = folder / "penstock.toml"
    path.write_text(config)
    stage = Stage(folder, path)
    with _terminated_as_interrupted():
        try:
            yield stage
        finally:
            stage.close()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # only the main thread may; elsewhere whoever has it must see to its signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def awaited(what: str, look: Callable[[], T | None], *, within_s: float) -> T:
    """What `look` finds, once it finds something; `Unreachable` says `what` was waited for, once the time is up."""
    deadline = time.monotonic() + within_s
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise Unreachable(f"waited {within_s:.0f} s for {what}")
        time.sleep(LOOK_S)
    return found
