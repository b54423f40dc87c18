"""What every run works on: one model's catalog, its update log, and the settings. Opened from a config, closed at the end."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from .catalog.catalog import Actor, Catalog
from .config import Config, ModelConfig, microseconds
from .core.errors import NotFound
from .core.ids import Partition, Position, Positions
from .core.schema import ModelSchema
from .core.times import WallTime
from .ports.log import UpdateLog
from .ports.log_checks import DEFAULT_RECORD_BYTES, LogSettings
from .ports.open_log import open_log
from .ports.open_store import open_store
from .ports.wall_clock import system_clock


def current_user() -> str:
    """Who the history names when nobody says otherwise: PENSTOCK_ACTOR, else user and host."""
    if named := os.environ.get("PENSTOCK_ACTOR"):
        return named
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """`who` acts in it; `clock` is asked for the wall time of every document and move."""

    config: Config
    catalog: Catalog
    log: UpdateLog
    clock: Callable[[], WallTime] = system_clock
    who: str = field(default_factory=current_user)

    @property
    def model(self) -> ModelConfig:
        return self.config.models.get(self.catalog.model, ModelConfig())

    @property
    def schema(self) -> ModelSchema:
        return self.catalog.schema()

    def actor(self, why: str = "") -> Actor:
        return Actor(who=self.who, now=self.clock(), why=why)


@contextmanager
def open_environment(
    config: Config, model: str, *, clock: Callable[[], WallTime] = system_clock, who: str | None = None
) -> Iterator[Environment]:
    """The environment of a model that exists; `NotFound` otherwise."""
    store = open_store(config.store.url, endpoint=config.store.endpoint)
    catalog = Catalog(store, model)
    schema = catalog.schema()
    with closing(open_log(config.log.url, name=model, partitions=schema.partitions, options=log_options(config))) as log:
        yield _checked(Environment(config=config, catalog=catalog, log=log, clock=clock, who=who or current_user()))


@contextmanager
def create_environment(
    config: Config, model: str, *, clock: Callable[[], WallTime] = system_clock, who: str | None = None
) -> Iterator[Environment]:
    """As `open_environment`, but a model that does not exist is born, with its log."""
    store = open_store(config.store.url, endpoint=config.store.endpoint)
    settings = config.models.get(model, ModelConfig())
    partitions, create, options = config.log.partitions, log_settings(config), log_options(config)
    with closing(open_log(config.log.url, name=model, partitions=partitions, create=create, options=options)) as log:
        who = who or current_user()
        actor = Actor(who=who, now=clock(), why="the first publisher opened the model")
        catalog = Catalog.create(store, model, buckets=settings.buckets, positions=log_ends(log), actor=actor)
        yield _checked(Environment(config=config, catalog=catalog, log=log, clock=clock, who=who))


def log_ends(log: UpdateLog) -> Positions:
    """The ends of a log, as positions of a reader that has taken nothing."""
    return Positions(log.identity, tuple(Position(log.end(Partition(p)), {}) for p in range(log.partitions)))


def log_settings(config: Config) -> LogSettings:
    """What the log of a model is made with, and must have."""
    return LogSettings(
        # Twice the window: the live chain's positions may use half of what the log keeps.
        retention_ms=2 * microseconds(config.recovery.window) // 1000,
        max_record_bytes=max(DEFAULT_RECORD_BYTES, config.realtime.record_bytes),
        replication_factor=config.log.replicas,
        min_insync_replicas=config.log.min_insync_replicas,
    )


def log_options(config: Config) -> dict[str, str]:
    """What an adapter is told besides the address: the file log its fsync policy, Kafka's client the options of the config."""
    return {"fsync": config.log.fsync, **config.log.options} if config.log.url.startswith("file:") else dict(config.log.options)


def _checked(environment: Environment) -> Environment:
    if environment.log.identity != environment.schema.log:
        raise NotFound(
            f"model {environment.catalog.model} counts its positions in log {environment.schema.log}, "
            f"but {environment.log.url} is log {environment.log.identity}",
            hint="is [log] url right? If the log was made anew, restore it, or publish the model under a new name",
        )
    return environment
