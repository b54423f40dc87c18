"""What a model is asked with, and what it gets: features in, rows and the dense slice out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.ids import Timeline, Version

from ..asked_keys import Asked, asked_keys
from ..bags import Bags, Pooling
from .members import Keys


@dataclass(frozen=True, slots=True)
class Feature:
    """Keys of a table, integers or texts. With `offsets` (int64[bags], as in torch's `EmbeddingBag`) the rows of each bag are
    pooled."""

    table: str
    keys: Asked
    offsets: NDArray[np.int64] | None = None
    pooling: Pooling = "sum"

    def checked(self) -> Checked:
        """`InvalidInput`: keys that are none, offsets that do not fit."""
        keys, hashed = asked_keys(self.table, self.keys)
        bags = None
        if self.offsets is not None:
            bags = Bags(np.asarray(self.offsets), self.pooling)
            bags.check(self.table, keys.size)
        return Checked(self.table, keys, bags, hashed)


@dataclass(frozen=True, slots=True)
class Checked:
    """`hashed`: the keys (int64[n]) were texts."""

    table: str
    keys: Keys
    bags: Bags | None
    hashed: bool


Features = Mapping[str, Feature | Asked]
"""By name; keys alone are of the table of that name."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the rows of the keys came from, repeated keys counted each time: `hot` and `near` in this process, `cluster`;
    `defaults` stand in for what nobody could be asked for."""

    hot: int = 0
    near: int = 0
    cluster: int = 0
    defaults: int = 0

    def plus(self, other: Sources) -> Sources:
        return Sources(self.hot + other.hot, self.near + other.near, self.cluster + other.cluster, self.defaults + other.defaults)

    @property
    def keys(self) -> int:
        return self.hot + self.near + self.cluster + self.defaults

    @property
    def hit_ratio(self) -> float:
        """What was answered in this process."""
        return (self.hot + self.near) / self.keys if self.keys else 0.0


@dataclass(frozen=True, slots=True)
class Inputs:
    """All of one timeline: `rows` float32[n, dim], or float32[bags, dim], and `found` bool[n] by feature; `dense` tensors by
    name, of `version`. The rows are those of that version, or newer ones that the log brought on the same timeline."""

    rows: Mapping[str, NDArray[np.float32]]
    found: Mapping[str, NDArray[np.bool_]]
    dense: Mapping[str, NDArray[Any]]
    version: Version
    timeline: Timeline
    sources: Sources


def checked(features: Features) -> dict[str, Checked]:
    """Errors as of `Feature.checked`."""
    return {name: (some if isinstance(some, Feature) else Feature(name, some)).checked() for name, some in features.items()}
