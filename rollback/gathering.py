"""What a rollback reads: cuts, the fold up to them, and what was written behind them. Reads the log and the store, changes
nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from penstock.pipeline.catalog.checkpoints import read_checkpoint
from penstock.pipeline.catalog.leases import publisher_terms
from penstock.pipeline.catalog.replay import Unreadable, checked, record_name, replay_around, replay_live
from penstock.pipeline.catalog.skipping import read_skips
from penstock.pipeline.config import microseconds
from penstock.pipeline.core.dense import DenseFold
from penstock.pipeline.core.errors import NotFound, Refused
from penstock.pipeline.core.history import Entry, History, LivePath, effective
from penstock.pipeline.core.ids import Offset, Partition, Timeline
from penstock.pipeline.core.manifest import DenseInfo, Manifest, Target
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.core.times import EventTime
from penstock.pipeline.environment import Environment
from penstock.slicer.fold import Fold, Written

from .target import choose_base, first_reaching, is_by_time, is_clean, named_history, out_of_reach, scan_floor

SHORT_LOG = "the log's retention is shorter than the recovery window; `--to-version` needs less of it"
Cuts = tuple[Offset | None, ...]


@dataclass(frozen=True, slots=True)
class Located:
    """A target found: the history of the timeline that it is named on, the version to start from, and a cut per partition;
    None where the log has not reached the target yet."""

    history: History
    base: Manifest
    cuts: Cuts


def ends_of(env: Environment, history: History, timeline: Timeline) -> list[Offset]:
    """Where the records of `timeline` end: at the fence of the rollback that left it, else at the end of the log."""
    for manifest in history.rollbacks():
        if manifest.timeline > timeline and manifest.rollback is not None:
            return list(manifest.rollback.fence)
    return [env.log.end(Partition(p)) for p in range(env.schema.partitions)]


def locate(env: Environment, history: History, target: Target, of: Timeline | None) -> Located:
    """Finds the cuts as far as the timeline's records go now, and the base of the recovery."""
    if target.kind == "version":
        base = _committed(history, target)
        return Located(history, base, _offsets(base))
    if target.state is not None and of is None:
        of = min(target.state.timeline, history.newest.timeline)
    named = named_history(history, of)
    lineage = named.lineage(named.newest.version)
    cuts = find_cuts(env, named, target, ends_of(env, history, named.newest.timeline))
    if target.state is not None:
        marker = target.state.marker
        lineage = [m for m in lineage if m.state.marker <= marker] or lineage[:1]
    return Located(named, choose_base(target, lineage, cuts), cuts)


def cuts_of(env: Environment, history: History, target: Target, of: Timeline, ends: Sequence[Offset]) -> tuple[History, Cuts]:
    """The history on which a target of timeline `of` is found, and its cuts; the live timeline's records go to `ends`."""
    named = history if target.kind == "version" else named_history(history, of)
    return named, find_cuts(env, named, target, ends if named is history else ends_of(env, history, of))


def find_cuts(env: Environment, named: History, target: Target, ends: Sequence[Offset]) -> Cuts:
    """Per partition the first record at or beyond the target; of a version or a state, its own positions."""
    if target.kind == "version":
        return _offsets(_committed(named, target))
    if not is_by_time(target):
        return _state_offsets(env, target)
    lineage = named.lineage(named.newest.version)
    if not is_clean(target, lineage[0]):
        raise out_of_reach(target, lineage[0])
    floor = scan_floor(target, lineage, margin_us=_margin_us(env, target))
    return tuple(_first_cut(env, named, floor, target, Partition(p), end) for p, end in enumerate(ends))


def _committed(history: History, target: Target) -> Manifest:
    """The version of the trunk with the state of the one that is named, which may stand beside the chain."""
    named = history.version(target.version)
    found = history.of_state(named.state)
    if found is None:
        raise NotFound(f"version {named.version} holds state {named.state}, which is not retained otherwise")
    return found


def _offsets(manifest: Manifest) -> tuple[Offset, ...]:
    return tuple(position.offset for position in manifest.positions.partitions)


def _state_offsets(env: Environment, target: Target) -> tuple[Offset, ...]:
    assert target.state is not None
    checkpoint, _ = read_checkpoint(env.catalog, target.state.marker)
    if checkpoint.state != target.state or checkpoint.positions is None:
        raise NotFound(f"no finished checkpoint has the state {target.state}")
    return tuple(position.offset for position in checkpoint.positions.partitions)


def _margin_us(env: Environment, target: Target) -> int | None:
    """See `scan_floor`. The skew counts twice: of the clock that made the version, and of the publisher or the log."""
    reserve_us = max([0, *(found.reserve_us for found in publisher_terms(env.catalog))])
    if target.kind == "before_event" and not reserve_us:
        return None
    return 2 * microseconds(env.config.realtime.max_event_skew) + reserve_us


def _first_cut(
    env: Environment, named: History, floor: Manifest, target: Target, partition: Partition, end: Offset
) -> Offset | None:
    start = floor.positions.partitions[partition].offset
    _check_held(env, partition, start, f"a cut {target} has to be looked for")
    live = replay_live(env.log, env.schema, named, partition, start, floor.timeline, end, read_skips(env.catalog))
    try:
        return first_reaching(target, checked(live, env.log, env.schema, partition))
    except Unreadable as error:
        return error.offset  # what it has learned from is not known, and nobody serves anything behind it


def _check_held(env: Environment, partition: Partition, start: Offset, what: str) -> None:
    if start < (begin := env.log.begin(partition)):
        raise Refused(f"partition {partition} of the log begins at {begin}, and {what} from {start} on", hint=SHORT_LOG)


@dataclass(frozen=True, slots=True)
class Folded:
    """The log between a version and later offsets: what stands per table, the newest event learned from, and the newest dense
    slice that was announced everywhere, if any was."""

    written: dict[str, Written]
    trained_through: EventTime
    dense: DenseInfo | None


def fold(
    env: Environment, history: History, base: Manifest, ends: Sequence[Offset], *, tables: frozenset[str] | None = None
) -> Folded:
    """Folds what takes effect from the base's positions up to `ends`; of the rows only those of `tables`, by default of all."""
    folds: dict[str, Fold] = {}
    through, dense = base.trained_through, DenseFold(env.schema.partitions)
    skips = read_skips(env.catalog)
    for p, position in enumerate(base.positions.partitions):
        partition = Partition(p)
        if position.offset < ends[p]:
            _check_held(env, partition, position.offset, f"version {base.version} is followed by what has to be read")
        live = replay_live(env.log, env.schema, history, partition, position.offset, base.timeline, ends[p], skips)
        taken = effective(live, position.readers, base.timeline)
        for offset, record, _ in checked(taken, env.log, env.schema, partition):
            through = max(through, record.trained_through)
            name = record_name(env.log, partition, offset)
            if record.kind == RecordKind.ROWS and (tables is None or record.table in tables):
                found = folds.setdefault(record.table, Fold(env.schema.table(record.table).width))
                found.add(record.put_keys, record.rows, record.tombstones, name=name)
            elif record.kind == RecordKind.DENSE:
                dense.announce(partition, offset, record, name)
    return Folded({name: found.written() for name, found in folds.items()}, EventTime(through), dense.newest())


@dataclass(frozen=True, slots=True)
class Behind:
    """A record behind the cut of its partition; of kind SKIPPED if it cannot be read. `counts` while nothing is rolled back."""

    entry: Entry
    counts: bool


def behind_cuts(
    env: Environment, history: History, base: Manifest, cuts: Sequence[Offset], ends: Sequence[Offset]
) -> Iterator[Behind]:
    """Every record of [cut, end), of whatever timeline and publisher; nobody has taken one that cannot be read. What the log does
    not hold any more is passed over, where a version after `base` lies beyond it, and so names the keys; else `Refused`."""
    skips = read_skips(env.catalog)
    later = [m.positions.partitions for m in history.after(base.version)]
    for p, (cut, end) in enumerate(zip(cuts, ends, strict=True)):
        partition, begin = Partition(p), env.log.begin(Partition(p))
        if begin > cut and not any(positions[p].offset >= begin for positions in later):
            _check_held(env, partition, cut, f"what was written behind version {base.version} has to be read")
        held = max(cut, begin)
        path = LivePath(history, partition, offset=held, timeline=history.timeline_at(partition, held))
        for entry in replay_around(env.log, env.schema, partition, held, end, skips):
            yield Behind(entry, path.step(entry) is entry)
