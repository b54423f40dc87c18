"""The online trainer: learns from one batch after the other, says what it touched, and gives and takes its whole state.

It knows the model and its optimizers, and nothing of streams, files or delivery; it reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from penstock.pipeline.core.errors import InvalidInput
from penstock.pipeline.core.times import NEVER, EventTime

from .keys import Keys
from .model import DENSE_SHAPES, TABLES, Floats, gradients, initial_dense, score, time_context
from .stream import Batch
from .table import INITIAL_ACCUMULATOR, EmbeddingTable, empty_table

ROW_RATE = 0.15
DENSE_RATE = 0.05


@dataclass(frozen=True, slots=True)
class TableState:
    """Keys int64[n], rows float32[n, 16]; accumulators float32[n], None where they were not kept."""

    keys: Keys
    rows: Floats
    accumulators: Floats | None


@dataclass(frozen=True, slots=True)
class TrainerState:
    """All that a trainer needs to go on: `steps` batches are learned, the newest event among them at `trained_through`.
    `dense` and `dense_accumulators` as `DENSE_SHAPES`; the latter None where they were not kept."""

    steps: int
    trained_through: EventTime
    tables: Mapping[str, TableState]
    dense: Mapping[str, Floats]
    dense_accumulators: Mapping[str, Floats] | None


@dataclass(frozen=True, slots=True)
class Step:
    """One batch learned. `loss`: its mean binary cross-entropy in nats before; `touched`: int64 keys by table, each once;
    `trained_through`: of the trainer, which only grows."""

    number: int
    loss: float
    touched: dict[str, Keys]
    trained_through: EventTime


def fresh_state(*, seed: int) -> TrainerState:
    """Of a trainer that has learned from nothing."""
    table = empty_table()
    nothing = TableState(table.keys, table.rows, table.accumulators)
    return TrainerState(0, NEVER, dict.fromkeys(TABLES, nothing), initial_dense(seed), None)


class OnlineTrainer:
    """Adagrad for the dense part, row-wise Adagrad for the tables."""

    def __init__(self, state: TrainerState) -> None:
        """Goes on from `state`, whose arrays are copied. Where accumulators are missing, they restart at
        `INITIAL_ACCUMULATOR`. `InvalidInput` when a table or a parameter is missing, or of another shape."""
        if set(state.tables) != set(TABLES):
            raise InvalidInput(f"a state of the tables {sorted(state.tables)}; the model has {sorted(TABLES)}")
        self._tables = {name: EmbeddingTable(t.keys, t.rows, t.accumulators) for name, t in state.tables.items()}
        self._dense = _checked(state.dense)
        born = {name: np.full(shape, INITIAL_ACCUMULATOR, np.float32) for name, shape in DENSE_SHAPES.items()}
        self._dense_accumulators = _checked(state.dense_accumulators or born)
        self._steps, self._through = state.steps, state.trained_through

    @property
    def steps(self) -> int:
        return self._steps

    @property
    def trained_through(self) -> EventTime:
        return self._through

    @property
    def dense(self) -> dict[str, Floats]:
        """A copy."""
        return {name: values.copy() for name, values in self._dense.items()}

    def rows(self, table: str, keys: Keys) -> Floats:
        """int64[n] -> float32[n, 16], zeros where there is no row."""
        return self._tables[table].lookup(keys)

    def sizes(self) -> dict[str, int]:
        """Rows by table."""
        return {name: len(table) for name, table in self._tables.items()}

    def predict(self, batch: Batch) -> Floats:
        """float32[n], the probability of each example; nothing is learned and no row is born."""
        rows = {name: table.lookup(batch.keys[name]) for name, table in self._tables.items()}
        return score(rows, time_context(batch.at), self._dense)

    def learn(self, batch: Batch) -> Step:
        slots = {name: table.born(batch.keys[name]) for name, table in self._tables.items()}
        rows = {name: table.read(slots[name]) for name, table in self._tables.items()}
        found = gradients(rows, time_context(batch.at), self._dense, batch.reported)
        for name, total in found.dense.items():
            gradient = total / batch.at.size
            self._dense_accumulators[name] += gradient * gradient
            self._dense[name] -= DENSE_RATE * gradient / np.sqrt(self._dense_accumulators[name])
        touched = {name: table.learn(slots[name], found.rows[name], rate=ROW_RATE) for name, table in self._tables.items()}
        self._steps += 1
        self._through = max(self._through, batch.trained_through)
        return Step(number=self._steps, loss=found.loss, touched=touched, trained_through=self._through)

    def state(self) -> TrainerState:
        """A copy that later steps do not change."""
        return TrainerState(
            steps=self._steps, trained_through=self._through, dense=self.dense,
            tables={name: TableState(t.keys, t.rows, t.accumulators) for name, t in self._tables.items()},
            dense_accumulators={name: values.copy() for name, values in self._dense_accumulators.items()},
        )  # fmt: skip


def _checked(parameters: Mapping[str, Floats]) -> dict[str, Floats]:
    """A copy of dense parameters."""
    if (shapes := {name: values.shape for name, values in parameters.items()}) != DENSE_SHAPES:
        raise InvalidInput(f"dense parameters {shapes}; the model has {DENSE_SHAPES}")
    return {name: values.astype(np.float32) for name, values in parameters.items()}
