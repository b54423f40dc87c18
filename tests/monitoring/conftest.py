"""Prometheus and its tools."""

from servers.prometheus import promtool

__all__ = ["promtool"]
