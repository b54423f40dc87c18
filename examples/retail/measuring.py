"""What the demo measures while it plays, as it comes: quality, lag, and what has gone through the log and into the store."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import msgspec

from penstock.pipeline.core.coordination import DenseAnnouncement
from penstock.pipeline.core.errors import Unreachable
from penstock.pipeline.core.ids import Offset, Partition
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.records import RecordKind, decode_record
from penstock.pipeline.core.times import EventTime
from penstock.pipeline.environment import Environment

from .model import Floats
from .quality import SlidingAuc
from .recording import LagLine, QualityLine, TierBytes, VersionMark
from .story import AUC_BATCHES

LOG_S = 30.0


@dataclass(slots=True)
class ServedQuality:
    """AUC of what replicas served, in the sliding window; a point for each batch from the first full window on. `batches` are
    their numbers."""

    batches: list[int] = field(default_factory=list)
    at: list[EventTime] = field(default_factory=list)
    auc: list[float] = field(default_factory=list)
    _window: SlidingAuc = field(default_factory=lambda: SlidingAuc(batches=AUC_BATCHES))
    _scored: int = 0

    @property
    def newest(self) -> float:
        return self.auc[-1] if self.auc else float("nan")

    def add(self, number: int, at: EventTime, labels: Floats, scores: Floats) -> None:
        value = self._window.add(labels, scores)
        self._scored += 1
        if self._scored >= AUC_BATCHES:
            self.batches.append(number)
            self.at.append(at)
            self.auc.append(value)

    def line(self, label: str) -> QualityLine:
        at, auc = growing(self.at, self.auc)
        return QualityLine(role="served", label=label, at=at, auc=auc)


def growing(at: list[EventTime], values: list[float]) -> tuple[tuple[EventTime, ...], tuple[float, ...]]:
    """Of several values at one time the last: batches may end in the same minute."""
    kept = dict(zip(at, values, strict=True))
    return tuple(kept), tuple(kept.values())


@dataclass(slots=True)
class Lags:
    """ms from the trainer's put to the rows that one replica serves, at seconds of the run."""

    at_s: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)

    def add(self, at_s: float, ms: float) -> None:
        self.at_s.append(at_s)
        self.ms.append(ms)

    def line(self, label: str) -> LagLine:
        return LagLine(label=label, at_s=tuple(self.at_s), lag_ms=tuple(self.ms))


class LogMeter:
    """Counts what publishers have put into the log: rows, and dense slices with the bytes that they take in the store."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._at = {Partition(p): env.log.begin(Partition(p)) for p in range(env.log.partitions)}
        self._slices: set[str] = set()
        self.bytes = self.records = self.rows = 0

    def read(self) -> None:
        """Counts what is new, as far as the log hands it over at once."""
        for partition, entries in self._env.log.poll(self._at, timeout_s=0.0).items():
            for offset, _, payload in entries:
                self._count(partition, offset, payload)
                self._at[partition] = Offset(offset + 1)

    def read_all(self) -> None:
        """Counts all that the log has now."""
        deadline = time.monotonic() + LOG_S
        ends = {p: self._env.log.end(p) for p in self._at}
        while any(self._at[p] < end for p, end in ends.items()):
            if time.monotonic() > deadline:
                raise Unreachable(f"{self._env.log.url}: not read to its end in {LOG_S:.0f} s")
            self.read()

    def tier(self) -> TierBytes:
        return TierBytes(tier="update", bytes=self.bytes, writes=self.records, rows=self.rows)

    def _count(self, partition: Partition, offset: Offset, payload: bytes | memoryview) -> None:
        name = f"{self._env.log.url} partition {partition} offset {offset}"
        record = decode_record(payload, model_id=self._env.schema.raw_id, partition=partition, name=name)
        if record.kind == RecordKind.ROWS:
            self.bytes += len(payload)
            self.records += 1
            self.rows += len(record.keys)
        elif record.kind == RecordKind.DENSE:
            self.bytes += len(payload)
            announced = msgspec.json.decode(record.text, type=DenseAnnouncement)
            if announced.path not in self._slices:
                self._slices.add(announced.path)
                self.bytes += announced.bytes
                self.records += 1


def version_marks(trunk: tuple[Manifest, ...], *, began_us: int) -> tuple[VersionMark, ...]:
    """The versions since the run began, at `began_us` microseconds of wall time."""
    return tuple(
        VersionMark(
            version=m.version, kind=m.kind, timeline=m.timeline, at_s=(m.created_at - began_us) / 1e6,
            trained_through=m.trained_through,
        )
        for m in trunk
        if m.kind in ("snapshot", "delta", "rollback")
    )  # fmt: skip
