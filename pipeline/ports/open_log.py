"""Which adapter a log's URL means. It imports the one that is asked for, and knows nothing of what either does."""

from __future__ import annotations

from collections.abc import Mapping
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
    checked_name(name, "log")
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise InvalidInput(f"log url {url!r}: no '?' or '#'")
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise InvalidInput(f"log url {url!r}: a folder is given as file:///path")
        from .file_log import fsync_policy, open_file_log

        folder = Path(unquote(parts.path)) / name
        return open_file_log(folder, partitions=partitions, create=create, fsync=fsync_policy(options or {}))
    if parts.scheme == "kafka":
        if not parts.netloc or parts.path not in ("", "/"):
            raise InvalidInput(f"log url {url!r}: servers are given as kafka://host:port,host:port")
        from .kafka_log import open_kafka_log

        return open_kafka_log(parts.netloc, f"penstock-{name}", partitions=partitions, create=create, options=options)
    raise InvalidInput(f"log url {url!r}: neither file:// nor kafka://")
