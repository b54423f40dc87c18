"""Who reads, and since when: what tells a writer which memory nobody can see any more. Knows no rows.

Epoch-based reclamation (Fraser, 2004). A reader enters before it looks at anything and leaves when it is done; the writer
moves the epoch on after each write. What was taken out of sight in epoch e is free when every reader has entered after e.
Entering and asking are single operations on one dict, which the interpreter orders; no reader waits for anybody.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count


class Readers:
    def __init__(self) -> None:
        self.epoch = 0
        self._entered: dict[int, int] = {}
        self._numbers = count()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What is looked up inside stays readable until the end."""
        number = next(self._numbers)
        try:
            self._entered[number] = self.epoch
            yield
        finally:
            self._entered.pop(number, None)

    def advance(self) -> int:
        """Ends an epoch and returns its number: what went out of sight in it may be seen by whoever is reading now."""
        self.epoch += 1
        return self.epoch - 1

    def oldest(self) -> int:
        """Whatever went out of sight in an epoch before this one is seen by nobody."""
        return min(list(self._entered.values()), default=self.epoch)
