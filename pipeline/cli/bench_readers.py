"""The processes beside the one that runs `penstock bench realtime`: they are told what to do over a pipe, and answer there. What
they do is given to them; knows no log and no replica. Times are of the monotonic clock, which a machine's processes share."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from ..core.errors import PenstockError, Unreachable
from ..core.ids import Offset, Partition
from .bench_probes import Seen

ANSWER_S = 120.0
LOST_S = 20.0
"""How long a reader waits for the last put before it counts as lost."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Begin to look; `lookup_keys`: and look up so many keys back to back meanwhile."""

    lookup_keys: int = 0


@dataclass(frozen=True, slots=True)
class Until:
    """Look until this put was seen in every partition, then say what was seen."""

    number: int


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Read the log from where the replica stands up to these offsets of its partitions, one set of them after another."""

    stages: tuple[Mapping[Partition, Offset], ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """`lookups_ms`: float64[n], how long each lookup took."""

    seen: Seen
    lookups_ms: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """In one stage."""

    rows: int
    seconds: float

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0


Work = Callable[..., None]


class Reader:
    """A process at the other end of a pipe."""

    def __init__(self, work: Work, *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_guarded, args=(work, theirs, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def watch(self, asked: Watch) -> None:
        """Returns once it looks."""
        self._pipe.send(asked)
        self._answer()

    def observed(self, last: int) -> Observed:
        """Returns once put `last` was seen everywhere, or did not come."""
        self._pipe.send(Until(last))
        found = self._answer()
        assert isinstance(found, Observed)
        return found

    def catch_up(self, *stages: Mapping[Partition, Offset]) -> list[CaughtUp]:
        """One for each stage."""
        self._pipe.send(CatchUp(stages))
        found = self._answer()
        assert isinstance(found, list)
        return found

    def close(self) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _answer(self) -> object:
        if not self._pipe.poll(ANSWER_S):
            raise Unreachable(f"a reader of the bench has not answered within {ANSWER_S:.0f} s")
        try:
            found = self._pipe.recv()
        except EOFError:
            self._process.join(10)
            raise Unreachable(f"a reader of the bench has ended, with code {self._process.exitcode}") from None
        if isinstance(found, PenstockError):
            raise found
        return found


@contextmanager
def reader(work: Work, *arguments: object) -> Iterator[Reader]:
    """`work(pipe, *arguments)` in a process of its own; it ends when its pipe does."""
    found = Reader(work, *arguments)
    try:
        yield found
    finally:
        found.close()


def _guarded(work: Work, pipe: Connection, arguments: tuple[object, ...]) -> None:
    try:
        work(pipe, *arguments)
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return
    except PenstockError as error:
        pipe.send(error)
