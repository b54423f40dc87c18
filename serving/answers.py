"""What a lookup gives, in the replica and over the network. Light: an inference service imports it without the replica."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.ids import Offset, Partition, Timeline, Version


@dataclass(frozen=True, slots=True)
class Answer:
    """`rows` float32[n, dim], `found` bool[n]; the version and timeline that the rows belong to, or are newer than. `positions`:
    of rows that follow the log, what of it they have at least, per partition: all before this offset."""

    rows: NDArray[np.float32]
    found: NDArray[np.bool_]
    version: Version
    timeline: Timeline
    positions: Mapping[Partition, Offset] = field(default_factory=dict)
