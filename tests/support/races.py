"""A writer against readers, each a thread of its own, until every one has run often."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

READERS, AT_LEAST, TOO_LONG_S = 4, 20, 60.0


def race(write: Callable[[int], None], read: Callable[[int], None], *, seconds: float) -> list[int]:
    """`write(step)` in one thread while `read(reader)` runs in four others, for so long and until each has run often. How often
    they did, the writer last; raises what one of them has raised."""
    done, failures = threading.Event(), list[BaseException]()
    counts = [0] * (READERS + 1)

    def guarded(number: int, step: Callable[[int], None]) -> None:
        try:
            while not done.is_set():
                step(counts[number] if number == READERS else number)
                counts[number] += 1
        except BaseException as error:  # noqa: BLE001  (told by the test)
            failures.append(error)
            done.set()

    threads = [threading.Thread(target=guarded, args=(number, read)) for number in range(READERS)]
    threads.append(threading.Thread(target=guarded, args=(READERS, write)))
    for thread in threads:
        thread.start()
    begun = time.monotonic()
    while not done.is_set() and (time.monotonic() < begun + seconds or min(counts) < AT_LEAST):
        done.wait(0.05)
        if time.monotonic() > begun + seconds + TOO_LONG_S:
            failures.append(AssertionError(f"a thread does not get on: {counts}"))
            break
    done.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return counts
