"""How well predictions rank: the exact area under the ROC curve, and the same over a sliding window of a stream.

Prequential (test, then train): whoever scores a batch before anyone learns from it gets an honest figure for unseen data.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from penstock.pipeline.core.errors import InvalidInput

from .model import Floats


def auc(labels: Floats, scores: Floats) -> float:
    """The probability that a positive (label 1) outranks a negative (0), ties counting half, by the Mann-Whitney statistic.
    Both float[n]; nan where one of the classes is empty."""
    if labels.shape != scores.shape:
        raise InvalidInput(f"{labels.size} labels for {scores.size} scores")
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2
    positive = labels > 0.5
    positives = int(positive.sum())
    negatives = labels.size - positives
    if not positives or not negatives:
        return float("nan")
    wins = mean_rank[place[positive]].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * negatives))


class SlidingAuc:
    """AUC over the last `batches` batches that were added."""

    def __init__(self, *, batches: int) -> None:
        if batches < 1:
            raise InvalidInput(f"a window of {batches} batches")
        self._batches = batches
        self._window: deque[tuple[Floats, Floats]] = deque(maxlen=batches)

    def copy(self) -> SlidingAuc:
        other = SlidingAuc(batches=self._batches)
        other._window.extend(self._window)
        return other

    def add(self, labels: Floats, scores: Floats) -> float:
        """The AUC with this batch in; arguments as for `auc`."""
        self._window.append((labels, scores))
        return auc(np.concatenate([past for past, _ in self._window]), np.concatenate([past for _, past in self._window]))
