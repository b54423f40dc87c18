"""A delta folded from the update log: the newest finished checkpoint of the live timeline, without reading any checkpoint file.

Only what went over the log is in the log: a checkpoint whose publishers kept rows back is refused, or one of which the log has
lost a row, since this delta would not have them, and the next one would not know that it owes them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from penstock.pipeline.catalog import leases
from penstock.pipeline.catalog.checkpoints import checkpoints_between, known_checkpoints, last_marker
from penstock.pipeline.catalog.replay import record_name
from penstock.pipeline.catalog.skipping import read_skips
from penstock.pipeline.core.checkpoint import Checkpoint, newest_dense
from penstock.pipeline.core.errors import Refused
from penstock.pipeline.core.history import History
from penstock.pipeline.core.ids import Offset, Partition
from penstock.pipeline.core.manifest import Manifest, TableChange
from penstock.pipeline.core.records import NO_KEYS, RecordKind
from penstock.pipeline.core.schema_change import TablePlan
from penstock.pipeline.core.times import WallTime
from penstock.pipeline.environment import Environment
from penstock.slicer.fold import Fold
from penstock.slicer.ordering import distinct
from penstock.slicer.row_source import Keys
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.slicing import slice_rows

from .carrying import carry, entries_since
from .commits import PROMOTE, Collected, Written, commit_checkpoint, data_prefix
from .key_runs import read_keys
from .schema_change import meanings, plan_log, tell

log = logging.getLogger(__name__)

INSTEAD = "publish the delta from the trainer's checkpoint: `penstock publish delta PATH`"
FEW = 8
"""How many places are named in a reason."""
WRITE_AT_BYTES = 256 << 20
"""Partitions share no keys, so what was read of some is written before the next once it is more than this."""


def publish_delta_from_log(
    env: Environment, *, until: WallTime | None = None, promote: tuple[str, ...] = PROMOTE, why: str = ""
) -> Manifest:
    """Commits the newest finished checkpoint of the live timeline from the log's own rows, with `until` the newest that was begun
    before; the newest version, if there is none since. `Refused` when rows since then were not sent over the log."""
    history = env.catalog.history()
    base = history.newest
    checkpoint = _newest_checkpoint(env, base, until)
    if checkpoint is None:
        return base
    between = checkpoints_between(env.catalog, base.state, checkpoint.state)
    announced = newest_dense(between, checkpoint.state.timeline)
    touched = _check_sent(between, has_dense=announced is not None)
    plan = plan_log(env, base)
    tell(plan, base)
    skipped = _skipped(env, base, checkpoint)
    why = _with_skipped(skipped, plan.reason(why))
    upload = leases.open_upload(env.catalog, purpose=f"delta of state {checkpoint.state} from the log", actor=env.actor(why))
    prefix = data_prefix(env, upload)
    changes, logged = _folded(env, history, checkpoint, plan, prefix)
    changes |= carry(env, history, checkpoint, plan, touched, prefix).whole().changes
    if not skipped:
        _check_logged(env, between, plan, logged)
    written = Written(changes, announced or base.dense, "log", plan.shapes, plan.retired)
    return commit_checkpoint(env, checkpoint, base, written, kind="delta", upload=upload, promote=promote, why=why)


def _newest_checkpoint(env: Environment, base: Manifest, until: WallTime | None) -> Checkpoint | None:
    for found in known_checkpoints(env.catalog, range(last_marker(env.catalog), base.state.marker, -1)):
        in_time = until is None or found.created_at < until
        if found.status == "marked" and found.state.timeline == base.timeline and in_time:
            return found
    return None


def _check_sent(between: Sequence[Checkpoint], *, has_dense: bool) -> set[str]:
    """The tables that were touched since the base. Checkpoints that a resume gave up count as well: another publisher may still
    owe what it did not send for them."""
    tables: set[str] = set()
    for found in between:
        for publisher, touched in found.touched.items():
            tables |= set(touched.keys)
            if touched.unsent or touched.whole:
                owed = f"{touched.unsent} rows" if touched.unsent else f"tables {', '.join(touched.whole)}"
                raise Refused(f"checkpoint {found.state}: {publisher} did not send {owed} over the log", hint=INSTEAD)
            if touched.owes_dense and not has_dense:
                raise Refused(f"checkpoint {found.state}: {publisher} did not send its dense slice over the log", hint=INSTEAD)
    return tables


def _check_logged(env: Environment, between: Sequence[Checkpoint], plan: TablePlan, logged: Mapping[str, Keys]) -> None:
    """`Refused` when a key was touched, its row was acknowledged, and the log between the two states does not have it for the
    generation that is meant by now: a broker has lost it, or it was sent before that generation was there."""
    means = {name: name for name in env.schema.tables if name not in plan.others} | meanings(env.schema, plan)
    for found in between:
        for publisher, touched in found.touched.items():
            for name, run in touched.keys.items():
                for keys in read_keys(env.catalog.store, env.schema, name, run) if name in means else ():
                    held = logged.get(means[name], NO_KEYS)
                    if len(missing := np.setdiff1d(keys, held, assume_unique=True)):
                        lost = f"key {missing[0]} of table {env.schema.table_of(name)}"
                        raise Refused(
                            f"checkpoint {found.state}: {publisher} sent {lost}, and the log does not have it", hint=INSTEAD
                        )


def _skipped(env: Environment, base: Manifest, checkpoint: Checkpoint) -> list[tuple[Partition, Offset]]:
    assert checkpoint.positions is not None
    starts, ends = ([position.offset for position in found.partitions] for found in (base.positions, checkpoint.positions))
    return read_skips(env.catalog).between(starts, ends)


def _with_skipped(skipped: Sequence[tuple[Partition, Offset]], why: str) -> str:
    """`why`, and which records the fold passes over; said as well, since this version owes what they held."""
    if not skipped:
        return why
    places = ", ".join(f"partition {partition} offset {offset}" for partition, offset in skipped[:FEW])
    told = f"without what was skipped: {places}{', …' if len(skipped) > FEW else ''}"
    log.warning("%s; a whole checkpoint that is compared next brings what those %d records held", told, len(skipped))
    return f"{why}; {told}" if why else told


def _folded(
    env: Environment, history: History, checkpoint: Checkpoint, plan: TablePlan, prefix: str
) -> tuple[dict[str, TableChange], dict[str, Keys]]:
    """What the log holds between the newest version and the checkpoint, partition by partition; and all keys of it."""
    schema = env.catalog.reload_schema()
    changes: dict[str, Collected] = {}
    folds: dict[str, Fold] = {}
    logged: dict[str, list[Keys]] = {}
    held = 0

    def write() -> None:
        for name, fold in sorted(folds.items()):
            found = changes.setdefault(name, Collected(schema.buckets))
            written = fold.written()
            part = slice_rows(*written, TableLayout.of(schema, name), env.catalog.store, prefix, number=len(found.runs))
            found.add(part.runs, part.interval)
            logged.setdefault(name, []).extend((written.keys, written.tombstones))
        folds.clear()

    for p in range(schema.partitions):
        for offset, record, *_ in entries_since(env, history, checkpoint, Partition(p)):
            name = record_name(env.log, Partition(p), offset)
            if record.kind == RecordKind.ROWS and record.table not in plan.others:
                fold = folds.setdefault(record.table, Fold(schema.table(record.table).width))
                fold.add(record.put_keys, record.rows, record.tombstones, name=name)
                held += record.rows.nbytes + record.keys.nbytes
        if held > WRITE_AT_BYTES:
            write()
            held = 0
    write()
    return {name: found.change() for name, found in changes.items()}, {name: distinct(keys) for name, keys in logged.items()}
