"""A stretch of the stream that is corrupted the way real ones are: a release of the shop's client swaps two event names.

From `begin` until the release is withdrawn, the broken clients report what was shown as bought, and what was bought as shown.
Orders are billed as ever, so quality can still be measured against what happened, while the trainer learns the opposite.
Volume, schema and key distribution stay as they were: no check of the input alone would notice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from penstock.pipeline.core.errors import InvalidInput
from penstock.pipeline.core.times import EventTime, format_time

from .keys import fraction, scattered
from .stream import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class SwappedLabels:
    """Event times in [begin, end); `share` of the sessions (a customer at one minute), chosen by hash, have the broken client."""

    begin: EventTime
    end: EventTime
    share: float

    def __post_init__(self) -> None:
        if self.end <= self.begin:
            raise InvalidInput(f"a poison window from {format_time(self.begin)} to {format_time(self.end)} is empty")
        if not 0 < self.share <= 1:
            raise InvalidInput(f"share {self.share} of the sessions: must be above 0 and at most 1")

    def reported(self, batch: Batch) -> Batch:
        """The batch as the clients report it; the very batch when none of it lies in the window."""
        within = (batch.at >= self.begin) & (batch.at < self.end)
        if not within.any():
            return batch
        session = scattered(batch.keys["customer"].astype(np.uint64)) + batch.at.astype(np.uint64)
        swapped = within & (fraction(scattered(session)) < self.share)
        return replace(batch, reported=np.where(swapped, 1 - batch.billed, batch.billed))
