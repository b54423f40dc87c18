"""What a service that scores needs in its own process: hot rows, dense slice, features. Each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .frequencies import read_frequencies
    from .inputs import Feature, Inputs
    from .node import InferenceNode
    from .traffic import Counted
    from .transforms import load_transform

__all__ = ["Counted", "Feature", "InferenceNode", "Inputs", "load_transform", "read_frequencies"]
_MODULES = {
    "Counted": "traffic", "Feature": "inputs", "InferenceNode": "node", "Inputs": "inputs", "load_transform": "transforms",
    "read_frequencies": "frequencies",
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
