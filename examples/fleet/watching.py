"""Watches the fleet as those see it who use it: batches are scored with what the replicas serve, before the trainer learns them,
and the replicas' own metrics say how long rows take."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from penstock.examples.retail.inference import Inference
from penstock.examples.retail.quality import SlidingAuc
from penstock.examples.retail.story import AUC_BATCHES, story_stream
from penstock.examples.retail.stream import read_purchases
from penstock.pipeline.core.errors import PenstockError

from .trainer import Learned

LOOK_S = 0.05
LAG = "penstock_update_lag_seconds"


class Journal:
    """What the trainer has written down."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0
        self.lines: list[Learned] = []

    def read(self) -> None:
        """Takes what is new."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._at += len(whole) + len(newline)
        self.lines += [msgspec.json.decode(line, type=Learned) for line in whole.splitlines()]


@dataclass(frozen=True, slots=True)
class Scored:
    """AUC over the last `AUC_BATCHES` batches scored, at `at_s` seconds of the run; the last of them was `batch`."""

    at_s: float
    batch: int
    auc: float


class Scorer:
    """Scores, in a thread of its own, each batch that the trainer comes to next, by one replica and the other."""

    def __init__(self, journal: Path, inference: Inference, now_s: Callable[[], float]) -> None:
        self.journal, self._inference, self._now_s = Journal(journal), inference, now_s
        self._stream = story_stream(read_purchases())
        self._window = SlidingAuc(batches=AUC_BATCHES)
        self.points: list[Scored] = []
        self.trouble: PenstockError | None = None
        self._scored = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scorer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def newest(self) -> Scored | None:
        """`PenstockError` if scoring has come to an end."""
        if self.trouble is not None:
            raise self.trouble
        return self.points[-1] if self.points else None

    def first_poisoned(self) -> Learned | None:
        return next((line for line in self.journal.lines if line.is_poisoned), None)

    def _run(self) -> None:
        last = -1
        try:
            while not self._stop.wait(LOOK_S):
                self.journal.read()
                if self.journal.lines and (batch := self.journal.lines[-1].batch + 1) != last:
                    self._score(batch)
                    last = batch
        except PenstockError as error:
            self.trouble = error

    def _score(self, number: int) -> None:
        batch = self._stream.batch(number % len(self._stream))
        value = self._window.add(batch.billed, self._inference.next().scores(batch))
        self._scored += 1
        if self._scored >= AUC_BATCHES:
            self.points.append(Scored(self._now_s(), number, value))


# ---- lag -------------------------------------------------------------------------------------------------------------------

Buckets = Mapping[float, float]
"""Rows that took so many seconds at most, by that number, as Prometheus counts."""


def update_lag(url: str) -> Buckets:
    """Of all rows that a replica has had over the log so far, by its own metrics."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[float, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples if family.name == LAG else ():
            if sample.name == f"{LAG}_bucket":
                limit = float(sample.labels["le"])
                found[limit] = found.get(limit, 0.0) + sample.value
    return found


def joined(parts: list[Buckets], before: list[Buckets]) -> Buckets:
    """What several replicas have had between two looks."""
    limits = sorted({limit for part in parts for limit in part})
    return {limit: sum(part.get(limit, 0.0) for part in parts) - sum(part.get(limit, 0.0) for part in before) for limit in limits}


def quantile(buckets: Buckets, share: float) -> float:
    """Seconds within which `share` of the rows came, as `histogram_quantile` has it; nan without rows."""
    limits = sorted(buckets)
    if not limits or not buckets[limits[-1]]:
        return float("nan")
    wanted = share * buckets[limits[-1]]
    for below, limit in pairwise([0.0, *limits]):
        if buckets[limit] >= wanted:
            if limit == float("inf"):
                return below
            under = buckets.get(below, 0.0)
            return below + (limit - below) * (wanted - under) / (buckets[limit] - under)
    return limits[-1]
