"""The story without any delivery: one process, no replicas. What rollback can win at best, and the control to compare with.

Three trainers see the same stream: one whose labels are never poisoned; one that learns the poison and goes on; and one
that learns it and at its end returns to the state before, skipping the stretch. Run: `python -m
penstock.examples.retail.rehearsal`.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from penstock.pipeline.core.times import EventTime, format_time

from .poison import SwappedLabels
from .quality import SlidingAuc
from .story import AUC_BATCHES, POISON, story_stream
from .stream import Batch, PurchaseStream, read_purchases
from .trainer import OnlineTrainer, TrainerState, fresh_state

SEEDS = (1, 2, 3, 4, 5)


@dataclass(frozen=True, slots=True)
class Quality:
    """Prequential AUC in a sliding window, after the batch whose newest event is at `at`."""

    batch: int
    at: EventTime
    auc: float


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The series of the three trainers; batches [`first`, `after`) hold the poison."""

    first: int
    after: int
    control: tuple[Quality, ...]
    unhealed: tuple[Quality, ...]
    rolled_back: tuple[Quality, ...]

    def before(self) -> float:
        """Of all three, by the last batch before the poison."""
        return self.control[self.first - 1].auc

    def lowest(self) -> float:
        return min(point.auc for point in self.unhealed[self.first : self.after])

    def mean_after(self, series: tuple[Quality, ...], *, batches: int) -> float:
        """Over the first `batches` windows that hold nothing of the poisoned stretch."""
        clean = self.after + AUC_BATCHES - 1
        return statistics.fmean(point.auc for point in series[clean : clean + batches])


class _Run:
    """One trainer and its quality."""

    def __init__(self, state: TrainerState) -> None:
        self.trainer = OnlineTrainer(state)
        self.series: list[Quality] = []
        self._window = SlidingAuc(batches=AUC_BATCHES)

    def go(self, batch: Batch, learned: Batch) -> None:
        value = self._window.add(batch.billed, self.trainer.predict(batch))
        self.series.append(Quality(batch.number, batch.trained_through, value))
        self.trainer.learn(learned)

    def fork(self) -> _Run:
        """A second run with the same past."""
        run = _Run(self.trainer.state())
        run.series = list(self.series)
        run._window = self._window.copy()
        return run


def rehearse(stream: PurchaseStream, poison: SwappedLabels, *, seed: int) -> Rehearsal:
    """`seed`: of the model's parameters."""
    first, after = stream.first_at(poison.begin), stream.first_at(poison.end)
    control = _Run(fresh_state(seed=seed))
    for number in range(first):
        batch = stream.batch(number)
        control.go(batch, batch)
    good = control.trainer.state()
    unhealed = control.fork()
    for number in range(first, after):
        batch = stream.batch(number)
        control.go(batch, batch)
        unhealed.go(batch, poison.reported(batch))
    rolled_back = unhealed.fork()
    rolled_back.trainer = OnlineTrainer(good)
    for number in range(after, len(stream)):
        batch = stream.batch(number)
        # The first of these may still hold a few events of the stretch; nobody cuts a batch in two.
        for run in (control, unhealed, rolled_back):
            run.go(batch, batch if run is control else poison.reported(batch))
    return Rehearsal(first, after, tuple(control.series), tuple(unhealed.series), tuple(rolled_back.series))


def main() -> None:
    purchases = read_purchases()
    print(f"poison from {format_time(POISON.begin)} to {format_time(POISON.end)}, {POISON.share:.0%} of the sessions")
    print("AUC: before the poison, lowest, and the mean over the first 20 and the first 100 clean windows of")
    print("                        never poisoned      no rollback      rolled back")
    print("seed  before  lowest        20     100       20     100       20     100")
    for seed in SEEDS:
        found = rehearse(story_stream(purchases, seed=seed), POISON, seed=seed)
        means = [
            f"{found.mean_after(series, batches=20):.3f}   {found.mean_after(series, batches=100):.3f}"
            for series in (found.control, found.unhealed, found.rolled_back)
        ]
        print(f"{seed:4}   {found.before():.3f}   {found.lowest():.3f}     {'    '.join(means)}")


if __name__ == "__main__":
    main()
