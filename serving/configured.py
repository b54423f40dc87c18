"""A client's replicas and options as a config has them. Knows no replica."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from penstock.pipeline.config import ClientConfig, Config, load_config, microseconds

from .sources import Listed, Named, Present, Source

if TYPE_CHECKING:
    from .client import Options


class Configured(NamedTuple):
    """Where the replicas of a model are, and how to ask them."""

    source: Source
    model: str
    options: Options


def options_of(client: ClientConfig) -> Options:
    return {
        "timeout_s": microseconds(client.timeout) / 1e6, "hedge_share": client.hedge_percent / 100,
        "tls_root": client.tls_root, "tls_cert": client.tls_cert, "tls_key": client.tls_key, "token_file": client.token_file,
    }  # fmt: skip


def configured(config: Config | str | Path, model: str | None, ref: str) -> Configured:
    """For `model`, by default the only one."""
    found = config if isinstance(config, Config) else load_config(Path(config))
    name, client = found.model_name(model), found.client
    options = options_of(client)
    if client.urls:
        return Configured(Listed.of(client.urls), name, options)
    if client.dns is not None:
        return Configured(Named(client.dns), name, options)
    from penstock.pipeline.catalog.catalog import Catalog
    from penstock.pipeline.ports.open_store import open_store
    from penstock.pipeline.ports.wall_clock import system_clock

    catalog = Catalog(open_store(found.store.url, endpoint=found.store.endpoint), name)
    return Configured(Present(catalog, ref, system_clock), name, options)
