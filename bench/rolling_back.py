"""A rollback of a million touched rows: from the command until two replicas, processes of their own, have confirmed the digest.

The log is in files, or on the Kafka broker that PENSTOCK_TEST_KAFKA names (`python -m servers.kafka DIRECTORY` in `tests/` starts
one). Rows are written in batches of a thousand, as a trainer puts them. The larger table is left out where memory is short.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.catalog import leases
from penstock.pipeline.catalog.catalog import Catalog
from penstock.pipeline.config import load_config
from penstock.pipeline.core.hashing import buckets_of, partitions_of
from penstock.pipeline.core.ids import FIRST_TIMELINE, Partition, PublisherId, Seq, Term, Timeline
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.records import Record, RecordKind, encode_record
from penstock.pipeline.core.times import EventTime, event_time, format_time
from penstock.pipeline.environment import Environment, create_environment
from penstock.pipeline.ports.open_log import remove_log
from penstock.rollback.confirmation import confirmation
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event
from penstock.serving.client import Client

from .bootstrap import BUCKETS, PARTITIONS, TABLE, publish
from .figures import Figure
from .servers import COMMAND
from .tables import DIM, scratch_folder

ROWS, MORE_ROWS = 10_000_000, 40_000_000
TOUCHED, CLEAN = 1_000_000, 200_000
REPLICAS = ("first", "second")
NEEDED_BYTES = 20 << 30
"""For two replicas of the larger table, with what they remember."""
BATCH, ROWS_PER_S = 1000, 100_000
MODES = {"from files": 0, "from memory": 512 << 20}
PATIENCE_S = 120.0
MINUTE_US = 60_000_000
CONFIG = """
[store]
url = "file://{folder}/store"
[log]
url = "{log}"
partitions = {partitions}
[models.bench]
buckets = {buckets}
[replica]
before_image_bytes = {images}
lease = "60s"
"""


def run() -> list[Figure]:
    figures = _rolled_back(ROWS)
    if _free_bytes() >= NEEDED_BYTES:
        figures += _rolled_back(MORE_ROWS)
    return figures


def _rolled_back(rows: int) -> list[Figure]:
    """With replicas that remember nothing, and with such that do; of each the command, then the same in this process."""
    figures = []
    with scratch_folder() as folder, _born(folder) as env:
        chain_bytes = publish(env, folder, rows).bytes
        trainer = Trainer(env, rows)
        for mode, images in MODES.items():
            with _replicas(folder, env, images):
                total_s = _commanded(env, trainer, folder)
                steps, manifest = _stepped(env, trainer)
                moved = _moved_bytes(env, manifest)
            name = f"rollback of {TOUCHED // 10**6} M of {rows // 10**6} M rows, {mode}"
            target = "<= 5 s" if images == 0 else ""
            figures.append(Figure(f"{name}: command to two replicas", total_s, "s", env.log.url.split("://")[0], None, target))
            target = "" if images == 0 else "<= 1 s"
            figures.append(Figure("from the last fence", steps["commit"] + steps["adopt"], "s", _told(steps), None, target))
            share = moved / chain_bytes
            figures.append(Figure("bytes moved to a replica", moved / 2**20, "MiB", "the chain", share, "ratio <= 0.15"))
    return figures


def _told(steps: dict[str, float]) -> str:
    return ", ".join(f"{name} {took:.2f}" for name, took in steps.items())


@contextmanager
def _born(folder: Path) -> Iterator[Environment]:
    kafka = os.environ.get("PENSTOCK_TEST_KAFKA")
    log = f"file://{folder}/log" if kafka is None else f"kafka://{kafka}"
    for images in MODES.values():
        text = CONFIG.format(folder=folder, log=log, partitions=PARTITIONS, buckets=BUCKETS, images=images)
        _config_path(folder, images).write_text(text)
    config = load_config(_config_path(folder, 0))
    try:
        with create_environment(config, "bench") as env:
            yield env
    finally:
        remove_log(log, name="bench")


def _config_path(folder: Path, images: int) -> Path:
    return folder / f"penstock-{images}.toml"


# ---- who writes ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Trainer:
    """Writes clean rows, then such that have learned of a minute's poison; a timeline further in every round."""

    env: Environment
    rows: int
    minute: int = 0
    timeline: Timeline = FIRST_TIMELINE
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def poison(self) -> EventTime:
        """Returns the moment to go back to."""
        self.minute += 1
        moment = EventTime(event_time("2026-11-21T10:00:00Z") + self.minute * MINUTE_US)
        seqs = [0] * PARTITIONS
        self._put(CLEAN, moment - MINUTE_US // 2, seqs)
        self._put(TOUCHED, moment, seqs)
        self.env.log.flush(PATIENCE_S)
        return moment

    def _put(self, count: int, through: int, seqs: list[int]) -> None:
        keys = self.random.choice(self.rows, count, replace=False)
        values = self.random.standard_normal((BATCH, DIM), dtype=np.float32)
        began = time.monotonic()
        for low in range(0, count, BATCH):
            values[:, 0] = low + self.minute
            self._put_batch(keys[low : low + BATCH], values.view(np.uint8), EventTime(through), seqs)
            time.sleep(max(0.0, began + low / ROWS_PER_S - time.monotonic()))

    def _put_batch(self, keys: NDArray[np.int64], rows: NDArray[np.uint8], through: EventTime, seqs: list[int]) -> None:
        raw_id, now = self.env.schema.raw_id, self.env.clock()
        part_of = partitions_of(buckets_of(keys, BUCKETS), bucket_count=BUCKETS, partition_count=PARTITIONS)
        for p in map(Partition, np.unique(part_of).tolist()):
            seqs[p] += 1
            mine = part_of == p
            record = Record(
                kind=RecordKind.ROWS, timeline=self.timeline, partition=p, publisher=PublisherId("bench"), term=Term(1),
                seq=Seq(seqs[p]), text=TABLE, keys=keys[mine], rows=rows[mine], trained_through=through, written_at=now,
            )  # fmt: skip
            self.env.log.append(p, encode_record(record, raw_id))


# ---- who goes back ---------------------------------------------------------------------------------------------------


def _commanded(env: Environment, trainer: Trainer, folder: Path) -> float:
    """Seconds of `penstock rollback`, which waits until all have confirmed."""
    moment = _poisoned(env, trainer)
    asked = ["rollback", "--before", format_time(moment), "--reason", "bench", "--json", "--wait", f"{PATIENCE_S:.0f}s"]
    began = time.monotonic()
    ended = subprocess.run([*COMMAND, *asked, "--config", str(_config_path(folder, 0))], capture_output=True, check=True)
    took, said = time.monotonic() - began, json.loads(ended.stdout)
    if set(said["confirmed"].values()) != {said["digest"]} or len(said["confirmed"]) < len(REPLICAS):
        raise AssertionError(f"not confirmed by all: {said}")
    trainer.timeline = Timeline(said["timeline"])
    return took


def _stepped(env: Environment, trainer: Trainer) -> tuple[dict[str, float], Manifest]:
    """The same in this process: seconds of each step."""
    moment, seen = _poisoned(env, trainer), Seen()
    catalog, watched = env.catalog, Watched(env.catalog.store, seen)
    known = Catalog(watched, "bench", catalog.new_id)
    env = Environment(config=env.config, catalog=known, log=Watched(env.log, seen), clock=env.clock, who=env.who)
    seen.note("begin")
    plan = plan_rollback(env, before_event(moment))
    seen.note("planned")
    manifest = execute(env, plan, why="bench")
    seen.note("committed")
    _until(lambda: len(confirmation(env, manifest).confirmed) == len(REPLICAS))
    seen.note("confirmed")
    trainer.timeline = manifest.timeline
    at, first, last = seen.last("planned"), seen.first, seen.last
    return {
        "plan": at - last("begin"),
        "cuts": first("put bench/uploads/", at) - at,
        "gather": first("upload bench/data/", at) - first("put bench/uploads/", at),
        "write": first("put bench/timelines/", at) - first("upload bench/data/", at),
        "claim, fence": last("append") - first("put bench/timelines/", at),
        "commit": last("committed") - last("append"),
        "adopt": last("confirmed") - last("committed"),
    }, manifest


def _poisoned(env: Environment, trainer: Trainer) -> EventTime:
    """Returns when the replicas have taken all of it."""
    moment = trainer.poison()
    ends = [env.log.end(Partition(p)) for p in range(PARTITIONS)]

    def level() -> bool:
        found = leases.presences(env.catalog, now=env.clock())
        return len(found) == len(REPLICAS) and all(
            part.offset >= ends[part.partition] for one in found for part in one.partitions
        )

    _until(level)
    return moment


@dataclass(slots=True)
class Seen:
    """What was called when."""

    calls: list[tuple[float, str]] = field(default_factory=list)

    def note(self, what: str) -> None:
        self.calls.append((time.monotonic(), what))

    def first(self, what: str, since: float) -> float:
        return next(at for at, call in self.calls if at >= since and call.startswith(what))

    def last(self, what: str) -> float:
        return next(at for at, call in reversed(self.calls) if call.startswith(what))


class Watched:
    """A store or a log whose calls are noted."""

    def __init__(self, inner: object, seen: Seen) -> None:
        self._inner, self._seen = inner, seen

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in ("put", "upload", "append"):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self._seen.note(f"{name} {arguments[0]}")
            return found(*arguments, **options)

        return call


# ---- who serves ------------------------------------------------------------------------------------------------------


@contextmanager
def _replicas(folder: Path, env: Environment, images: int) -> Iterator[None]:
    with ExitStack() as stack:
        for name in REPLICAS:
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            options = ["--name", name, "--listen", "127.0.0.1:0", "--config", str(_config_path(folder, images))]
            process = subprocess.Popen([*COMMAND, "replica", *options], stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        _until(lambda: len(leases.presences(env.catalog, now=env.clock())) == len(REPLICAS))
        yield


def _moved_bytes(env: Environment, manifest: Manifest) -> float:
    """What the last rollback made one replica read: the keys of what it remembered and what it read of the log for that, keys and
    rows of what it did not."""
    assert manifest.rollback is not None
    undo = sum(change.bytes for change in manifest.rollback.undo.values())
    address = leases.presences(env.catalog, now=env.clock())[0].address
    with Client(address) as client:
        found = [part.counters for part in client.status().partitions]
    recalled, fetched, replayed = (sum(each[name] for each in found) for name in ("recalled", "fetched", "replayed"))
    whole = 8 + 4 * DIM
    return undo * (8 * recalled + whole * (fetched + replayed)) / (whole * (recalled + fetched))


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"the replicas did not come there in {PATIENCE_S:.0f} s")
        time.sleep(0.005)


def _free_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")), 0)
