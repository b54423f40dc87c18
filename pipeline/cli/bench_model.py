"""The model that a bench makes for itself, in the store and the log of the config, and takes away again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..config import Config
from ..core.errors import NotFound, Refused
from ..environment import log_options
from ..ports.open_log import open_log, remove_log
from ..ports.open_store import open_store


@contextmanager
def fresh_model(config: Config, name: str) -> Iterator[None]:
    """Nothing of the model is in the store before, nor after; `Refused` if there is. Its log as by `own_log`."""
    store = open_store(config.store.url, endpoint=config.store.endpoint)
    if next(iter(store.list(f"{name}/")), None) is not None:
        raise Refused(f"{store.url} has a model {name} already", hint="the bench makes a model of its own: say another --name")
    with own_log(config, name):
        try:
            yield
        finally:
            for entry in list(store.list(f"{name}/")):
                store.delete(entry.key)


@contextmanager
def own_log(config: Config, name: str) -> Iterator[None]:
    """A log that is there already is used, and stays; else it is taken away at the end."""
    options = log_options(config)
    try:
        open_log(config.log.url, name=name, options=options).close()
        was_there = True
    except NotFound:
        was_there = False
    try:
        yield
    finally:
        if not was_there:
            remove_log(config.log.url, name=name, options=options)
