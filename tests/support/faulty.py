"""A store and a log that fail at a chosen call: before it takes effect, after, or with the reply lost.

One `Faults` counts the calls of everything that it wraps, so that "the n-th call of a run" means store and log together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from penstock.pipeline.core.errors import OutcomeUnknown, Unreachable

T = TypeVar("T")
Mode = Literal["before", "after", "lost", "unsent"]
MODES: tuple[Mode, ...] = ("before", "after", "lost", "unsent")
_WRITES = {"put", "append", "delete", "truncate", "flush"}


class Crash(BaseException):
    """The process ends here. Not an Exception, so that no handler of the run can go on."""


class Faults:
    """Fails call number `at` (from 0). `before`, `after`: the process ends there. `lost`, `unsent`: the caller of a write is told
    `OutcomeUnknown`, and it took effect or did not; of a call that writes nothing, all modes are a crash before it."""

    def __init__(self, at: int = -1, mode: Mode = "before") -> None:
        self.at, self.mode, self.calls, self.fired, self.crashed = at, mode, 0, False, False

    def around(self, name: str, call: Callable[[], T]) -> T:
        number, self.calls = self.calls, self.calls + 1
        if self.crashed:
            raise Crash(name)  # a dead process makes no further call
        if number != self.at:
            return call()
        self.fired = True
        self.crashed = self.mode in ("before", "after") or name not in _WRITES
        if name not in _WRITES or self.mode == "before":
            raise Crash(f"before {name}")
        if self.mode != "unsent":
            call()
        if self.mode == "after":
            raise Crash(f"after {name}")
        if name == "append":
            return LostReply()  # type: ignore[return-value]
        raise OutcomeUnknown(f"the reply to {name} was lost")


class LostReply:
    """The pending result of an append that landed, and nobody will ever know."""

    def done(self) -> bool:
        return True

    def result(self, timeout_s: float) -> int:
        raise OutcomeUnknown("the reply to append was lost")


class Faulty:
    """Wraps a store or a log: every method call goes through `faults`."""

    def __init__(self, inner: Any, faults: Faults) -> None:
        self._inner, self._faults = inner, faults

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found) or name in ("local_path", "close"):
            return found
        if name == "upload":
            return lambda *a, **k: self._upload(found, *a, **k)
        if name == "list":
            return lambda *a: iter(self._faults.around(name, lambda: list(found(*a))))
        return lambda *a, **k: self._faults.around(name, lambda: found(*a, **k))

    @contextmanager
    def _upload(self, upload: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
        # Where it matters to die: before anything was written, before the end that makes the object visible, after it.
        self._faults.around("upload", lambda: None)
        with upload(*arguments, **options) as found:
            yield found
            self._faults.around("end of upload", lambda: None)
        self._faults.around("after upload", lambda: None)


def every_failure(
    run: Callable[[Faults], None], *, modes: tuple[Mode, ...] = MODES, limit: int = 10_000
) -> Iterator[tuple[int, Mode]]:
    """Runs `run` once for each call that it makes and each mode of failure, with that call failing; yields the failure after
    each, so that the caller can run it again and compare. `run` builds its world anew every time."""
    for mode in modes:
        for at in range(limit):
            faults = Faults(at, mode)
            try:
                run(faults)
            except (Crash, OutcomeUnknown) as stopped:
                if not faults.fired:
                    raise AssertionError("stopped without a fault") from stopped
            if not faults.fired:
                break
            yield at, mode
        else:
            raise AssertionError(f"a run made more than {limit} calls")


class Steps:
    """Calls `action` once, before the n-th call of one kind of method."""

    def __init__(self, inner, name, number, action):
        self.inner, self.name, self.left, self.action = inner, name, number, action

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if name != self.name:
            return found

        def call(*arguments, **options):
            self.left -= 1
            if self.left == -1:
                self.action()
            return found(*arguments, **options)

        return call


@contextmanager
def one_read_fails(monkeypatch: Any, store: Any, number: int) -> Iterator[Callable[[], bool]]:
    """Of the reads of ranges inside, the one of this number (from 0) gets no reply. Gives what tells whether there was one."""
    calls, real = itertools.count(), store.get_range
    met = []

    def get_range(*arguments: Any) -> Any:
        if next(calls) == number:
            met.append(number)
            raise Unreachable("no reply")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(store, "get_range", get_range)
        yield lambda: bool(met)
