"""/metrics: what collectors measure, in the words of Prometheus, with what the process itself uses. Knows no metric."""

from __future__ import annotations

from http import HTTPStatus

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from .plain_http import Page, PlainHttp

METRICS_PATH = "/metrics"


class Exposition:
    """Collectors can be added at any time; each is asked when somebody looks."""

    def __init__(self, *collectors: Collector) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        for collector in collectors:
            self.add(collector)

    def add(self, collector: Collector) -> None:
        self._registry.register(collector)

    def page(self, accept: str) -> Page:
        encode, content_type = choose_encoder(accept)
        return Page(HTTPStatus.OK, content_type, encode(self._registry))


class MetricsServer(PlainHttp):
    """Tells the metrics, and nothing else."""

    paths = (METRICS_PATH,)

    def __init__(self, exposition: Exposition, *, host: str, port: int) -> None:
        self.exposition = exposition
        super().__init__(host=host, port=port)

    def page(self, path: str, accept: str) -> Page:
        return self.exposition.page(accept)
