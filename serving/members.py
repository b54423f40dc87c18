"""One replica as a client knows it, and how long it is left alone when it fails. Asks nobody, decides nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.pipeline.core.errors import InvalidInput, PenstockError
from penstock.pipeline.core.ids import Timeline, Version

from .connecting import Connection
from .status import Health

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.05, 2.0


@dataclass(slots=True)
class Member:
    """A replica that is known. `trouble`: why it was not reached, None while it is. `failures`: since it answered a lookup."""

    connection: Connection
    health: Health | None = None
    trouble: PenstockError | None = None
    heard: bool = False
    failures: int = 0
    losses: int = 0
    """How often in a row another one was asked as well, and was quicker."""
    outstanding: int = 0
    busy_until: float = 0.0
    due_at: float = 0.0
    asking: bool = False
    ready: bool = True
    version: Version = Version(0)
    timeline: Timeline = Timeline(0)

    @property
    def url(self) -> str:
        return self.connection.url


def conflict(told: Sequence[Health]) -> PenstockError | None:
    """All are of one model."""
    for what, kinds in (("models", {h.model for h in told}), ("numbers of buckets", {str(h.bucket_count) for h in told})):
        if len(kinds) > 1:
            return InvalidInput(f"the replicas have different {what}: {', '.join(sorted(kinds))}", hint="one client, one model")
    return None


def backoff_s(failures: int) -> float:
    """Before it is asked again; a fleet of clients must not ask all at once."""
    if failures < 1:
        return 0.0
    return min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * float(2 ** min(failures - 1, 10))) * random.uniform(0.5, 1.0)
