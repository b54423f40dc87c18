"""Watches the story while it plays: what is scored, how long rows take to arrive, how far replicas are behind, and shows it."""

from __future__ import annotations

import time
from bisect import bisect_right

from penstock.pipeline.core.ids import Version
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.times import EventTime, parse_time
from penstock.serving.status import ReplicaStatus

from .inference import Asked, Inference
from .live import Moment, ReplicaLine, Screen
from .measuring import Lags, LogMeter, ServedQuality
from .model import Floats
from .recording import TierBytes
from .story import POISON
from .stream import Batch
from .trainer import OnlineTrainer, Step

SAMPLE_EVERY = 4
"""Of so many batches one shows how far replicas are behind; the others time how their rows arrive."""
PROBED = "product"


class Watch:
    """`batches` is how many there are. `meter` counts what is in the log."""

    def __init__(self, screen: Screen, inference: Inference, meter: LogMeter, *, batches: int) -> None:
        self._screen, self._inference, self._batches = screen, inference, batches
        self._began = time.perf_counter()
        self._published = {
            "snapshot": TierBytes(tier="snapshot", bytes=0, writes=0, rows=0),
            "delta": TierBytes(tier="delta", bytes=0, writes=0, rows=0),
        }
        self._awaited: tuple[Version, float] | None = None
        self.meter, self.quality = meter, ServedQuality()
        self.lags: dict[str, Lags] = {}
        self.behind: list[int] = []
        """Batches that each replica was behind the trainer, when it was asked just after a put."""
        self.adopted_s: list[float] = []
        self.purchases = 0
        self._learned: list[EventTime] = []

    def now_s(self) -> float:
        """Seconds since the watch began."""
        return time.perf_counter() - self._began

    @property
    def tiers(self) -> tuple[TierBytes, ...]:
        return (*self._published.values(), self.meter.tier())

    def scored(self, batch: Batch, scores: Floats) -> None:
        self.quality.add(batch.number, batch.trained_through, batch.billed, scores)
        self.purchases += int(batch.billed.sum())

    def learned(self, batch: Batch, step: Step, trainer: OnlineTrainer, replica: Asked, put_at: float) -> None:
        """A step whose rows were put from `put_at` (of `time.perf_counter`) on; `replica` is the one that is timed."""
        self._learned.append(step.trained_through)
        if batch.number % SAMPLE_EVERY == 0:
            self._sample(batch, step.trained_through)
        else:
            key = step.touched[PROBED][-1:]
            ms = replica.arrival_ms(PROBED, int(key[0]), trainer.rows(PROBED, key)[0], since=put_at)
            self.lags.setdefault(replica.name, Lags()).add(self.now_s(), ms)
        if self._awaited is not None:
            version, since = self._awaited
            if all(asked.status().version >= version for asked in self._inference.replicas):
                self.adopted_s.append(time.perf_counter() - since)
                self._awaited = None

    def published(self, manifest: Manifest) -> None:
        so_far = self._published[manifest.kind]
        self._published[manifest.kind] = TierBytes(
            tier=so_far.tier, bytes=so_far.bytes + manifest.bytes, writes=so_far.writes + 1,
            rows=so_far.rows + manifest.rows + manifest.tombstones,
        )  # fmt: skip

    def awaits(self, manifest: Manifest, *, since: float) -> None:
        """Notes when all replicas have this version, whose checkpoint was marked at `since` (of `time.perf_counter`)."""
        self._awaited = (manifest.version, since)

    def say_quality(self) -> None:
        self._screen.say(f"AUC of what the replicas serve: [bold]{self.quality.newest:.3f}[/]")

    def _sample(self, batch: Batch, through: EventTime) -> None:
        self.meter.read()
        found = [replica.status() for replica in self._inference.replicas]
        served = [_served_through(status) for status in found]
        self.behind += [len(self._learned) - bisect_right(self._learned, newest) for newest in served]
        if self._screen.due():
            lines = [self._line(status, through - newest) for status, newest in zip(found, served, strict=True)]
            moment = Moment(
                batch=batch.number, batches=self._batches, through=through, auc=self.quality.newest,
                poisoned=POISON.begin <= through < POISON.end, replicas=lines, tiers=self.tiers,
            )  # fmt: skip
            self._screen.show(moment)

    def _line(self, status: ReplicaStatus, behind_us: int) -> ReplicaLine:
        lags = self.lags.get(status.replica)
        return ReplicaLine(
            name=status.replica, version=status.version, timeline=status.timeline, digest=status.digest or "",
            rows=sum(table.rows for table in status.tables.values()), lag_ms=lags.ms[-1] if lags else float("nan"),
            behind_s=behind_us / 1e6,
        )  # fmt: skip


def _served_through(status: ReplicaStatus) -> EventTime:
    """The newest event that every partition has learned of."""
    return EventTime(min(parse_time(found.trained_through) for found in status.partitions))
