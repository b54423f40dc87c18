"""What a rollback reads: cuts, the fold up to them, and what was touched since. Reads the log and the store, changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.catalog.checkpoints import read_checkpoint
from penstock.pipeline.catalog.replay import record_name, replay, replay_live
from penstock.pipeline.config import microseconds
from penstock.pipeline.core.dense import DenseFold
from penstock.pipeline.core.errors import NotFound, Refused
from penstock.pipeline.core.history import Entry, History, effective
from penstock.pipeline.core.ids import Offset, Partition, Timeline
from penstock.pipeline.core.manifest import DenseInfo, Manifest, TableChange, Target
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.core.times import EventTime
from penstock.pipeline.environment import Environment
from penstock.slicer.fold import Fold, Written
from penstock.slicer.runs import Run

from .target import choose_base, first_reaching, is_by_time, named_history, scan_floor


@dataclass(frozen=True, slots=True)
class Located:
    """A target found: the history of the timeline that it is named on, the version to start from, and a cut per partition;
    None where the log has not reached the target yet."""

    history: History
    base: Manifest
    cuts: tuple[Offset | None, ...]


def ends_of(env: Environment, history: History, timeline: Timeline) -> list[Offset]:
    """Where the records of `timeline` end: at the fence of the rollback that left it, else at the end of the log."""
    for manifest in history.rollbacks():
        if manifest.timeline > timeline and manifest.rollback is not None:
            return list(manifest.rollback.fence)
    return [env.log.end(Partition(p)) for p in range(env.schema.partitions)]


def locate(
    env: Environment, history: History, target: Target, of: Timeline | None, *, ends: list[Offset] | None = None
) -> Located:
    """Finds the cuts up to `ends` (by default: where the timeline's records end now) and the base of the recovery."""
    named = named_history(history, of)
    ends = ends or ends_of(env, history, named.newest.timeline)
    lineage = named.lineage(named.newest.version)
    if is_by_time(target):
        floor = scan_floor(target, lineage, microseconds(env.config.realtime.max_event_skew))
        cuts = [_first_cut(env, named, floor, target, Partition(p), ends[p]) for p in range(env.schema.partitions)]
        return Located(named, choose_base(target, lineage, cuts), tuple(cuts))
    if target.kind == "version":
        manifest = env.catalog.manifest(target.version)
        if manifest.version not in [m.version for m in history.trunk]:
            state = next((m for m in history.trunk if m.state == manifest.state), None)
            if state is None:
                raise NotFound(f"version {target.version} is not a retained version of the trunk")
            manifest = state
        return Located(history, manifest, tuple(position.offset for position in manifest.positions.partitions))
    assert target.state is not None
    checkpoint, _ = read_checkpoint(env.catalog, target.state.marker)
    if checkpoint.state != target.state or checkpoint.positions is None or checkpoint.status == "expired":
        raise NotFound(f"no finished checkpoint has the state {target.state}")
    found = tuple(position.offset for position in checkpoint.positions.partitions)
    return Located(named, choose_base(target, [m for m in lineage if m.state.marker <= target.state.marker], found), found)


def _first_cut(
    env: Environment, history: History, floor: Manifest, target: Target, partition: Partition, end: Offset
) -> Offset | None:
    start = floor.positions.partitions[partition].offset
    if start < env.log.begin(partition):
        raise Refused(
            f"partition {partition} of the log begins at {env.log.begin(partition)}; {target} has to be looked for from {start} on",
            hint="the log's retention is shorter than the recovery window; roll back to a version instead",
        )
    return first_reaching(target, replay_live(env.log, env.schema, history, partition, start, floor.timeline, end))


@dataclass(frozen=True, slots=True)
class Folded:
    """The log between a base and the cuts: what stands per table, the newest event learned from, the newest dense slice."""

    written: dict[str, Written]
    trained_through: EventTime
    dense: DenseInfo | None


def fold(env: Environment, history: History, base: Manifest, ends: dict[str | None, list[Offset]]) -> Folded:
    """Folds what takes effect from the base's positions up to an end per table and partition; `ends[None]` is that of every
    table that it does not name, and of all that is no row."""
    folds: dict[str, Fold] = {}
    through, dense = base.trained_through, DenseFold(env.schema.partitions)
    for p, position in enumerate(base.positions.partitions):
        partition, last = Partition(p), Offset(max(end[p] for end in ends.values()))
        live = replay_live(env.log, env.schema, history, partition, position.offset, base.timeline, last)
        for offset, record, _ in effective(live, position.readers, base.timeline):
            table = record.table if record.kind == RecordKind.ROWS else None
            if offset >= ends.get(table, ends[None])[p]:
                continue
            through = max(through, record.trained_through)
            if record.kind == RecordKind.ROWS:
                name = record_name(env.log, partition, offset)
                found = folds.setdefault(record.table, Fold(env.schema.table(record.table).width))
                found.add(record.put_keys, record.rows, record.tombstones, name=name)
            elif record.kind == RecordKind.DENSE:
                dense.announce(partition, offset, record, record_name(env.log, partition, offset))
    return Folded({name: found.written() for name, found in folds.items()}, EventTime(through), dense.newest())


def dead_entries(env: Environment, cuts: list[Offset], fences: list[Offset]) -> Iterator[tuple[Partition, Entry]]:
    """Every record of [cut, fence), of whatever timeline and publisher."""
    for p, (cut, fence) in enumerate(zip(cuts, fences, strict=True)):
        for entry in replay(env.log, env.schema, Partition(p), cut, fence):
            yield Partition(p), entry


def changed_keys(env: Environment, changes: dict[str, TableChange]) -> dict[str, list[NDArray[np.int64]]]:
    """The keys that stand in these runs, rows and tombstones alike."""
    found: dict[str, list[NDArray[np.int64]]] = {}
    for table, change in changes.items():
        for info in change.runs:
            with Run.open(env.catalog.store, info, buckets=env.schema.buckets) as run:
                found.setdefault(table, []).append(np.array(run.keys()))
    return found
