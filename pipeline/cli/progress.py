"""Progress of long work, on standard error: what goes through the store, counted by a wrapper round it, only where that is a
terminal; and what is decided on the way, always. It knows no command, and no command waits for it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .output import escaped, stderr

if TYPE_CHECKING:
    from pathlib import Path

    from ..environment import Environment
    from ..ports.store import Condition, Entry, Found, ObjectStore, Token, Upload

Count = Callable[[int], object]


@contextmanager
def progress(env: Environment, doing: str) -> Iterator[Environment]:
    """The environment, while a line tells how many bytes the store was given or asked for."""
    with _told():
        if stderr.is_terminal:
            with _watched(env, doing) as watched:
                yield watched
        else:
            yield env


class _Teller(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        stderr.print(escaped(record.getMessage()), soft_wrap=True)


@contextmanager
def _told() -> Iterator[None]:
    """Whatever a publisher warns of is said."""
    logger, teller = logging.getLogger("penstock.publishers"), _Teller(logging.WARNING)
    logger.addHandler(teller)
    try:
        yield
    finally:
        logger.removeHandler(teller)


@contextmanager
def _watched(env: Environment, doing: str) -> Iterator[Environment]:
    from rich import progress as bars

    columns = (bars.SpinnerColumn(), bars.TextColumn("{task.description}"), bars.FileSizeColumn(), bars.TransferSpeedColumn())
    with bars.Progress(*columns, bars.TimeElapsedColumn(), console=stderr, transient=True) as bar:
        task = bar.add_task(doing, total=None)
        store = WatchedStore(env.catalog.store, lambda count: bar.advance(task, count))
        yield dataclasses.replace(env, catalog=dataclasses.replace(env.catalog, store=store))


@dataclasses.dataclass(frozen=True, slots=True)
class WatchedStore:
    """An object store; `count` is told the bytes of what is read and written. What is mapped counts when it is."""

    store: ObjectStore
    count: Count

    @property
    def url(self) -> str:
        return self.store.url

    def get(self, key: str) -> Found:
        found = self.store.get(key)
        self.count(len(found.data))
        return found

    def get_range(self, key: str, start: int, length: int) -> bytes:
        found = self.store.get_range(key, start, length)
        self.count(length)
        return found

    def size(self, key: str) -> int:
        return self.store.size(key)

    def put(self, key: str, data: bytes, condition: Condition) -> Token:
        token = self.store.put(key, data, condition)
        self.count(len(data))
        return token

    @contextmanager
    def upload(self, key: str, *, size_hint: int = 0) -> Iterator[Upload]:
        """The upload itself, which may be a file that is written past the page cache: it counts when it ends."""
        with self.store.upload(key, size_hint=size_hint) as upload:
            yield upload
        self.count(size_hint)

    def list(self, prefix: str) -> Iterator[Entry]:
        return self.store.list(prefix)

    def delete(self, key: str) -> None:
        self.store.delete(key)

    def local_path(self, key: str) -> Path | None:
        path = self.store.local_path(key)
        if path is not None:
            self.count(self.store.size(key))
        return path
