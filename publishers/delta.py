"""Publishes a delta: the rows and tombstones that a checkpoint changes since the newest version.

Where every key that was touched since is known, those rows are picked; else everything is compared with the base. Rows
always come from the whole checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from penstock.pipeline.core.schema import ModelSchema
from penstock.pipeline.core.schema_change import TablePlan
from penstock.pipeline.core.times import EventTime
from penstock.pipeline.environment import Environment
from penstock.slicer.comparison import compare
from penstock.slicer.layers import Layers
from penstock.slicer.names import Names
from penstock.slicer.ordering import distinct
from penstock.slicer.row_source import ArraySource, Keys, RowSource
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.slicing import slice_rows, slice_table

from .carrying import carry
from .commits import (
    PROMOTE,
    Collected,
    Written,
    check_current,
    commit_checkpoint,
    data_prefix,
    dense_of,
)
from .key_runs import read_keys, write_keys
from .offline import committed_as, learned, place
from .picking import locate, take, take_names
from .schema_change import arranged, check_shapes, meanings, plan_source, tell
from .sources import Source

KEYS_BUDGET = 64 << 20
ROWS_BUDGET = 64 << 20
"""Bytes of touched keys, and of picked rows, in memory at a time."""


@dataclass(frozen=True, slots=True)
class TouchedSince:
    """What was touched between two states: runs of keys by table. Of tables in `whole` it is not known key by key."""

    runs: Mapping[str, Sequence[RunInfo]]
    whole: frozenset[str]

    @property
    def tables(self) -> frozenset[str]:
        return self.whole | self.runs.keys()

    def without(self, tables: frozenset[str]) -> TouchedSince:
        """Of the other tables."""
        return TouchedSince({name: runs for name, runs in self.runs.items() if name not in tables}, self.whole - tables)

    def meant(self, schema: ModelSchema, plan: TablePlan) -> TouchedSince:
        """Of the generations that names mean. A table of which another one was touched as a whole is touched as a whole: whoever
        touched it may not have known of the newer one."""
        found = self.without(plan.others)
        means = {table: generation for table, generation in meanings(schema, plan).items() if table in self.whole}
        return TouchedSince(found.runs, found.whole | set(means.values()))


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
    table. `CommitConflict`: somebody else committed; run it again. `Refused`: a table has vanished, or has another dim or codec
    than before, or holds what is not finite; or the checkpoint is older than the newest version."""
    named = _named(source, source.touched() if source.partial and touched is None else touched)
    history = env.catalog.history()
    if (committed := committed_as(history, learned(env, sidecar, trained_through)[0])) is not None:
        return committed
    plan = plan_source(env, source, history.newest)
    check_shapes(plan)
    source = arranged(source, plan)
    keys = None if named is None else {plan.names[name]: found for name, found in named.items()}
    placed = place(env, history, sidecar, trained_through, keys)
    if isinstance(placed, Manifest):
        return placed
    check_current(placed, history)
    tell(plan, history.newest)
    env.catalog.add_tables(plan.found)
    chain = history.chain(history.newest.version)
    since = touched_since(env, history.newest, placed)
    if source.partial:
        _check_known(source, since.meant(env.schema, plan), history)
    elif since.meant(env.schema, plan).whole or plan.appears or not all(table_layers(chain, name) for name in plan.found):
        return commit_compared(env, source, placed, history, plan, promote=promote, why=why)
    return commit_picked(env, source, placed, since, history, plan, promote=promote, why=why)


def commit_compared(
    env: Environment,
    source: Source,
    checkpoint: Checkpoint,
    history: History,
    plan: TablePlan,
    *,
    promote: tuple[str, ...],
    why: str,
) -> Manifest:
    """The delta by comparing all of the checkpoint with the newest version; it states the digests of the state. All tables or
    none: where the log has brought rows that the checkpoint does not have, only those digests tell replicas."""
    base = history.newest
    upload = leases.open_upload(env.catalog, purpose=f"delta of state {checkpoint.state}", actor=env.actor(why))
    prefix = data_prefix(env, upload)
    changes, digests = {}, {}
    for name, table in source.tables.items():
        changes[name], digests[name] = _compared(env, table, TableLayout.of(env.schema, name), history, prefix)
    carried = carry(env, history, checkpoint, plan, touched_since(env, base, checkpoint).tables, prefix)
    written = Written(
        changes | carried.changes,
        dense_of(env, source, prefix, base, checkpoint),
        "compared",
        plan.shapes,
        plan.retired,
        digests=digests | carried.digests,
    )
    return commit_checkpoint(env, checkpoint, base, written, kind="delta", upload=upload, promote=promote, why=plan.reason(why))


def commit_picked(
    env: Environment,
    source: Source,
    checkpoint: Checkpoint,
    since: TouchedSince,
    history: History,
    plan: TablePlan,
    *,
    promote: tuple[str, ...],
    why: str,
) -> Manifest:
    """The delta of the touched keys alone: their rows, and tombstones of those that the checkpoint does not have."""
    base = history.newest
    upload = leases.open_upload(env.catalog, purpose=f"delta of state {checkpoint.state}", actor=env.actor(why))
    prefix = data_prefix(env, upload)
    carried = carry(env, history, checkpoint, plan, since.tables, prefix).whole()
    runs = {name: [*found] for name, found in since.without(plan.others).runs.items()}
    for old, name in sorted(meanings(env.schema, plan).items()):
        for number, keys in enumerate(_keys(env, old, since.runs.get(old, ()))):
            folder = f"{prefix}/meant-{old}-{number}"
            runs.setdefault(name, []).append(write_keys(env.catalog.store, env.schema, name, keys, folder))
    for name, keys in (source.touched() if source.partial else {}).items():
        if len(keys):  # of a table that is new, or known to nobody but the checkpoint
            runs.setdefault(name, []).append(write_keys(env.catalog.store, env.schema, name, keys, f"{prefix}/told-{name}"))
    changes = {
        name: _picked(env, source, TableLayout.of(env.schema, name), found, history, prefix)
        for name, found in sorted(runs.items())
    }
    dense = dense_of(env, source, prefix, base, checkpoint)
    written = Written(changes | carried.changes, dense, "touched", plan.shapes, plan.retired)
    return commit_checkpoint(env, checkpoint, base, written, kind="delta", upload=upload, promote=promote, why=plan.reason(why))


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


def _keys(env: Environment, table: str, runs: Sequence[RunInfo]) -> Iterator[Keys]:
    for run in runs:
        yield from read_keys(env.catalog.store, env.schema, table, run)


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
    known = history.stated_digests(base, layout.buckets) or {}
    with Layers.open(store, layout, runs) as layers:
        found = compare(layers, table, store, prefix, base_digests=known.get(layout.table))
    change = TableChange(runs=found.changes.runs, interval=DigestVector.of(found.changes.interval))
    return change, DigestVector.of(found.state)


def _picked(
    env: Environment, source: Source, layout: TableLayout, runs: Sequence[RunInfo], history: History, prefix: str
) -> TableChange:
    found, store, table = Collected(layout.buckets), env.catalog.store, _table(source, layout)
    step = max(1, ROWS_BUDGET // (4 * table.dim))
    chain = [] if table.names(0, 0) is None else table_layers(history.chain(history.newest.version), layout.table)
    with Layers.open(store, layout, [runs]) as layers, Layers.open(store, layout, chain) as base:
        base_names = Names(base)
        for stretch in layers.stretches(range(layout.buckets), bytes_a_row=32, budget=KEYS_BUDGET):
            keys = distinct(stretch.keys())
            positions = locate(table, keys, layout.table)
            if source.partial:
                _check_told(source, keys[positions < 0], layout.table)
            gone = slice_rows(
                np.empty(0, np.int64), np.empty((0, layout.width), np.uint8), keys[positions < 0],
                layout, store, prefix, number=len(found.runs),
            )  # fmt: skip
            found.add(gone.runs, gone.interval)
            for some in _steps(positions, step):
                names = take_names(table, positions[some])
                if names is not None:
                    base_names.check(keys[some], names)
                rows = ArraySource(take(table, positions[some]), keys[some], names)
                sliced = slice_table(rows, layout, store, f"{prefix}/{len(found.runs)}")
                found.add(sliced.runs, sliced.digests)
    return found.change()


def _table(source: Source, layout: TableLayout) -> RowSource:
    """The table in the source; empty where a partial checkpoint says nothing of it."""
    return source.tables.get(layout.table) or ArraySource(np.empty((0, layout.dim), np.float32), np.empty(0, np.int64))


def _check_known(source: Source, since: TouchedSince, history: History) -> None:
    """`Refused` unless a partial checkpoint can be a difference to the newest version."""
    if history.newest.kind == "birth":
        source.check_whole()
    if unknown := sorted(since.whole):
        raise Refused(
            f"{source.name} holds only the rows that changed, and it is not known which keys of table {unknown[0]} were touched "
            f"since version {history.newest.version}",
            hint="publish a whole checkpoint first",
        )


def _check_told(source: Source, missing: Keys, table: str) -> None:
    """`Refused` names a touched key that a partial checkpoint neither has nor says is gone."""
    untold = np.setdiff1d(missing, source.deleted.get(table, np.empty(0, np.int64)))
    if len(untold):
        raise Refused(
            f"{source.name} holds only the rows that changed: key {untold[0]} of table {table} was touched since the newest "
            "version, and it says nothing of it",
            hint="publish a whole checkpoint",
        )


def _steps(positions: NDArray[np.int64], step: int) -> list[NDArray[np.int64]]:
    """The indices of what is there, in the order of the rows, `step` at a time."""
    there = np.argsort(positions, kind="stable")[np.count_nonzero(positions < 0) :]
    return [there[at : at + step] for at in range(0, len(there), step)]
