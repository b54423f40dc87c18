"""What a resume finds dirty: keys whose served row may not be that of the state which the trainer was loaded from. It may
find too many, which a delta sets right; never too few. Reads the store and the log, writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.pipeline.catalog.catalog import Catalog
from penstock.pipeline.catalog.checkpoints import known_checkpoint, last_marker
from penstock.pipeline.catalog.replay import replay_live
from penstock.pipeline.catalog.skipping import read_skips
from penstock.pipeline.core.checkpoint import Checkpoint, newest_dense
from penstock.pipeline.core.errors import PositionGone
from penstock.pipeline.core.history import History
from penstock.pipeline.core.ids import Marker, Offset, Partition, PublisherId
from penstock.pipeline.core.manifest import Manifest, RunInfo
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.ports.log import UpdateLog

from .key_runs import read_keys
from .origins import Origin
from .touched import TouchedKeys


@dataclass(slots=True)
class Dirty:
    """`own` are those that dead terms of the resuming publisher wrote itself: what it may take back at once."""

    touched: TouchedKeys
    own: TouchedKeys


def dirty_keys(
    catalog: Catalog,
    log: UpdateLog,
    history: History,
    origin: Origin,
    *,
    publisher: PublisherId,
    heir_of: set[PublisherId],
    opened: Sequence[Offset],
    limit: int,
) -> Dirty:
    """`opened`: the offset of the opening record in each partition. `heir_of`: publishers that are gone, whose keys may be this
    one's now."""
    mine = {publisher} | heir_of
    found = Dirty(TouchedKeys(limit), TouchedKeys(limit))
    lineage = history.lineage(history.newest.version)
    for manifest in lineage:
        if manifest.state.marker > origin.state.marker:
            _from_version(catalog, manifest, found)
    before = next((m for m in reversed(lineage) if m.state.marker <= origin.state.marker), None)
    if before is None or origin.positions is None:
        found.touched.owes_dense = history.newest.dense is not None
        _all(catalog, found)
        return found
    checkpoints = {
        number: known_checkpoint(catalog, Marker(number)) for number in range(before.state.marker + 1, last_marker(catalog) + 1)
    }
    found.touched.owes_dense = _owes_dense(before, history.newest, origin, checkpoints)
    _from_shapes(catalog, before, history.newest, found)
    _from_checkpoints(catalog, origin, checkpoints, mine=mine, publisher=publisher, found=found)
    _from_log(catalog, log, history, origin, opened=opened, mine=mine, publisher=publisher, found=found)
    return found


def _from_version(catalog: Catalog, manifest: Manifest, found: Dirty) -> None:
    for table, change in manifest.changes.items():
        _add_runs(catalog, table, change.runs, found.touched)


def _from_shapes(catalog: Catalog, before: Manifest, newest: Manifest, found: Dirty) -> None:
    """Tables whose name means another generation by now: the changes of versions are told of a generation, and none says how the
    rows of one differ from those of another."""
    for table in catalog.schema().names():
        if before.generation(table) != (generation := newest.generation(table)):
            found.touched.widen(generation)


def _owes_dense(before: Manifest, newest: Manifest, origin: Origin, checkpoints: Mapping[int, Checkpoint | None]) -> bool:
    """Whether the dense slice of the origin is not that of the newest version, or may not be. `before`: the newest live version
    at or before the origin."""
    between = [checkpoint for number, checkpoint in checkpoints.items() if number <= origin.state.marker]
    known = [checkpoint for checkpoint in between if checkpoint is not None]
    had = newest_dense(known, origin.state.timeline) or before.dense
    return len(known) < len(between) or (had and had.digest) != (newest.dense and newest.dense.digest)


def _from_checkpoints(
    catalog: Catalog, origin: Origin, checkpoints: Mapping[int, Checkpoint | None], *,
    mine: set[PublisherId], publisher: PublisherId, found: Dirty,
) -> None:  # fmt: skip
    """What was touched between the newest live state at or before the origin, and the origin; past it, what is the publisher's
    own among the rows of later versions."""
    for number, checkpoint in checkpoints.items():
        if checkpoint is None:
            if number <= origin.state.marker:
                _all(catalog, found)
            continue
        _add_touched(catalog, checkpoint, {publisher}, found.own)
        if number <= origin.state.marker:
            _add_touched(catalog, checkpoint, mine, found.touched)


def _add_touched(catalog: Catalog, checkpoint: Checkpoint, mine: set[PublisherId], target: TouchedKeys) -> None:
    for publisher in mine & set(checkpoint.touched):
        touched = checkpoint.touched[publisher]
        for table in touched.whole:
            target.widen(table)
        for table, run in touched.keys.items():
            _add_runs(catalog, table, (run,), target)


def _from_log(
    catalog: Catalog,
    log: UpdateLog,
    history: History,
    origin: Origin,
    *,
    opened: Sequence[Offset],
    mine: set[PublisherId],
    publisher: PublisherId,
    found: Dirty,
) -> None:
    schema, skips = catalog.schema(), read_skips(catalog)
    assert origin.positions is not None
    for p, position in enumerate(origin.positions.partitions):
        entries = replay_live(log, schema, history, Partition(p), position.offset, origin.state.timeline, opened[p], skips)
        try:
            for _, record, *_ in entries:
                if record.kind == RecordKind.ROWS and record.publisher in mine:
                    found.touched.kept_back(record.table, record.keys)
                    if record.publisher == publisher:
                        found.own.kept_back(record.table, record.keys)
        except PositionGone:
            _all(catalog, found)
            return


def _add_runs(catalog: Catalog, table: str, runs: Sequence[RunInfo], target: TouchedKeys) -> None:
    """The keys of the runs; a table with more than fit is widened, without a byte read."""
    if sum(run.rows for run in runs) > target.limit:
        target.widen(table)
    for run in runs if table not in target.whole else ():
        for keys in read_keys(catalog.store, catalog.schema(), table, run):
            target.kept_back(table, keys)


def _all(catalog: Catalog, found: Dirty) -> None:
    """What cannot be told any more is all."""
    for table in catalog.schema().tables:
        found.touched.widen(table)
