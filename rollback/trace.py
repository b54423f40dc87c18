"""Who wrote a row: every version and every record of the log that did, be it in effect or taken back. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from penstock.pipeline.catalog.replay import replay_around
from penstock.pipeline.catalog.skipping import read_skips
from penstock.pipeline.core.documents import Document
from penstock.pipeline.core.hashing import buckets_of, partitions_of
from penstock.pipeline.core.history import Entry, History, LivePath, effective
from penstock.pipeline.core.ids import Offset, Partition
from penstock.pipeline.core.manifest import Manifest, RunInfo
from penstock.pipeline.core.records import Record, RecordKind
from penstock.pipeline.core.times import WallTime
from penstock.pipeline.environment import Environment
from penstock.slicer.runs import Run

Op = Literal["put", "delete", "unknown"]


class TraceEntry(Document, frozen=True, kw_only=True):
    """One write. `table`: the generation that was written to; `origin`: "log", or which part of which version; `at`: when it was
    appended or committed; `live`: whether the live state is made of it. A record has a place in the log; a version that was made
    by none has term 0. A record that cannot be read, and does not count, may have written any key: "unknown"."""

    table: str
    origin: str
    op: Op
    at: WallTime
    partition: Partition | None = None
    offset: Offset | None = None
    publisher: str
    term: int
    seq: int | None = None
    trained_through: int
    live: bool


def trace(env: Environment, table: str, key: int) -> list[TraceEntry]:
    """The writes of a key that are still held, oldest first. `NotFound` for a table that does not exist. Reads the partition of
    the key, from the oldest version on."""
    schema = env.catalog.reload_schema()
    schema.table(table)
    history, found = env.catalog.history(), list[TraceEntry]()
    for generation in schema.generations(table) or [table]:
        found += [*_of_records(env, history, generation, key), *_of_versions(env, history, generation, key)]
    return sorted(found, key=lambda entry: entry.at)


class _Part(NamedTuple):
    name: str
    runs: tuple[RunInfo, ...]


def _of_versions(env: Environment, history: History, table: str, key: int) -> Iterator[TraceEntry]:
    lineage = {m.state for m in history.lineage(history.newest.version)}
    for manifest in (*history.trunk, *history.bases.values()):
        for part in _parts(manifest, table):
            if (op := _op_in(env, part.runs, key)) is not None:
                yield TraceEntry(
                    table=table, origin=f"version {manifest.version} {part.name}", op=op, at=manifest.created_at,
                    publisher=manifest.publisher, term=manifest.term, trained_through=manifest.trained_through,
                    live=manifest.state in lineage,
                )  # fmt: skip


def _parts(manifest: Manifest, table: str) -> list[_Part]:
    """A first snapshot's changes are its whole state, in the same runs."""
    found = []
    if table in manifest.changes:
        found.append(_Part("changes", manifest.changes[table].runs))
    if manifest.full is not None and table in manifest.full and manifest.full[table].runs not in [part.runs for part in found]:
        found.append(_Part("whole", manifest.full[table].runs))
    if manifest.rollback is not None and table in manifest.rollback.undo:
        found.append(_Part("undo", manifest.rollback.undo[table].runs))
    return found


def _op_in(env: Environment, runs: tuple[RunInfo, ...], key: int) -> Op | None:
    for info in runs:
        with Run.open(env.catalog.store, info, buckets=env.schema.buckets) as run:
            if run.find(np.array([key], np.int64))[1][0]:
                return "put" if info.kind == "rows" else "delete"
    return None


def _of_records(env: Environment, history: History, table: str, key: int) -> Iterator[TraceEntry]:
    schema, oldest = env.schema, history.trunk[0]
    buckets = buckets_of(np.array([key], np.int64), schema.buckets)
    partition = Partition(int(partitions_of(buckets, bucket_count=schema.buckets, partition_count=schema.partitions)[0]))
    position = oldest.positions.partitions[partition]
    start = max(position.offset, env.log.begin(partition))
    path = LivePath(history, partition, offset=start, timeline=oldest.timeline)
    touching: list[Entry] = []
    skips = read_skips(env.catalog)

    def counting() -> Iterator[Entry]:
        for entry in replay_around(env.log, schema, partition, start, env.log.end(partition), skips):
            if _touches(entry.record, table, key):
                touching.append(entry)
            if (counted := path.step(entry)) is not None:
                yield counted

    live = {entry.offset for entry in effective(counting(), position.readers, oldest.timeline)}
    for offset, record, appended_at in touching:
        yield TraceEntry(
            table=table, origin="log", op=_op_of(record, key), at=appended_at,
            partition=partition, offset=offset, publisher=record.publisher, term=record.term, seq=record.seq,
            trained_through=record.trained_through,
            live=offset in live and not history.dead(partition, offset, record, record.timeline),
        )  # fmt: skip


def _op_of(record: Record, key: int) -> Op:
    if record.kind == RecordKind.SKIPPED:
        return "unknown"
    return "put" if key in record.put_keys else "delete"


def _touches(record: Record, table: str, key: int) -> bool:
    if record.kind == RecordKind.SKIPPED:
        return True
    return record.kind == RecordKind.ROWS and record.table == table and bool((record.keys == key).any())
