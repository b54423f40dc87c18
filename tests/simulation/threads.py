"""`threading`, `time` and thread pools as the product's modules see them in a simulation: all of it under one scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from penstock.publishers import driving, stream, updates
from penstock.serving import chains, lookups, replica, table, tiers
from penstock.slicer import blocks, comparison, layers, slicing

from .scheduler import Scheduler, Task

REPLACED = {
    "threading": (driving, comparison, replica, table, tiers),
    "time": (driving, stream, lookups),
    "ThreadPoolExecutor": (layers, blocks, slicing, chains),
}
"""What is replaced in which modules."""
IDLE_S, POLL_S = 0.4, 0.7
"""How often threads look round that have nothing to do: less often than in earnest, as a run has to be short."""


class Event:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler, self._set = scheduler, False

    def set(self) -> None:
        self._set = True

    def clear(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        return self._scheduler.wait(self.is_set, timeout)


class Lock:
    """Reentrant, for all."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._owner: Task | None = None
        self._depth = 0

    def free(self) -> bool:
        return self._owner is None or self._owner.process.dead

    def __enter__(self) -> bool:
        me = self._scheduler.current
        if self._owner is not me:
            while not self.free():
                self._scheduler.wait(self.free)
            self._owner, self._depth = me, 0
        self._depth += 1
        return True

    def __exit__(self, *_: object) -> None:
        if self._owner is self._scheduler.current:
            self._depth -= 1
            if not self._depth:
                self._owner = None

    acquire = __enter__
    release = __exit__


class Condition(Lock):
    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        if predicate():
            return True
        me, depth = self._scheduler.current, self._depth
        self._owner = None
        found = self._scheduler.wait(lambda: self.free() and predicate(), timeout)
        while not self.free():
            self._scheduler.wait(self.free)
        self._owner, self._depth = me, depth
        return found or predicate()

    def notify_all(self) -> None:
        """Who waits looks for itself."""


class Thread:
    def __init__(self, scheduler: Scheduler, *, target: Callable[[], object], name: str, daemon: bool) -> None:
        self._scheduler, self._target, self.name = scheduler, target, name
        self._task: Task | None = None

    def start(self) -> None:
        process = self._scheduler.current.process
        self._task = self._scheduler.spawn(process, f"{process.name}/{self.name}", self._target)

    def join(self) -> None:
        self._scheduler.wait(lambda: self._task is None or self._task.done)


class Pool:
    """Does what it is given at once."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[..., Any], *arguments: object) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:  # noqa: BLE001 - its owner raises it
            future.set_exception(error)
        return future

    def map(self, work: Callable[..., Any], items: Any) -> Iterator[Any]:
        return iter([work(item) for item in items])

    def shutdown(self, **_: object) -> None:
        pass


@contextmanager
def installed(scheduler: Scheduler) -> Iterator[None]:
    """The product's modules use the scheduler meanwhile."""
    threads = SimpleNamespace(
        Event=lambda: Event(scheduler), Lock=lambda: Lock(scheduler), RLock=lambda: Lock(scheduler),
        Condition=lambda: Condition(scheduler), Thread=lambda **options: Thread(scheduler, **options),
    )  # fmt: skip
    clock = SimpleNamespace(monotonic=lambda: scheduler.now, sleep=scheduler.sleep)
    whole = updates.Stream
    with ExitStack() as stack:
        for (name, modules), ours in zip(REPLACED.items(), (threads, clock, Pool), strict=True):
            for module in modules:
                stack.enter_context(patch.object(module, name, ours))
        stack.enter_context(patch.object(driving, "IDLE_S", IDLE_S))
        stack.enter_context(patch.object(replica, "POLL_S", POLL_S))
        # The locks of a stream are made by its fields, which were bound when the class was.
        locked = lambda **fields: whole(**fields, line=Lock(scheduler), gate=Condition(scheduler))  # noqa: E731
        stack.enter_context(patch.object(updates, "Stream", locked))
        yield
