"""Publishes a delta: the rows and tombstones that a checkpoint changes since the newest version.

What was touched is taken from the lists that the trainer's checkpoints left, as far as they are known; a table of which that
is not known is compared with the base. Rows always come from the whole checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.catalog import leases
from penstock.pipeline.catalog.checkpoints import checkpoints_between
from penstock.pipeline.core.checkpoint import Checkpoint, Sidecar
from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.errors import Refused
from penstock.pipeline.core.history import History, table_layers
from penstock.pipeline.core.manifest import Manifest, RunInfo, TableChange
from penstock.pipeline.core.times import EventTime
from penstock.pipeline.environment import Environment
from penstock.slicer.comparison import compare
from penstock.slicer.layers import Layers
from penstock.slicer.row_source import RowSource
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.runs import Run
from penstock.slicer.slicing import slice_rows, slice_table

from .commits import PROMOTE, Written, check_current, commit_checkpoint, data_prefix, dense_of
from .offline import place
from .sources import Keys, Source, pick

CHUNK_KEYS = 1 << 20
"""Touched keys that are read and encoded at a time."""


@dataclass(frozen=True, slots=True)
class TouchedSince:
    """What was touched between two states: sorted unique keys per table; `whole` tables are not known key by key."""

    keys: dict[str, Keys]
    whole: frozenset[str]


def publish_delta(
    env: Environment,
    source: Source,
    *,
    sidecar: Sidecar | None = None,
    trained_through: EventTime | None = None,
    touched: dict[str, Keys] | None = None,
    promote: tuple[str, ...] = PROMOTE,
    why: str = "",
) -> Manifest:
    """Commits the checkpoint's state as a difference to the newest version; a state that is committed already is returned as it is.

    `touched` says which keys changed, for a checkpoint without a sidecar of ours. `CommitConflict`: somebody else committed; run
    it again. `Refused`: a table is missing, or has another dim or codec than at its birth, or holds what is not finite."""
    check_tables(env, source)
    env.catalog.add_tables(source.schemas())
    placed = place(env, sidecar, trained_through, _named(env, touched))
    if isinstance(placed, Manifest):
        return placed
    return commit_delta(env, source, placed, promote=promote, why=why)


def commit_delta(env: Environment, source: Source, checkpoint: Checkpoint, *, promote: tuple[str, ...], why: str) -> Manifest:
    """The delta of a checkpoint that has its place in the log."""
    refs = env.catalog.refs()
    history = env.catalog.history(refs)
    if (committed := history.of_state(checkpoint.state)) is not None:
        return committed
    check_current(checkpoint, refs, history)
    base = history.newest
    since = touched_since(env, base, checkpoint)
    upload = leases.open_upload(env.catalog, purpose=f"delta of state {checkpoint.state}", actor=env.actor(why))
    prefix = data_prefix(env, upload)
    written, compared = Written(dense=dense_of(env, source, prefix, base)), {}
    for name, table in source.tables.items():
        layout = TableLayout.of(env.schema, name)
        if name in since.whole or not _exists(base, history, name):
            written.changes[name], compared[name] = _compared(env, table, layout, history, base, prefix)
        elif name in since.keys:
            written.changes[name] = _picked(env, table, layout, since.keys[name], prefix)
    if set(compared) == set(env.schema.tables):
        written.digests = {name: DigestVector.of(digests) for name, digests in compared.items()}
    origin = "compared" if compared else "touched"
    return commit_checkpoint(env, checkpoint, base, written, kind="delta", source=origin, upload=upload, promote=promote, why=why)


def touched_since(env: Environment, base: Manifest, checkpoint: Checkpoint) -> TouchedSince:
    """The touched keys of all checkpoints in (base, head], those that were never published included."""
    parts: dict[str, list[Keys]] = {}
    whole: set[str] = set()
    for found in checkpoints_between(env.catalog, base.state, checkpoint.state):
        for touched in found.touched.values():
            whole |= set(touched.whole)
            for table, info in touched.keys.items():
                with Run.open(env.catalog.store, info, buckets=env.schema.buckets) as run:
                    parts.setdefault(table, []).append(np.array(run.keys()))
    return TouchedSince({table: np.unique(np.concatenate(keys)) for table, keys in parts.items()}, frozenset(whole))


def check_tables(env: Environment, source: Source) -> None:
    """A table that vanishes is refused: its rows would stay for ever."""
    if missing := sorted(set(env.schema.tables) - set(source.tables)):
        raise Refused(
            f"{source.name} lacks table{'s' if len(missing) > 1 else ''} {', '.join(missing)}, which model {env.catalog.model} has",
            hint="is [models.*.tables] complete? A table cannot go while a model lives",
        )


def encoded(layout: TableLayout, keys: Keys, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8[n, width] of float32[n, dim]; `Refused` names the table and the key of a row that cannot be encoded."""
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise Refused(f"table {layout.table}: the row of key {int(keys[~finite][0])} is not finite")
    return codec(layout.codec).encode(rows)


def _named(env: Environment, touched: dict[str, Keys] | None) -> dict[str, Keys] | None:
    """Keys without a table's name belong to the only table."""
    if touched is None or "" not in touched:
        for table in touched or ():
            env.schema.table(table)
        return touched
    tables = list(env.schema.tables)
    if len(tables) != 1:
        raise Refused(
            f"the touched keys name no table, and the model has {', '.join(tables)}", hint="write .npz, an array a table"
        )
    return {tables[0]: touched[""]}


def _exists(base: Manifest, history: History, table: str) -> bool:
    return any(table in part for m in history.chain(base.version) for part in (m.changes, m.full or {}))


def _compared(
    env: Environment, table: RowSource, layout: TableLayout, history: History, base: Manifest, prefix: str
) -> tuple[TableChange, NDArray[np.uint64]]:
    runs = table_layers(history.chain(base.version), layout.table)
    if not runs:
        sliced = slice_table(table, layout, env.catalog.store, prefix)
        return TableChange(runs=sliced.runs, interval=DigestVector.of(sliced.digests)), sliced.digests
    with Layers.open(env.catalog.store, layout, runs) as layers:
        known = base.state_digests(layout.buckets)
        found = compare(layers, table, env.catalog.store, prefix, base_digests=None if known is None else known.get(layout.table))
    return TableChange(runs=found.changes.runs, interval=DigestVector.of(found.changes.interval)), found.state


def _picked(env: Environment, table: RowSource, layout: TableLayout, keys: Keys, prefix: str) -> TableChange:
    interval = np.zeros(layout.buckets, np.uint64)
    runs: list[RunInfo] = []
    for number, some in enumerate(_chunks(keys)):
        there, rows, gone = pick(table, some, layout.table)
        part = slice_rows(there, encoded(layout, there, rows), gone, layout, env.catalog.store, prefix, number=number)
        interval += part.interval
        runs += part.runs
    return TableChange(runs=tuple(runs), interval=DigestVector.of(interval))


def _chunks(keys: Keys) -> Iterable[Keys]:
    return (keys[at : at + CHUNK_KEYS] for at in range(0, len(keys), CHUNK_KEYS))
