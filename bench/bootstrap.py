"""A replica that begins with 10 million rows of 32 floats, from files that are not in memory, against `cat` of the same."""

from __future__ import annotations

import os
import statistics
import subprocess
from pathlib import Path

from penstock.pipeline.catalog import keys, leases
from penstock.pipeline.catalog.catalog import Actor, Catalog
from penstock.pipeline.config import Config, LogConfig, StoreConfig
from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.ids import BIRTH, Marker, Offset, Position, Positions, PublisherId, State, Term, Version
from penstock.pipeline.core.manifest import Manifest, TableChange, TableFull
from penstock.pipeline.core.schema import TableSchema
from penstock.pipeline.core.times import EventTime
from penstock.pipeline.environment import Environment, log_ends
from penstock.pipeline.ports.local_store import LocalStore
from penstock.pipeline.ports.log import UpdateLog
from penstock.pipeline.ports.memory_log import MemoryLog
from penstock.pipeline.ports.wall_clock import system_clock
from penstock.serving.replica import Replica
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.slicing import slice_table

from .figures import Figure, alternating, median_ratio
from .tables import DIM, MappedRows, scratch_folder, write_table

ROWS, ROUNDS = 10_000_000, 3
TABLE, PARTITIONS, BUCKETS = "bench", 8, 1024


def run() -> list[Figure]:
    with scratch_folder() as folder:
        env = born(folder, MemoryLog(PARTITIONS))
        manifest = publish(env, folder, ROWS)
        files = [path for path in map(env.catalog.store.local_path, manifest.data_paths()) if path is not None]

        def cat() -> None:
            forget(files)
            with open(os.devnull, "wb") as nothing:
                subprocess.run(["cat", *files], check=True, stdout=nothing)

        def begin() -> None:
            forget(files)
            Replica(env, name="bench")

        begin()
        theirs, ours = alternating(ROUNDS, cat, begin)
    peer = f"cat of the same files: {statistics.median(theirs):.2f} s"
    ratio = median_ratio(ours, theirs)
    return [
        Figure(f"bootstrap of {ROWS // 10**6} M rows, digests checked", statistics.median(ours), "s", peer, ratio, "ratio <= 1.5")
    ]


def born(folder: Path, log: UpdateLog) -> Environment:
    """A model that is just born, in a folder."""
    empty = Positions(log.identity, (Position(Offset(0), {}),) * log.partitions)
    store, actor = LocalStore(folder / "store"), Actor(who="bench", now=system_clock())
    catalog = Catalog.create(store, "bench", buckets=BUCKETS, positions=empty, actor=actor)
    config = Config(store=StoreConfig(url="file:///unused"), log=LogConfig(url="file:///unused"))
    return Environment(config=config, catalog=catalog, log=log)


def publish(env: Environment, folder: Path, rows: int) -> Manifest:
    """A snapshot of so many random rows."""
    table, catalog = folder / "table", env.catalog
    write_table(table, rows)
    catalog.add_tables({TABLE: TableSchema(dim=DIM, codec="float32", width=4 * DIM)})
    actor = env.actor("bench")
    upload = leases.open_upload(catalog, purpose="bench", actor=actor)
    layout = TableLayout.of(catalog.schema(), TABLE)
    sliced = slice_table(MappedRows.of(table), layout, catalog.store, keys.data("bench", upload.id))
    table.unlink()
    digests, state = DigestVector.of(sliced.digests), State(BIRTH.timeline, Marker(1))
    draft = Manifest(
        model="bench", version=Version(0), kind="snapshot", state=state, previous=Version(0), base=Version(0),
        positions=log_ends(env.log), trained_through=EventTime(1), created_at=env.clock(),
        publisher=PublisherId("bench"), term=Term(1), upload=upload.id,
        changes={TABLE: TableChange(runs=sliced.runs, interval=digests)},
        full={TABLE: TableFull(runs=sliced.runs, state=digests)},
    )  # fmt: skip
    return catalog.commit(draft, promote=("live",), guard=lambda refs: None, actor=actor)


def forget(files: list[Path]) -> None:
    """The system lets go of what it has read of these files."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
