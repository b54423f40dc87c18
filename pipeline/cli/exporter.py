"""`penstock exporter`."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from .options import TROUBLE, ConfigFile, ModelName, read_config
from .output import stderr


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=TROUBLE)(exporter)


def exporter(
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Port 0 takes a free one.")] = "127.0.0.1:9815",
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", min=0.1, help="How often it looks.")] = 5.0,
    config: ConfigFile = None,
    model: ModelName = None,
) -> None:
    """Tell Prometheus what lies in the store and the log.

    Of every model of the config, or of one: versions, refs, freshness, head-room of the log, replicas that report, rollbacks
    under way. It changes nothing. A model that is not there yet is waited for.

    [dim]penstock exporter --listen 0.0.0.0:9815[/]
    """
    import logging
    import math

    from ..core.errors import InvalidInput
    from ..exposition import Exposition, MetricsServer
    from ..plain_http import host_and_port
    from .exporting import Exporter
    from .signals import stop_signals, wait

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings, (host, port) = read_config(config), host_and_port(listen, "--listen")
    models = list(settings.models) if model is None else [settings.model_name(model)]
    if not models:
        raise InvalidInput("the config has no model")
    with (
        closing(Exporter(settings, models, every=every)) as found,
        closing(MetricsServer(Exposition(found), host=host, port=port)) as server,
    ):
        stderr.print(f"metrics on {host}:{server.port}/metrics")
        stopped, _ = stop_signals()
        wait(stopped, math.inf)
