"""A replica that is behind by 4 million rows of 32 floats in a file log: poll, decode, check, apply, with digests."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from penstock.pipeline.core.hashing import bucket_range, buckets_of
from penstock.pipeline.core.ids import FIRST_TIMELINE, Partition, PublisherId, Seq, Term
from penstock.pipeline.core.records import Record, RecordKind, encode_record
from penstock.pipeline.environment import Environment
from penstock.pipeline.ports.log_checks import LogSettings
from penstock.pipeline.ports.open_log import open_log
from penstock.serving.replica import Replica

from .bootstrap import BUCKETS, PARTITIONS, TABLE, born, publish
from .figures import Figure, seconds
from .tables import DIM, scratch_folder

BASE, ROWS = 1_000_000, 4_000_000
RECORDS = {"512 KiB": 3800, "4 KiB": 30}
TARGET = ">= 1.4 M rows/s"


def run() -> list[Figure]:
    figures = []
    for size, rows_a_record in RECORDS.items():
        with scratch_folder() as folder:
            settings = LogSettings(retention_ms=-1)
            log = open_log(
                f"file://{folder}/log", name="bench", partitions=PARTITIONS, create=settings, options={"fsync": "never"}
            )
            try:
                env = born(folder, log)
                publish(env, folder, BASE)
                behind(env, ROWS if rows_a_record > 1000 else ROWS // 4, rows_a_record)
                figures.append(_measured(env, folder, size))
            finally:
                log.close()
    return figures


def _measured(env: Environment, folder: Path, size: str) -> Figure:
    config = msgspec.structs.replace(env.config.replica, refresh="1h", lease="6h")
    env = Environment(config=msgspec.structs.replace(env.config, replica=config), catalog=env.catalog, log=env.log)
    replica, rows = Replica(env, name="bench"), 0

    def catch_up() -> None:
        nonlocal rows
        while any(s.offset < env.log.end(p) for p, s in replica.follower.partitions.items()):
            rows += replica.step(0.0)

    took = seconds(catch_up)
    return Figure(f"catching up, records of {size}", rows / took / 1e6, "M rows/s", f"{rows:,} rows", None, TARGET)


def behind(env: Environment, rows: int, rows_a_record: int) -> None:
    """So many rows of keys that exist, in records of one partition each."""
    keys = np.random.default_rng(1).integers(0, BASE, rows)
    data = np.random.default_rng(2).standard_normal((rows_a_record, DIM), dtype=np.float32).view(np.uint8)
    buckets, raw_id = buckets_of(keys, BUCKETS), env.schema.raw_id
    for p in map(Partition, range(PARTITIONS)):
        own = bucket_range(p, bucket_count=BUCKETS, partition_count=PARTITIONS)
        mine = keys[(buckets >= own.start) & (buckets < own.stop)]
        for number, low in enumerate(range(0, mine.size, rows_a_record)):
            part = np.unique(mine[low : low + rows_a_record])
            record = Record(
                kind=RecordKind.ROWS, timeline=FIRST_TIMELINE, partition=p, publisher=PublisherId("bench"), term=Term(1),
                seq=Seq(number + 1), text=TABLE, keys=part, rows=data[: part.size],
            )  # fmt: skip
            env.log.append(p, encode_record(record, raw_id))
    env.log.flush(60)
