"""Feature transforms: from what a service knows of a request to the keys that a model looks up. They are plug-ins: a package
offers one under a name in the entry point group `penstock.transforms`, and a config names it.

    [project.entry-points."penstock.transforms"]
    retail = "my_service.features:transform"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import cast

from penstock.pipeline.core.errors import InvalidInput, NotFound

from .inputs import Features

GROUP = "penstock.transforms"
Transform = Callable[[Mapping[str, object]], Features]
"""Raw features of a request, by name, to the features that are looked up."""


def transform_names() -> list[str]:
    """Those that are installed."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_transform(name: str) -> Transform:
    """`NotFound` lists those that are installed; `InvalidInput`: it cannot be imported, or cannot be called, or two have that
    name."""
    found = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if not found:
        known = ", ".join(transform_names()) or "none"
        raise NotFound(
            f"no feature transform {name!r} is installed (transforms: {known})",
            hint=f"install a package with an entry point in {GROUP}",
        )
    if len(found) > 1:
        raise InvalidInput(f"feature transform {name!r}: {' and '.join(sorted(found))} have that name")
    (point,) = found.values()
    try:
        loaded = point.load()
    except Exception as error:  # what a plug-in raises is its own affair
        raise InvalidInput(f"feature transform {name!r} ({point.value}) cannot be loaded: {error}") from error
    if not callable(loaded):
        raise InvalidInput(f"feature transform {name!r} ({point.value}) is {type(loaded).__name__}, not a function")
    return cast(Transform, loaded)
