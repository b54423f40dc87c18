"""The settings of the story that the example tells: which batches, and which stretch of them is poisoned.

Chosen by rehearsal: the online trainer has reached its plateau by mid-May, and four days of swapped labels are enough to turn
its ranking upside down, while five weeks remain to see it recover.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.pipeline.core.times import event_time

from .poison import SwappedLabels
from .stream import Purchases, PurchaseStream

PURCHASES_A_BATCH = 256
NEGATIVES = 3
SEED = 1
AUC_BATCHES = 16
"""The sliding window of quality: 4,096 purchases, about two and a half days of business."""
POISON = SwappedLabels(begin=event_time("2011-05-16T00:00:00Z"), end=event_time("2011-05-20T00:00:00Z"), share=0.8)


def story_stream(purchases: Purchases, *, seed: int = SEED) -> PurchaseStream:
    return PurchaseStream(purchases, size=PURCHASES_A_BATCH, negatives=NEGATIVES, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Which batches the demo plays: those before `online` are learned before anything is delivered, the last is `end` - 1."""

    online: int
    end: int
    checkpoint_every: int


FULL = Script(online=150, end=911, checkpoint_every=32)
SHORT = Script(online=660, end=800, checkpoint_every=20)
