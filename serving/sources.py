"""Where the addresses of replicas come from: a list, a name in DNS, or the presence records of the catalog."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from penstock.pipeline.core.errors import InvalidInput, Unreachable
from penstock.pipeline.core.times import WallTime

from .connecting import checked_url

if TYPE_CHECKING:
    from penstock.pipeline.catalog.catalog import Catalog


class Source(Protocol):
    """`every_s`: how often it is worth asking again; None: never."""

    @property
    def every_s(self) -> float | None: ...

    def urls(self) -> Sequence[str]:
        """Of the replicas that there are; some may not answer. `Unreachable`: that cannot be told now."""
        ...

    @property
    def name(self) -> str:
        """For errors."""
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """A list that does not change."""

    given: tuple[str, ...]
    every_s: None = None

    @classmethod
    def of(cls, urls: str | Sequence[str]) -> Listed:
        """One, or several, each of which counts once."""
        return cls((urls,) if isinstance(urls, str) else tuple(dict.fromkeys(urls)))

    def __post_init__(self) -> None:
        if not self.given:
            raise InvalidInput("a client needs the URL of a replica")
        for url in self.given:
            checked_url(url)

    @property
    def name(self) -> str:
        return "the list"

    def urls(self) -> Sequence[str]:
        return self.given


def addresses(host: str, port: int) -> list[str]:
    """Every address of a host, in a fixed order."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unreachable(f"{host} has no address: {error.strerror}", hint="is the name right, and does DNS answer?") from None
    return sorted({str(address[0]) for *_, address in found})


@dataclass(frozen=True, slots=True)
class Named:
    """A name that resolves to the addresses of all replicas, as a headless service of Kubernetes has one."""

    url: str
    every_s: float = 5.0
    resolve: Callable[[str, int], Sequence[str]] = addresses

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(checked_url(self.url))
            usable = parts.hostname and parts.port
        except ValueError:
            usable = False
        if not usable:
            raise InvalidInput(f"{self.url!r}: a name and a port are needed", hint="as in grpc://penstock-retail:8815")

    @property
    def name(self) -> str:
        return self.url

    def urls(self) -> Sequence[str]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        found = self.resolve(parts.hostname, parts.port)
        return [f"{parts.scheme}://{f'[{a}]' if ':' in a else a}:{parts.port}" for a in found]


@dataclass(frozen=True, slots=True)
class Present:
    """The replicas of a ref that report to the catalog."""

    catalog: Catalog
    ref: str
    clock: Callable[[], WallTime]
    every_s: float = 2.0

    @property
    def name(self) -> str:
        return f"the presence records of ref {self.ref}"

    def urls(self) -> Sequence[str]:
        from penstock.pipeline.catalog.leases import presences

        found = presences(self.catalog, now=self.clock())
        return sorted({p.address for p in found if p.ref == self.ref and p.address})
