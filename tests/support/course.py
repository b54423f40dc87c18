"""What a trainer learns, step by step, as a function of the step alone: whoever knows the number of a step knows every row.

So a trainer that was killed puts the same rows again from its checkpoint on, and a test knows what must be there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

KEYS, DIM = 4000, 8
ROWS_A_STEP, DELETED_A_STEP, DELETES_EVERY = 300, 7, 5
Steps = NDArray[np.int64]


def touched(step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The keys that the step puts, and those that it deletes."""
    keys = np.random.default_rng((2026, step)).choice(KEYS, ROWS_A_STEP + DELETED_A_STEP, replace=False)
    return keys[DELETED_A_STEP:], keys[:DELETED_A_STEP] if step % DELETES_EVERY == 0 else keys[:0]


def rows_at(keys: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32[n, DIM]: the row that step steps[i] gives keys[i]. The step comes first, the rest tells torn rows."""
    factors = np.arange(1, DIM) * 31
    rest = (keys[:, None] * factors + steps[:, None] * 17) % 997
    return np.concatenate((steps[:, None], rest), axis=1).astype(np.float32)


@dataclass
class Course:
    """The table after `step`: the step that put each key last, 0 where there is none; `deleted_at` the step that deleted it
    last, if ever."""

    step: int = 0
    put_at: Steps = field(default_factory=lambda: np.zeros(KEYS, np.int64))
    deleted_at: Steps = field(default_factory=lambda: np.zeros(KEYS, np.int64))

    def advance(self, step: int) -> None:
        while self.step < step:
            self.step += 1
            keys, deleted = touched(self.step)
            self.put_at[keys] = self.step
            self.deleted_at[deleted] = self.step

    @property
    def touched_at(self) -> Steps:
        """The step that wrote each key last."""
        return np.maximum(self.put_at, self.deleted_at)

    @property
    def there(self) -> NDArray[np.bool_]:
        return self.put_at > self.deleted_at

    def table(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Keys and rows of all that is there."""
        keys = np.flatnonzero(self.there)
        return keys, rows_at(keys, self.put_at[keys])
