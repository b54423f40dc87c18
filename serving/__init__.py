"""What an inference service needs: `Client` asks replicas; `Replica` and `Server` are one. Each is imported when it is asked for,
so that a client does not load the replica's machinery."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .answers import Answer
    from .async_client import AsyncClient
    from .client import Client
    from .replica import Replica
    from .server import Server

__all__ = ["Answer", "AsyncClient", "Client", "Replica", "Server"]
_MODULES = {"Answer": "answers", "AsyncClient": "async_client", "Client": "client", "Replica": "replica", "Server": "server"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
