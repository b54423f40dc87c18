"""`penstock replica`, `penstock lookup`, `penstock trace`."""

from __future__ import annotations

import math
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ..config import config_path, microseconds
from ..core.errors import InvalidInput, NotFound
from .options import DELIVERY, TROUBLE, ConfigFile, Json, ModelName, RefName, existing, read_config, stored
from .output import escaped, print_json, print_table, stderr, stdout

if TYPE_CHECKING:
    from penstock.serving.client import Options

    from ..catalog.catalog import Catalog
    from ..core.ids import Version
    from ..environment import Environment


class LookupDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A lookup's answer: rows by key as text; null where there is none."""

    version: int
    timeline: int
    rows: dict[str, list[float] | None]


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=DELIVERY)(replica)
    negative_keys = {"ignore_unknown_options": True}
    app.command(rich_help_panel=DELIVERY, context_settings=negative_keys)(lookup)
    app.command(rich_help_panel=TROUBLE, context_settings=negative_keys)(trace)


def replica(
    ref: RefName = "live",
    buckets: Annotated[
        str | None, typer.Option("--buckets", metavar="A-B", help="Hold only these buckets, both ends included.")
    ] = None,
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Port 0 takes a free one.")] = "127.0.0.1:8815",
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The replica's name.", show_default="host and process")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TARGET", help="Serve exactly this version, or state TIMELINE-MARKER; follow nothing."),
    ] = None,
    health_port: Annotated[
        int | None,
        typer.Option("--health-port", metavar="PORT", min=0, max=65535, help="HTTP: /healthz, /readyz, /version, /metrics."),
    ] = None,
    config: ConfigFile = None,
    model: ModelName = None,
) -> None:
    """Serve lookups: load the ref's chain, then follow.

    Told to end (SIGTERM), it says that it leaves, goes on answering for a grace period, and waits for calls under way.
    Told again, it hurries.

    [dim]penstock replica --listen 0.0.0.0:8815 --health-port 8816
    penstock replica --ref canary --buckets 0-127[/]
    """
    import logging
    import os
    import socket

    from penstock.serving.credentials import check_credentials
    from penstock.serving.metrics import ReplicaMetrics
    from penstock.serving.probes import Probes
    from penstock.serving.replica import Replica
    from penstock.serving.server import Server

    from ..plain_http import host_and_port
    from .signals import stop_signals, wait

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    host, port = host_and_port(listen, "--listen")
    with (
        existing(config, model) as env,
        nullcontext() if health_port is None else closing(Probes(host=host, port=health_port)) as probes,
    ):
        check_credentials(env.config.replica)
        if probes is not None:
            stderr.print(f"probes on {host}:{probes.port}")
        found = Replica(
            env,
            name=name or f"{socket.gethostname()}-{os.getpid()}",
            ref=ref,
            buckets=_buckets(env, buckets),
            at=None if at is None else _version_at(env.catalog, at),
        )
        server = Server(found, host=host, port=port)
        found.address = server.address
        if probes is not None:
            probes.tell(server.health, ReplicaMetrics(found, server))
        stopped, hurried = stop_signals()
        found.start()
        stderr.print(f"listening on {host}:{server.port}, version {found.version}, {sum(found.report().rows.values()):,} rows")
        wait(stopped, math.inf)
        stderr.print("draining")
        found.leave()
        wait(hurried, microseconds(env.config.replica.drain_grace) / 1e6)
        is_done = server.drain(hurried=hurried)
        found.close()
    if not is_done:
        os._exit(0 if found.failure is None else 1)  # Flight would wait for those that do not go on; the log has the failure
    if found.failure is not None:
        raise found.failure


def lookup(
    table: Annotated[str, typer.Option("--table", metavar="T", help="Which table.")],
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="Numbers, or strings if the table has those.")],
    version: Annotated[int | None, typer.Option("--version", metavar="N", help="Exactly as at this version.")] = None,
    at: Annotated[
        str | None, typer.Option("--replica", metavar="URL", help="Which replica; any that is present by default.")
    ] = None,
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Ask a replica for rows.

    [dim]penstock lookup --table customer 17850 13047[/]
    """
    import numpy as np

    from penstock.serving.client import Client

    from ..core.spelling import key_of, spelled

    urls = [at] if at is not None else _present(stored(config, model), table)
    with Client(urls, **_options(config)) as client:
        kind = client.key_type(table)
        answer = client.answer(table, np.array([key_of(key, kind) for key in keys], np.int64), version=version)
    found = zip(keys, answer.rows, answer.found, strict=True)
    rows = {spelled(key, kind): [float(x) for x in row] if there else None for key, row, there in found}
    if json:
        print_json(LookupDocument(version=answer.version, timeline=answer.timeline, rows=rows))
        return
    stdout.print(f"[dim]version {answer.version}, timeline {answer.timeline}[/]")
    print_table(
        ["key", "row"], [(k, "not found" if row is None else " ".join(f"{x:.4g}" for x in row)) for k, row in rows.items()]
    )


def _options(config: Path | None) -> Options:
    """What `[client]` of the config says; a replica that is named can be asked without a config."""
    from penstock.serving.configured import options_of

    if config is None and not config_path(None).exists():
        return {}
    return options_of(read_config(config).client)


def _present(catalog: Catalog, table: str) -> list[str]:
    """The addresses of the replicas that are ready."""
    from ..catalog import leases
    from ..ports.wall_clock import system_clock

    catalog.schema().table(table)
    found = [p.address for p in leases.presences(catalog, now=system_clock()) if p.ready and p.address]
    if not found:
        raise NotFound("no replica is present and ready", hint="start one with `penstock replica`")
    return found


def trace(
    table: Annotated[str, typer.Option("--table", metavar="T", help="Which table.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="A number, or a string if the table has those.")],
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Tell which versions and records wrote a row.

    [dim]penstock trace --table customer 17850[/]
    """
    from penstock.rollback.trace import trace as trace_key

    from ..core.spelling import key_of, spelled
    from ..core.times import format_time

    with existing(config, model) as env:
        kind = env.schema.table(env.catalog.history().newest.generation(table)).keys
        found = trace_key(env, table, key_of(key, kind))
    if json:
        print_json(found)
        return
    if not found:
        stdout.print(f"nothing that is still held has written key {escaped(spelled(key, kind))}")
        return
    reshaped = len({entry.table for entry in found}) > 1
    print_table(
        ["when", "written by", "op", "partition", "offset", "publisher", "term", "learned up to", "counts"],
        [
            (
                format_time(e.at)[:19] + "Z", f"{e.origin}, {e.table}" if reshaped else e.origin, e.op, e.partition, e.offset,
                e.publisher, e.term, format_time(e.trained_through), "yes" if e.live else "no",
            )
            for e in found
        ],
        spare=("term", "partition", "offset", "publisher", "when"),
    )  # fmt: skip


def _version_at(catalog: Catalog, text: str) -> Version:
    """The version meant by a number, or by the state TIMELINE-MARKER that it holds."""
    from ..core.ids import State, Version

    if text.isdigit():
        return Version(int(text))
    if text.replace("-", "", 1).isdigit():
        found = catalog.history().of_state(State.parse(text))
        if found is None:
            raise NotFound(f"no version holds state {text}", hint="`penstock versions` lists them")
        return found.version
    raise InvalidInput(f"--at {text}: a version or a state is needed, as in 12 or 1-12")


def _buckets(env: Environment, text: str | None) -> range | None:
    if text is None:
        return None
    first, dash, last = text.partition("-")
    if not (dash and first.isdigit() and last.isdigit()):
        raise InvalidInput(f"--buckets {text}: A-B is needed, as in 0-127")
    return range(int(first), int(last) + 1)
