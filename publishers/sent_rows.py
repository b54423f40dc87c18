# mypy: disable-error-code="no-untyped-def,no-any-return,no-untyped-call,call-arg"
"""What is remembered of rows that went out, and of how often their keys are asked for: a table of bounded size. Arrays only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from penstock.pipeline.core.hashing import mix, prefetch

U64 = np.uint64
SKETCH = 4
NOTHING, WEIGHT_ONLY, SENT = 0, 1, 2
CHANGE, CHANGES, TRAFFIC, TRAFFICS = 0, 1, 2, 3
MEMORY = 65536.0
"""Over how many changes, or counts of requests, the table's own mean runs."""
MOST_WEIGHT = 16.0


class Sent(NamedTuple):
    """What is remembered of keys whose row went out, each at the place that its hash gives, the newest of those that share one.
    `weights` are requests relative to the table's mean, 0 where unknown; `means`: see the constants."""

    keys: NDArray[np.int64]
    states: NDArray[np.uint8]
    sketches: NDArray[np.float32]
    weights: NDArray[np.float32]
    means: NDArray[np.float64]


def new_sent(places: int) -> Sent:
    """Nothing is remembered; `places` is a power of two."""
    return Sent(
        keys=np.empty(places, np.int64), states=np.zeros(places, np.uint8), sketches=np.empty((places, SKETCH), np.float32),
        weights=np.zeros(places, np.float32), means=np.zeros(4, np.float64),
    )  # fmt: skip


@njit(cache=True)
def ask_for(sent, key):
    """Asks for what is remembered of a key."""
    at = np.int64(mix(key) & U64(sent.keys.size - 1))
    prefetch(sent.keys, at)
    prefetch(sent.states, at)
    prefetch(sent.sketches, SKETCH * at)
    prefetch(sent.weights, at)


@njit(nogil=True, cache=True)
def weigh(sent, keys, counts):
    """How often int64[n] keys were asked for, float64[n], against the mean of the counts so far."""
    for i in range(keys.size):
        sent.means[TRAFFICS] = min(sent.means[TRAFFICS] + 1, MEMORY)
        sent.means[TRAFFIC] += (counts[i] - sent.means[TRAFFIC]) / sent.means[TRAFFICS]
    for i in range(keys.size if sent.means[TRAFFIC] > 0 else 0):
        at = mix(keys[i]) & U64(sent.keys.size - 1)
        if sent.states[at] == NOTHING or sent.keys[at] != keys[i]:
            sent.keys[at], sent.states[at] = keys[i], WEIGHT_ONLY
        relative = counts[i] / sent.means[TRAFFIC]
        sent.weights[at] = min(max(relative, 1 / MOST_WEIGHT), MOST_WEIGHT)
