"""What `penstock bench realtime` does: a model of its own, a trainer in this process, a replica in another one, and where the log
is Kafka a plain client of the same broker beside them. Returns figures; prints nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.publishers.delivery import FRESH, Delivery
from penstock.publishers.updates import Updates

from ..config import Config, ModelConfig
from ..core.errors import Unreachable
from ..core.ids import Offset, Partition
from ..core.times import EventTime
from ..ports.log import UpdateLog
from ..ports.wall_clock import system_clock
from .bench_model import fresh_model
from .bench_pacing import Plan, watched
from .bench_probes import PREPARED, TABLE, Latency, Load, latency_of
from .bench_readers import reader
from .bench_replica import serve

PUBLISHER = "bench"
BURST_BATCH = 2000
"""Rows a put, where as much is put as goes."""

Say = Callable[[str], object]


class Burst(msgspec.Struct, frozen=True, kw_only=True):
    """`rows` put as fast as they are taken. `put_us`: what one costs the trainer's thread, the median over the puts. The log has
    acknowledged `published_rows_per_s`, touches of a key that were folded not counted. A replica that begins then, digests kept,
    has taken them in at `caught_up_rows_per_s`, and what was put in small batches before at `caught_up_small_rows_per_s`."""

    rows: int
    batch: int
    put_us: float
    published_rows_per_s: float
    rows_shed: int
    caught_up_rows_per_s: float
    caught_up_small_rows_per_s: float


class RealtimeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies in milliseconds. `readable`: from the call of `updates.put` until the replica, in another process, has taken the
    row in, which a lookup of it right after confirms; one sample a put and partition, `lost` of which were never found. `raw`:
    from send to received of messages as large, by a plain client, None where the log is not Kafka; `ratio`: readable over raw.
    `lookups`: how long each of those took that went on meanwhile, of `lookup_keys` keys."""

    log: str
    rows_per_s: float
    dim: int
    batch: int
    partitions: int
    seconds: float
    readable: Latency
    lost: int
    raw: Latency | None
    ratio: dict[str, float]
    lookup_keys: int
    lookups: Latency | None
    burst: Burst | None


def measure(config: Config, name: str, plan: Plan, say: Say) -> RealtimeFigures:
    """Makes the model `name`, measures, and takes it away again; `say` is told what is under way. `Refused` if there is such a
    model; a log of its name that is there already is used, and stays."""
    config = msgspec.structs.replace(config, models={name: ModelConfig(buckets=plan.load.buckets)})
    with (
        fresh_model(config, name),
        _raw(config, f"{name}-raw", plan, say) as raw,
        Delivery.open(config, publisher=PUBLISHER, resume=FRESH, model=name) as delivery,
    ):
        say(f"a table of {plan.load.rows:,} rows of {plan.load.dim} floats")
        _publish(delivery, plan.load)
        with reader(serve, config, name, plan.load) as replica:
            before = raw()
            say(f"{plan.load.rate:,} rows/s for {plan.warmup_s + plan.seconds:g} s")
            put = Trainer(delivery.updates(), plan.load).put
            paced = watched(plan, plan.seconds, replica, put, lookup_keys=plan.lookup_keys)
            plain = np.concatenate((before, raw()))
        burst = _burst(config, name, plan, delivery, say) if plan.burst_rows else None
        url = delivery.environment.log.url
    found = paced.latencies_ms[np.isfinite(paced.latencies_ms)]
    if not found.size:
        raise Unreachable(f"{url}: nothing that was put has come to the replica")
    readable = latency_of(found)
    received = latency_of(plain) if plain.size else None
    return RealtimeFigures(
        log=url, rows_per_s=paced.rows_per_s, dim=plan.load.dim, batch=plan.load.batch, partitions=plan.load.partitions,
        seconds=plan.seconds, readable=readable, lost=paced.latencies_ms.size - found.size, raw=received,
        ratio={} if received is None else _ratios(readable, received), lookup_keys=plan.lookup_keys,
        lookups=latency_of(paced.lookups_ms) if paced.lookups_ms.size else None, burst=burst,
    )  # fmt: skip


class Trainer:
    """Puts batch after batch; the first float of each row is the number of its put."""

    def __init__(self, updates: Updates, load: Load) -> None:
        rng = np.random.default_rng(0)
        self._updates, self._keys = updates, [load.keys(rng) for _ in range(PREPARED)]
        self._values = load.values(rng, load.batch)

    def put(self, number: int) -> None:
        self._values[:, 0] = number
        self._updates.put(TABLE, self._keys[number % PREPARED], self._values, trained_through=EventTime(system_clock()))


def _publish(delivery: Delivery, load: Load) -> None:
    """The first version, with all keys."""
    keys = np.concatenate((np.arange(load.rows), load.probes()))
    rows = load.values(np.random.default_rng(0), len(keys))
    rows[:, 0] = -1
    delivery.publish_snapshot({TABLE: (keys, rows)}, trained_through=EventTime(system_clock()))


def _burst(config: Config, name: str, plan: Plan, delivery: Delivery, say: Say) -> Burst:
    say(f"{plan.burst_rows:,} rows at once")
    updates, rng = delivery.updates(), np.random.default_rng(2)
    order, rows = rng.permutation(plan.load.rows), plan.load.values(rng, BURST_BATCH)
    count, taken = max(1, plan.burst_rows // BURST_BATCH), list[float]()
    updates.flush()
    begins = _ends(delivery.environment.log)
    shed, acknowledged = updates.rows_shed, updates.rows_acknowledged
    started = time.perf_counter()
    for number in range(count):
        keys = np.take(order, np.arange(number * BURST_BATCH, (number + 1) * BURST_BATCH), mode="wrap")
        begun = time.perf_counter()
        updates.put(TABLE, keys, rows)
        taken.append(time.perf_counter() - begun)
    updates.flush()
    elapsed = time.perf_counter() - started
    say("a replica that catches up")
    with reader(serve, config, name, plan.load) as replica:
        small, large = replica.catch_up(begins, _ends(delivery.environment.log))
    return Burst(
        rows=count * BURST_BATCH, batch=BURST_BATCH, put_us=statistics.median(taken) / BURST_BATCH * 1e6,
        published_rows_per_s=(updates.rows_acknowledged - acknowledged) / elapsed, rows_shed=updates.rows_shed - shed,
        caught_up_rows_per_s=large.rows_per_s, caught_up_small_rows_per_s=small.rows_per_s,
    )  # fmt: skip


def _ends(log: UpdateLog) -> dict[Partition, Offset]:
    return {p: log.end(p) for p in map(Partition, range(log.partitions))}


@contextmanager
def _raw(config: Config, name: str, plan: Plan, say: Say) -> Iterator[Callable[[], NDArray[np.float64]]]:
    """Gives what measures a plain client; nothing where there is none."""
    if not config.log.url.startswith("kafka:"):
        yield lambda: np.empty(0)
        return
    from .bench_raw import SHARE, plain_client

    with plain_client(config, name, PUBLISHER, plan) as measured:

        def told() -> NDArray[np.float64]:
            say(f"the same messages by a plain client, for {plan.warmup_s + plan.seconds / SHARE:g} s")
            return measured()

        yield told


def _ratios(ours: Latency, theirs: Latency) -> dict[str, float]:
    return {each: getattr(ours, each) / getattr(theirs, each) for each in ("p50", "p90", "p99", "p999")}
