"""Plain HTTP for those who watch over processes (Kubernetes probes, load balancers, Prometheus): is it alive, should it be asked,
what does it serve, how does it fare. No lookup, no token, nothing that is secret."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

import msgspec
from prometheus_client.registry import Collector

from penstock.pipeline.exposition import METRICS_PATH, Exposition
from penstock.pipeline.plain_http import Page, PlainHttp

from .status import Health


class Starting(msgspec.Struct, frozen=True, kw_only=True):
    """What is said until there is something to serve."""

    ready: bool = False
    why: str = "it is still loading"


class Probes(PlainHttp):
    """`/healthz`: 503 once it will not recover by itself; `/readyz`: 503 while it should not be asked; `/version`: what is
    served. The body is `Health` as JSON. `/metrics`: for Prometheus."""

    paths = ("/healthz", "/readyz", "/version", METRICS_PATH)

    def __init__(self, *, host: str, port: int) -> None:
        self._told: Callable[[], Health] | None = None
        self._exposition = Exposition()
        super().__init__(host=host, port=port)

    def tell(self, told: Callable[[], Health], metrics: Collector | None = None) -> None:
        """There is something to serve from now on: `told` says how it is, `metrics` what it measures."""
        self._told = told
        if metrics is not None:
            self._exposition.add(metrics)

    def said(self) -> Health | Starting:
        return Starting() if self._told is None else self._told()

    def page(self, path: str, accept: str) -> Page:
        if path == METRICS_PATH:
            return self._exposition.page(accept)
        said = self.said()
        return Page(_status(path, said), "application/json", msgspec.json.encode(said) + b"\n")


def _status(path: str, said: Health | Starting) -> HTTPStatus:
    is_well = True
    if path == "/readyz":
        is_well = said.ready
    elif path == "/healthz":
        is_well = isinstance(said, Starting) or not said.failure
    elif path == "/version":
        is_well = isinstance(said, Health)
    return HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE
