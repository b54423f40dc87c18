"""Real threads of which exactly one runs at a time, and a clock that moves only when all of them wait. Which one goes on at a
call of the store or the log is drawn from the seed, so a run is the same every time.

It knows nothing of what the threads do.
"""

from __future__ import annotations

import heapq
import random
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

TICK_S = 0.0001
"""What every turn takes."""
LONGEST_S = 300.0
"""How long, in real time, a thread may compute before the run counts as hung: the first one waits for compilers."""


class Crash(BaseException):
    """The process ends here. Not an Exception, so that no handler of the product can go on."""


class Stuck(Exception):
    """Nothing can go on, and nothing will happen."""


@dataclass(eq=False)
class Process:
    """What dies together. `skew_us`: by how much its clock is wrong."""

    name: str
    skew_us: int = 0
    dead: bool = False


@dataclass(eq=False)
class Task:
    """One thread. It goes on when `ready` says so, or at `deadline`; without both, at once."""

    process: Process
    name: str
    baton: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ready: Callable[[], bool] | None = None
    deadline: float | None = None
    done: bool = False
    thread: threading.Thread | None = None


class Scheduler:
    """`now` is in seconds since the run began. The thread that makes it is the first task."""

    def __init__(self, seed: int, *, switching: float) -> None:
        self.now, self.turns = 0.0, 0
        self._chance, self._switching = random.Random(f"{seed} turns"), switching
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = 0
        self.current = Task(Process("director"), "director")
        self.tasks = [self.current]
        self.director = self.current
        self.broken: BaseException | None = None
        """The first error that no task expected; the director raises it."""

    # ---- what tasks do -------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Somebody else may go on first."""
        self._switch(None, None)

    def sleep(self, seconds: float) -> None:
        self._switch(_never, self.now + seconds)

    def wait(self, ready: Callable[[], bool], seconds: float | None = None) -> bool:
        """Whether `ready` became true in time."""
        if not ready():
            self._switch(ready, None if seconds is None else self.now + max(0.0, seconds))
        return ready()

    def at(self, when: float, event: Callable[[], None]) -> None:
        """`event` happens then, in nobody's thread; it must not wait."""
        self._numbers += 1
        heapq.heappush(self._events, (when, self._numbers, event))

    def spawn(self, process: Process, name: str, work: Callable[[], object]) -> Task:
        task = Task(process, name)
        task.thread = threading.Thread(target=self._run, args=(task, work), name=name, daemon=True)
        self.tasks.append(task)
        task.thread.start()
        return task

    def crash(self) -> None:
        """Ends the process whose turn it is."""
        self.current.process.dead = True
        raise Crash(self.current.process.name)

    def shut_down(self) -> None:
        """Ends every other task; the director's last call."""
        for task in self.tasks:
            task.process.dead = True
        self.director.process = Process("end")
        while len(self.tasks) > 1:
            self._switch(lambda: len(self.tasks) == 1, None)
        self._events.clear()

    # ---- inside --------------------------------------------------------------------------------------------------------

    def _run(self, task: Task, work: Callable[[], object]) -> None:
        task.baton.acquire()
        try:
            if not task.process.dead:
                work()
        except Crash:
            pass
        except BaseException as error:  # noqa: BLE001 - the director raises it
            if self.broken is None:
                error.add_note(f"in {task.name}, at {self.now:.3f} s\n" + "".join(traceback.format_tb(error.__traceback__)[-12:]))
                self.broken = error
        task.done = True
        self.tasks.remove(task)
        following = self._next()
        self.current = following
        following.baton.release()

    def _switch(self, ready: Callable[[], bool] | None, deadline: float | None) -> None:
        me = self.current
        if me.process.dead:
            raise Crash(me.process.name)
        me.ready, me.deadline = ready, deadline
        following = self._next()
        if following is not me:
            self.current = following
            following.baton.release()
            while not me.baton.acquire(timeout=LONGEST_S):
                if me is self.director and not self.broken:
                    self.broken = Stuck(f"{self.current.name} does not come back, at {self.now:.3f} s")
        me.ready, me.deadline = None, None
        if me.process.dead:
            raise Crash(me.process.name)
        if me is self.director and self.broken is not None:
            raise self.broken

    def _next(self) -> Task:
        self.turns += 1
        self.now += TICK_S
        while True:
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            if self.broken is not None:
                return self.director
            able = [task for task in self.tasks if self._able(task)]
            if able:
                if self.current in able and self._chance.random() > self._switching:
                    return self.current
                return self._chance.choice(able)
            times = [task.deadline for task in self.tasks if task.deadline is not None]
            times += [self._events[0][0]] if self._events else []
            if not times:
                self.broken = Stuck(f"{', '.join(task.name for task in self.tasks)} wait for nothing, at {self.now:.3f} s")
                return self.director
            self.now = max(self.now, min(times))

    def _able(self, task: Task) -> bool:
        if task.process.dead or (task.ready is None and task.deadline is None):
            return True
        if task.deadline is not None and task.deadline <= self.now:
            return True
        return task.ready is not None and task.ready()


def _never() -> bool:
    return False
