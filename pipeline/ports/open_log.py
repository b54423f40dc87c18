"""Which adapter a log's URL means. It imports the one that is asked for, and knows nothing of what either does."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..core.errors import InvalidInput
from ..core.ids import checked_name
from .log import UpdateLog
from .log_checks import LogSettings


def open_log(
    url: str,
    *,
    name: str,
    partitions: int | None = None,
    create: LogSettings | None = None,
    options: Mapping[str, str] | None = None,
) -> UpdateLog:
    """The log `name` at `url`: the folder <path>/<name> of file:///path, the topic penstock-<name> of kafka://host:port,….

    With `create` it is made when absent, with these settings and `partitions`; without, that is `NotFound`. `partitions`
    None takes what is there, else a difference is `Refused`. `options`: `fsync` (always, batch, never) of a file log,
    kafka-python's security options of a Kafka log.
    """
    where = _place(url, name)
    if isinstance(where, Path):
        from .file_log import fsync_policy, open_file_log

        return open_file_log(where, partitions=partitions, create=create, fsync=fsync_policy(options or {}))
    from .kafka_log import open_kafka_log

    return open_kafka_log(where.servers, where.topic, partitions=partitions, create=create, options=options)


def remove_log(url: str, *, name: str, options: Mapping[str, str] | None = None) -> None:
    """Takes the log `name` away, with all that is in it; nothing happens where there is none. Nobody may have it open."""
    where = _place(url, name)
    if isinstance(where, Path):
        shutil.rmtree(where, ignore_errors=not where.exists())
        return
    from .kafka_topic import remove_topic

    remove_topic(where.servers, where.topic, options or {})


@dataclass(frozen=True, slots=True)
class _Topic:
    servers: str
    topic: str


def _place(url: str, name: str) -> Path | _Topic:
    """The folder or the topic that is meant."""
    checked_name(name, "log")
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise InvalidInput(
            f"log url: a {parts.scheme}:// address holds no user and no password",
            hint="those of a Kafka log are options: sasl_plain_username, sasl_plain_password",
        )
    if parts.query or parts.fragment:
        raise InvalidInput(f"log url {url!r}: no '?' or '#'")
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise InvalidInput(f"log url {url!r}: a folder is given as file:///path")
        return Path(unquote(parts.path)) / name
    if parts.scheme == "kafka":
        if not parts.netloc or parts.path not in ("", "/"):
            raise InvalidInput(f"log url {url!r}: servers are given as kafka://host:port,host:port")
        return _Topic(parts.netloc, f"penstock-{name}")
    raise InvalidInput(f"log url {url!r}: neither file:// nor kafka://")
