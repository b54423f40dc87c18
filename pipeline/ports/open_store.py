"""From the URL in a config to an object store. An adapter's library is imported only when its scheme is asked for."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from ..core.errors import InvalidInput
from .object_keys import checked_key
from .store import ObjectStore

_HINT = 'as in "file:///srv/penstock" or "s3://bucket/prefix"'


def open_store(url: str, *, endpoint: str | None = None, region: str | None = None) -> ObjectStore:
    """The store at `file:///path` or `s3://bucket/prefix`; `endpoint` and `region` are for S3 servers other than Amazon's.

    Nothing is created and nothing is asked of a server yet. `InvalidInput` for another kind of URL.
    """
    scheme, separator, rest = url.partition("://")
    if scheme == "file" and separator:
        if endpoint or region:
            raise InvalidInput(f"store url {url!r}: a local folder has no endpoint and no region")
        path = unquote(rest.removeprefix("localhost"))
        if not path.startswith("/") or "\0" in path:
            raise InvalidInput(f"store url {url!r}: the path must be absolute", hint=_HINT)
        from .local_store import LocalStore

        return LocalStore(Path(path))
    if scheme == "s3" and separator:
        bucket, _, prefix = rest.rstrip("/").partition("/")
        if not bucket:
            raise InvalidInput(f"store url {url!r}: it names no bucket", hint=_HINT)
        from .s3_store import S3Store

        return S3Store(bucket, prefix=checked_key(prefix) if prefix else "", endpoint=endpoint, region=region)
    raise InvalidInput(f"store url {url!r}: not a kind of store that is known", hint=_HINT)
