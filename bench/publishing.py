"""The trainer's side of the realtime tier: what a put costs, what goes through in a second, and what a congested log is given."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.config import Config, LogConfig, ModelConfig, RealtimeConfig, StoreConfig
from penstock.pipeline.core.schema import ModelSchema, TableSchema
from penstock.pipeline.core.times import EventTime, WallTime
from penstock.publishers.delivery import FRESH, Delivery
from penstock.publishers.outbox import Parcel
from penstock.publishers.ranking import Ranking

from .figures import Figure, seconds
from .tables import DIM

BATCH, BATCHES = 1000, 1500
ROW_BYTES = 4 * DIM + 8
SECOND = 1_000_000


def run() -> list[Figure]:
    return [figure for overflow in ("block", "priority") for figure in _putting(overflow)] + _congested()


@contextmanager
def _delivery(overflow: str) -> Iterator[Delivery]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).as_uri()
        config = Config(
            store=StoreConfig(url=f"{root}/store"), log=LogConfig(url=f"{root}/log", fsync="never"),
            models={"bench": ModelConfig()}, realtime=RealtimeConfig(overflow=overflow),  # type: ignore[arg-type]
        )  # fmt: skip
        with Delivery.open(config, publisher="trainer", resume=FRESH) as delivery:
            yield delivery


def _putting(overflow: str) -> list[Figure]:
    """Batches of `BATCH` rows, as fast as they are taken; half of the keys come again and again."""
    rng = np.random.default_rng(4)
    shape = (BATCHES, BATCH)
    keys = np.where(rng.random(shape) < 0.5, rng.integers(0, 50_000, shape), rng.integers(0, 10**9, shape))
    rows = rng.standard_normal((BATCH, DIM), dtype=np.float32)
    with _delivery(overflow) as delivery:
        updates = delivery.updates()
        updates.put("item", keys[0], rows)
        updates.flush()
        taken = [seconds(lambda keys=batch: updates.put("item", keys, rows)) for batch in keys]  # type: ignore[misc]
        behind = seconds(updates.flush)
        shed = updates.rows_shed
    count, total = BATCH * BATCHES, sum(taken) + behind
    return [
        Figure(f'put, overflow "{overflow}", {BATCH} rows of {DIM} floats', statistics.median(taken) / BATCH * 1e6, "us a row"),
        Figure("sustained, until acknowledged (files)", count / total / 1e6, "M rows/s", f"{shed:,} of {count:,} rows shed"),
    ]


class _Stale:
    """What readers have, beside what the trainer has."""

    def __init__(self, count: int) -> None:
        self.trained, self.served = np.zeros((count, DIM), np.float32), np.zeros((count, DIM), np.float32)

    def arrive(self, parcels: list[Parcel]) -> None:
        for parcel in parcels:
            self.served[parcel.keys] = parcel.rows.view(np.float32)

    def error(self, traffic: NDArray[np.float64]) -> float:
        """The mean distance of a row that is asked for from what the trainer has."""
        return float((np.linalg.norm(self.trained - self.served, axis=1) * traffic).sum() / traffic.sum())


def _congested() -> list[Figure]:
    """A log that takes a part of what is trained; rows move by a log-normal step, keys are popular by a power law."""
    figures = []
    for share in (0.5, 0.25, 0.1):
        ours, theirs = _simulated("priority", share), _simulated("shed", share)
        for what, ranked, in_order in zip(("distance of a row asked for", "share of the change sent"), ours, theirs, strict=True):
            name = f"{what}, log takes {share:.0%} of the touches"
            figures.append(Figure(name, ranked, "", f"folded, in the order of the puts: {in_order:.3g}", ranked / in_order))
    return figures


def _simulated(overflow: str, share: float) -> tuple[float, float]:
    """The mean distance over the second half of the run, and the part of all change, by length, that has arrived at its end."""
    count, touches, steps, staleness = 50_000, 500, 600, 10
    rng = np.random.default_rng(5)
    popular = 1 / (1 + rng.permutation(count)) ** 0.8
    schema = ModelSchema(
        model="m", id="00" * 16, buckets=8, partitions=1, log="log", created_at=WallTime(0),
        tables={"item": TableSchema(dim=DIM, codec="float32", width=4 * DIM)},
    )  # fmt: skip
    per_step = int(touches * share)
    # Both may hold what the log takes in half of `max_staleness`.
    queue = per_step * 10 * staleness // 2
    ranking = Ranking(schema, queue * ROW_BYTES, staleness * SECOND, 1 << 18)
    pending: dict[int, NDArray[np.float32]] = {}
    stale, errors = _Stale(count), []
    ranking.add(_parcel(np.arange(count), stale.trained), now=WallTime(0))
    ranking.take(1 << 40, through=EventTime(0), now=WallTime(0))
    ranking.weigh("item", np.arange(count), popular)
    for step in range(steps):
        now = WallTime((step + 1) * SECOND // 10)
        keys = np.unique(rng.choice(count, touches, p=popular / popular.sum()))
        size = rng.lognormal(-3, 1, len(keys)).astype(np.float32)
        stale.trained[keys] += size[:, None] * rng.standard_normal((len(keys), DIM), dtype=np.float32)
        parcel = _parcel(keys, stale.trained[keys])
        if overflow == "priority":
            ranking.add(parcel, now=now)
            ranking.give_way(queue * (4 * DIM + 64))
            stale.arrive(ranking.take(per_step * ROW_BYTES, through=EventTime(0), now=now))
        else:
            for key, row in zip(keys.tolist(), stale.trained[keys], strict=True):
                if key in pending or len(pending) < queue:
                    pending[key] = row
            for key in list(pending)[:per_step]:
                stale.served[key] = pending.pop(key)
        if step >= steps // 2:
            errors.append(stale.error(popular))
    moved = np.linalg.norm(stale.trained, axis=1).sum()
    return statistics.mean(errors), float(1 - np.linalg.norm(stale.trained - stale.served, axis=1).sum() / moved)


def _parcel(keys: NDArray[np.int64], rows: NDArray[np.float32]) -> Parcel:
    return Parcel(table="item", keys=keys.astype(np.int64), rows=np.ascontiguousarray(rows).view(np.uint8), through=EventTime(0))
