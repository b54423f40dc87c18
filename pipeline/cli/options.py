"""The options that every command takes, and what it works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ..config import Config, config_path, load_config
from ..core.ids import Version
from ..core.manifest import Manifest
from ..core.refs import LIVE
from ..environment import Environment, create_environment, open_environment

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="The config file.", show_default="$PENSTOCK_CONFIG, else ./penstock.toml")
]
ModelName = Annotated[str | None, typer.Option("--model", help="Which model; not needed where the config has one.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it goes into the history.")]
RefName = Annotated[str, typer.Option("--ref", help="Which ref.")]


def read_config(path: Path | None) -> Config:
    return load_config(config_path(path))


@contextmanager
def existing(path: Path | None, model: str | None) -> Iterator[Environment]:
    """A model that exists."""
    config = read_config(path)
    with open_environment(config, config.model_name(model)) as env:
        yield env


@contextmanager
def born(path: Path | None, model: str | None) -> Iterator[Environment]:
    """A model that is born now, unless it exists."""
    config = read_config(path)
    with create_environment(config, config.model_name(model)) as env:
        yield env


def chosen_version(env: Environment, number: int | None) -> Manifest:
    """The version asked for, by default that of the live ref; a base beside the chain stands for the version of its state."""
    refs = env.catalog.refs()
    history = env.catalog.history(refs)
    found = history.version(refs.ref(LIVE).version if number is None else Version(number))
    return history.of_state(found.state) or found
