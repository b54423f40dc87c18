"""Publishes a delta: the rows and tombstones that a checkpoint changes since the newest version.

Where every key that was touched since is known, those rows are picked; else everything is compared with the base. Rows
always come from the whole checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.catalog import leases
from penstock.pipeline.catalog.checkpoints import checkpoints_between
from penstock.pipeline.core.checkpoint import Checkpoint, Sidecar
from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.errors import NotFound, Refused
from penstock.pipeline.core.history import History, table_layers
from penstock.pipeline.core.manifest import Manifest, RunInfo, TableChange
from penstock.pipeline.core.times import EventTime
from penstock.pipeline.environment import Environment
from penstock.slicer.comparison import compare
from penstock.slicer.layers import Layers
from penstock.slicer.row_source import ArraySource, RowSource
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.slicing import slice_rows, slice_table

from .commits import (
    PROMOTE,
    Collected,
    Written,
    check_current,
    commit_checkpoint,
    data_prefix,
    dense_of,
    stated_digests,
)
from .offline import place
from .picking import locate, take
from .sources import Keys, Source, checked_tables

KEYS_BUDGET = 64 << 20
ROWS_BUDGET = 64 << 20
"""Bytes of touched keys, and of picked rows, in memory at a time."""


@dataclass(frozen=True, slots=True)
class TouchedSince:
    """What was touched between two states: runs of keys by table. Of tables in `whole` it is not known key by key."""

    runs: Mapping[str, Sequence[RunInfo]]
    whole: frozenset[str]


def publish_delta(
    env: Environment,
    source: Source,
    *,
    sidecar: Sidecar | None = None,
    trained_through: EventTime | None = None,
    touched: Mapping[str, Keys] | None = None,
    promote: tuple[str, ...] = PROMOTE,
    why: str = "",
) -> Manifest:
    """Commits the checkpoint's state as a difference to the newest version; returns the version that did so before, if one did.

    `touched` says which keys differ from the newest version, for a checkpoint without a sidecar of ours; "" stands for the only
    table. `CommitConflict`: somebody else committed; run it again. `Refused`: a table is missing, or has another dim or codec
    than at its birth, or holds what is not finite; or the checkpoint is older than the newest version."""
    schemas, named = checked_tables(env, source), _named(source, touched)
    history = env.catalog.history()
    placed = place(env, history, sidecar, trained_through, named)
    if isinstance(placed, Manifest):
        return placed
    check_current(placed, history)
    env.catalog.add_tables(schemas)
    chain = history.chain(history.newest.version)
    since = touched_since(env, history.newest, placed)
    if since.whole or not all(table_layers(chain, name) for name in schemas):
        return commit_compared(env, source, placed, history, promote=promote, why=why)
    return commit_picked(env, source, placed, since, history, promote=promote, why=why)


def commit_compared(
    env: Environment, source: Source, checkpoint: Checkpoint, history: History, *, promote: tuple[str, ...], why: str
) -> Manifest:
    """The delta by comparing all of the checkpoint with the newest version; it states the digests of the state. All tables or
    none: where the log has brought rows that the checkpoint does not have, only those digests tell replicas."""
    base = history.newest
    upload = leases.open_upload(env.catalog, purpose=f"delta of state {checkpoint.state}", actor=env.actor(why))
    prefix = data_prefix(env, upload)
    changes, digests = {}, {}
    for name, table in source.tables.items():
        changes[name], digests[name] = _compared(env, table, TableLayout.of(env.schema, name), history, prefix)
    written = Written(
        changes,
        dense_of(env, source, prefix, base, checkpoint),
        "compared",
        digests=digests,
    )
    return commit_checkpoint(env, checkpoint, base, written, kind="delta", upload=upload, promote=promote, why=why)


def commit_picked(
    env: Environment,
    source: Source,
    checkpoint: Checkpoint,
    since: TouchedSince,
    history: History,
    *,
    promote: tuple[str, ...],
    why: str,
) -> Manifest:
    """The delta of the touched keys alone: their rows, and tombstones of those that the checkpoint does not have."""
    base = history.newest
    upload = leases.open_upload(env.catalog, purpose=f"delta of state {checkpoint.state}", actor=env.actor(why))
    prefix = data_prefix(env, upload)
    changes = {
        name: _picked(env, source.tables[name], TableLayout.of(env.schema, name), runs, prefix)
        for name, runs in sorted(since.runs.items())
    }
    written = Written(changes, dense_of(env, source, prefix, base, checkpoint), "touched")
    return commit_checkpoint(env, checkpoint, base, written, kind="delta", upload=upload, promote=promote, why=why)


def touched_since(env: Environment, base: Manifest, checkpoint: Checkpoint) -> TouchedSince:
    """What all checkpoints in (base, head] have touched, those that were never published included."""
    runs: dict[str, list[RunInfo]] = {}
    whole: set[str] = set()
    for found in checkpoints_between(env.catalog, base.state, checkpoint.state):
        for touched in found.touched.values():
            whole |= set(touched.whole)
            for table, run in touched.keys.items():
                runs.setdefault(table, []).append(run)
    return TouchedSince(runs, frozenset(whole))


def _named(source: Source, touched: Mapping[str, Keys] | None) -> dict[str, Keys] | None:
    """`touched` with the name of every table."""
    if touched is None:
        return None
    known = ", ".join(sorted(source.tables))
    if "" in touched and len(source.tables) != 1:
        raise Refused(f"the touched keys name no table, and the model has {known}")
    found = {table or known: keys for table, keys in touched.items()}
    for table in found:
        if table not in source.tables:
            raise NotFound(f"keys were touched of table {table!r} (tables: {known})")
    return found


def _compared(
    env: Environment, table: RowSource, layout: TableLayout, history: History, prefix: str
) -> tuple[TableChange, DigestVector]:
    store, base = env.catalog.store, history.newest
    runs = table_layers(history.chain(base.version), layout.table)
    if not runs:
        sliced = slice_table(table, layout, store, prefix)
        digests = DigestVector.of(sliced.digests)
        return TableChange(runs=sliced.runs, interval=digests), digests
    known = stated_digests(history, base, layout.buckets) or {}
    with Layers.open(store, layout, runs) as layers:
        found = compare(layers, table, store, prefix, base_digests=known.get(layout.table))
    change = TableChange(runs=found.changes.runs, interval=DigestVector.of(found.changes.interval))
    return change, DigestVector.of(found.state)


def _picked(env: Environment, table: RowSource, layout: TableLayout, runs: Sequence[RunInfo], prefix: str) -> TableChange:
    found, store = Collected(layout.buckets), env.catalog.store
    step = max(1, ROWS_BUDGET // (4 * table.dim))
    with Layers.open(store, layout, [runs]) as layers:
        for stretch in layers.stretches(range(layout.buckets), bytes_a_row=32, budget=KEYS_BUDGET):
            keys = np.unique(np.concatenate(stretch.keys()))
            positions = locate(table, keys, layout.table)
            gone = slice_rows(
                np.empty(0, np.int64), np.empty((0, layout.width), np.uint8), keys[positions < 0],
                layout, store, prefix, number=len(found.runs),
            )  # fmt: skip
            found.add(gone.runs, gone.interval)
            for some in _steps(positions, step):
                rows = ArraySource(take(table, positions[some]), keys[some])
                sliced = slice_table(rows, layout, store, f"{prefix}/{len(found.runs)}")
                found.add(sliced.runs, sliced.digests)
    return found.change()


def _steps(positions: NDArray[np.int64], step: int) -> list[NDArray[np.int64]]:
    """The indices of what is there, in the order of the rows, `step` at a time."""
    there = np.argsort(positions, kind="stable")[np.count_nonzero(positions < 0) :]
    return [there[at : at + step] for at in range(0, len(there), step)]
