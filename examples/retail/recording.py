"""What a run of the example recorded, as plain values: all that its report shows, and nothing of how it was measured."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from penstock.pipeline.core.errors import InvalidInput
from penstock.pipeline.core.times import EventTime

Role = Literal["served", "control", "unhealed"]
"""What replicas served; a trainer that was never poisoned; one that was and was not rolled back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityLine:
    """AUC in a sliding window over event time; `at` strictly grows, and is as long as `auc`."""

    role: Role
    label: str
    at: tuple[EventTime, ...]
    auc: tuple[float, ...]

    def __post_init__(self) -> None:
        _paired(self.label, self.at, self.auc)


@dataclass(frozen=True, slots=True, kw_only=True)
class LagLine:
    """How long an update took from the trainer to one replica's memory, in ms, over seconds since the start of the run."""

    label: str
    at_s: tuple[float, ...]
    lag_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        _paired(self.label, self.at_s, self.lag_ms)
        if any(lag <= 0 for lag in self.lag_ms):
            raise InvalidInput(f"lag of {self.label!r}: every value must be above 0 ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class TierBytes:
    """What one tier moved: bytes in `writes` objects or records, to carry `rows` rows."""

    tier: Literal["snapshot", "delta", "update"]
    bytes: int
    writes: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionMark:
    """A version at the moment of its commit, in seconds since the start of the run."""

    version: int
    kind: Literal["snapshot", "delta", "rollback"]
    timeline: int
    at_s: float
    trained_through: EventTime


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackMark:
    """`at`: the newest event that the trainer had seen when the rollback committed, at `at_s` seconds of the run; nothing
    learned at or after `before` was served any more. `again`: the AUC of the last window before it, scored once more after."""

    at: EventTime
    at_s: float
    before: EventTime
    again: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table: what, how much (unit included), and how it was measured."""

    name: str
    value: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    title: str
    summary: str
    quality: tuple[QualityLine, ...]
    lag: tuple[LagLine, ...]
    tiers: tuple[TierBytes, ...]
    versions: tuple[VersionMark, ...]
    poison: tuple[EventTime, EventTime]
    rollback: RollbackMark
    figures: tuple[Figure, ...]


def _paired(label: str, at: tuple[float, ...], values: tuple[float, ...]) -> None:
    if len(at) != len(values) or not at:
        raise InvalidInput(f"{label!r}: {len(values)} values at {len(at)} times")
    if any(later <= earlier for earlier, later in pairwise(at)):
        raise InvalidInput(f"{label!r}: its times must grow")
