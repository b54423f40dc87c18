"""What is in a run beside rows, checkpoints, deltas and rollbacks. Each run has some of it, so that what hides behind one feature
is seen without it (swarm testing: Groce et al., 2012)."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from .states import Rows

FEATURES = ("canary", "offline", "pins", "reshaping", "shards")
"""`canary`: a replica of a ref that follows versions; `offline`: rounds whose trainer has no realtime tier; `pins`: versions that
are kept, and a replica that serves one of them for ever; `reshaping`: tables get another dim, or go; `shards`: replicas that hold
some buckets."""


def drawn(chance: random.Random) -> frozenset[str]:
    return frozenset(chance.sample(FEATURES, chance.choice((0, 1, 1, 2, len(FEATURES)))))


@dataclass(frozen=True)
class Shapes:
    """Of which shape the tables are, as far as trainers of today are concerned: `dims` by table; those `retired` have gone."""

    sizes: tuple[tuple[str, int], ...] = (("a", 2), ("b", 2))
    retired: frozenset[str] = frozenset()

    @property
    def dims(self) -> dict[str, int]:
        return dict(self.sizes)

    @property
    def tables(self) -> list[str]:
        return sorted(self.dims.keys() - self.retired)

    def with_dim(self, table: str, dim: int) -> Shapes:
        return replace(self, sizes=tuple(sorted({**self.dims, table: dim}.items())))

    def fit(self, rows: Rows) -> Rows:
        """Rows of any shapes in these ones: what is new of a row is zeros."""
        dims = self.dims
        kept = {key: row for key, row in rows.items() if key[0] not in self.retired}
        return {key: (*row, *[0.0] * dims[key[0]])[: dims[key[0]]] for key, row in kept.items()}
