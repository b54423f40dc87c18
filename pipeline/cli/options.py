"""The options that every command takes, and what it works on. What a command needs is imported when it runs: `penstock --help`
and `penstock versions` load no compiler, no client of a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import Config, config_path, load_config

if TYPE_CHECKING:
    from ..catalog.catalog import Catalog
    from ..core.manifest import Manifest
    from ..environment import Environment

DELIVERY, TROUBLE, VERSIONS, HOUSEKEEPING = "Delivery", "When something is wrong", "Versions", "Housekeeping"
"""The headings under which `--help` lists the commands."""

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The config file.", show_default="$PENSTOCK_CONFIG, else ./penstock.toml"),
]
ModelName = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="Which model; not needed where the config has one.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it goes into the history.")]
RefName = Annotated[str, typer.Option("--ref", metavar="REF", help="Which ref.")]


def read_config(path: Path | None) -> Config:
    return load_config(config_path(path))


@contextmanager
def existing(path: Path | None, model: str | None) -> Iterator[Environment]:
    """A model that exists, and its log."""
    from ..environment import open_environment

    config = read_config(path)
    with open_environment(config, config.model_name(model)) as env:
        yield env


def stored(path: Path | None, model: str | None) -> Catalog:
    """The catalog of a model that exists, for what needs no log: it works while the log is down."""
    from ..catalog.catalog import Catalog
    from ..ports.open_store import open_store

    config = read_config(path)
    catalog = Catalog(open_store(config.store.url, endpoint=config.store.endpoint), config.model_name(model))
    catalog.schema()
    return catalog


def chosen_version(catalog: Catalog, number: int | None) -> Manifest:
    """The version asked for, by default that of the live ref; a base beside the chain stands for the version of its state."""
    from ..core.ids import Version
    from ..core.refs import LIVE

    refs = catalog.refs()
    history = catalog.history(refs)
    found = history.version(refs.ref(LIVE).version if number is None else Version(number))
    return history.of_state(found.state) or found
