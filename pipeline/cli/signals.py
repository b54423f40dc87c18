"""How a command that serves is told to end."""

from __future__ import annotations

import signal
import threading
import time

TOLD_S = 0.1
"""How soon a signal is heard, at the latest."""


def stop_signals() -> tuple[threading.Event, threading.Event]:
    """Set when the process is told to end, and when it is told again."""
    stopped, hurried = threading.Event(), threading.Event()

    def told(*_: object) -> None:
        (hurried if stopped.is_set() else stopped).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    return stopped, hurried


def wait(event: threading.Event, timeout_s: float) -> None:
    """In slices: a signal that another thread receives wakes nobody, and is acted on when this one next runs."""
    until = time.monotonic() + timeout_s
    while not event.is_set() and (left_s := until - time.monotonic()) > 0:
        event.wait(min(left_s, TOLD_S))
