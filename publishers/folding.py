"""A delta folded from the update log: the newest finished checkpoint of the live timeline, without reading any checkpoint file.

Only what went over the log is in the log: a checkpoint whose publishers kept rows back is refused, since this delta would not
have them, and the next one would not know that it owes them.
"""

from __future__ import annotations

from penstock.pipeline.catalog import leases
from penstock.pipeline.catalog.checkpoints import checkpoints_between, last_marker, read_checkpoint
from penstock.pipeline.catalog.replay import record_name, replay_live
from penstock.pipeline.core.checkpoint import Checkpoint
from penstock.pipeline.core.dense import DenseFold
from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.errors import NotFound, Refused
from penstock.pipeline.core.history import History, effective
from penstock.pipeline.core.ids import Marker, Partition
from penstock.pipeline.core.manifest import DenseInfo, Manifest, TableChange
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.environment import Environment
from penstock.slicer.fold import Fold
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.slicing import slice_rows

from .commits import PROMOTE, Written, check_current, commit_checkpoint, data_prefix


def publish_delta_from_log(env: Environment, *, promote: tuple[str, ...] = PROMOTE, why: str = "") -> Manifest:
    """Commits the newest finished checkpoint of the live timeline from the log's own rows; the newest version, if there is none
    since. `Refused` when rows since then were not sent over the log."""
    refs = env.catalog.refs()
    history = env.catalog.history(refs)
    checkpoint = _newest_checkpoint(env, history)
    if checkpoint is None:
        return history.newest
    check_current(checkpoint, refs, history)
    base = history.newest
    _check_sent(env, base, checkpoint)
    folds, dense = _folded(env, history, base, checkpoint)
    upload = leases.open_upload(env.catalog, purpose=f"delta of state {checkpoint.state} from the log", actor=env.actor(why))
    written = Written(dense=dense or checkpoint.dense or base.dense)
    for name, fold in folds.items():
        keys, rows, tombstones = fold.written()
        layout = TableLayout.of(env.schema, name)
        found = slice_rows(keys, rows, tombstones, layout, env.catalog.store, data_prefix(env, upload))
        written.changes[name] = TableChange(runs=found.runs, interval=DigestVector.of(found.interval))
    return commit_checkpoint(env, checkpoint, base, written, kind="delta", source="log", upload=upload, promote=promote, why=why)


def _newest_checkpoint(env: Environment, history: History) -> Checkpoint | None:
    newest = history.newest
    for number in range(last_marker(env.catalog), newest.state.marker, -1):
        try:
            found, _ = read_checkpoint(env.catalog, Marker(number))
        except NotFound:
            continue
        if found.status == "marked" and found.state.timeline == newest.timeline:
            return found
    return None


def _check_sent(env: Environment, base: Manifest, checkpoint: Checkpoint) -> None:
    for found in checkpoints_between(env.catalog, base.state, checkpoint.state):
        for publisher, touched in found.touched.items():
            if touched.unsent or touched.whole:
                count = f"{touched.unsent} rows" if touched.unsent else f"tables {', '.join(touched.whole)}"
                raise Refused(
                    f"checkpoint {found.state}: {publisher} did not send {count} over the log",
                    hint="publish the delta from the trainer's checkpoint: `penstock publish delta PATH`",
                )


def _folded(
    env: Environment, history: History, base: Manifest, checkpoint: Checkpoint
) -> tuple[dict[str, Fold], DenseInfo | None]:
    assert checkpoint.positions is not None
    folds: dict[str, Fold] = {}
    dense = DenseFold(env.schema.partitions)
    schema = env.catalog.reload_schema()
    for p, position in enumerate(base.positions.partitions):
        partition, end = Partition(p), checkpoint.positions.partitions[p].offset
        live = replay_live(env.log, schema, history, partition, position.offset, base.timeline, end)
        for offset, record, _ in effective(live, position.readers, base.timeline):
            name = record_name(env.log, partition, offset)
            if record.kind == RecordKind.ROWS:
                fold = folds.setdefault(record.table, Fold(schema.table(record.table).width))
                fold.add(record.put_keys, record.rows, record.tombstones, name=name)
            elif record.kind == RecordKind.DENSE:
                dense.announce(partition, offset, record, name)
    return folds, dense.newest()
