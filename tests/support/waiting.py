"""What comes about in another thread or process, waited for."""

import time
from collections.abc import Callable

LOOK_S = 0.002


def reached(condition: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Returns once the condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came true"
        time.sleep(LOOK_S)
