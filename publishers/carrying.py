"""What a publish writes to the generations of tables that no checkpoint has rows of: those that were read until now stay as the
log has left them, the others lose every row. Costs nothing once they are empty and nobody writes to them.

Whoever wrote to one over the log has touched its keys, so lists of touched keys tell whether the log has to be read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.catalog.replay import record_name, replay_live
from penstock.pipeline.catalog.skipping import read_skips
from penstock.pipeline.core.checkpoint import Checkpoint
from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.errors import PositionGone
from penstock.pipeline.core.hashing import add_puts
from penstock.pipeline.core.history import Entry, History, effective, table_layers
from penstock.pipeline.core.ids import Partition
from penstock.pipeline.core.manifest import TableChange
from penstock.pipeline.core.records import NO_KEYS, RecordKind
from penstock.pipeline.core.schema_change import TablePlan, was_cleared
from penstock.pipeline.environment import Environment
from penstock.slicer.fold import Fold, Written
from penstock.slicer.layers import Layers
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.slicing import slice_rows

from .commits import Collected


@dataclass(frozen=True, slots=True)
class Carried:
    """By generation: what is written, where anything is, and the digests of the state then. `gone`: what the log does not hold
    any more of what it has brought to them, None if it does."""

    changes: dict[str, TableChange]
    digests: dict[str, DigestVector]
    gone: PositionGone | None = None

    def whole(self) -> Carried:
        """`PositionGone` unless all of the log was there. Who states the digests need not ask: replicas that differ load anew."""
        if self.gone is not None:
            raise PositionGone(str(self.gone), hint="`penstock publish snapshot` does not need the log")
        return self


def carry(
    env: Environment, history: History, checkpoint: Checkpoint, plan: TablePlan, touched: Collection[str], prefix: str
) -> Carried:
    """Of the generations that `plan` keeps or clears, on top of the newest version of `history`. `touched` names the tables that
    were touched since then. Memory: the keys that the log brought to them in one partition."""
    if not plan.others:
        return Carried({}, {})
    gone = None
    with ExitStack() as opened:
        found: dict[str, _Kept | _Cleared] = {}
        for name in plan.kept:
            found[name] = _kept(env, history, opened.enter_context(_layers(env, history, name)), prefix)
        lineage = history.lineage(history.newest.version)
        for name in plan.cleared:
            layers = opened.enter_context(_layers(env, history, name))
            found[name] = _cleared(env, layers, prefix, is_empty=was_cleared(lineage, name, env.schema.table_of(name)))
        try:
            _follow(env, history, checkpoint, {name: found[name] for name in plan.others & set(touched)})
        except PositionGone as error:
            gone = error
    return Carried(
        {name: part.written.change() for name, part in found.items() if part.written.runs},
        {name: DigestVector.of(part.digests) for name, part in found.items()},
        gone,
    )


def entries_since(env: Environment, history: History, checkpoint: Checkpoint, partition: Partition) -> Iterator[Entry]:
    """What takes effect in a partition between the newest version and a checkpoint."""
    base = history.newest
    assert checkpoint.positions is not None
    position, end = base.positions.partitions[partition], checkpoint.positions.partitions[partition].offset
    live = replay_live(env.log, env.schema, history, partition, position.offset, base.timeline, end, read_skips(env.catalog))
    return effective(live, position.readers, base.timeline)


@dataclass(frozen=True, slots=True)
class _Kept:
    """`digests` are those of the state, as it becomes."""

    env: Environment
    layers: Layers
    prefix: str
    written: Collected
    digests: NDArray[np.uint64]

    def take(self, logged: Written) -> None:
        keys = np.concatenate([logged.keys, logged.tombstones])
        rows, there = self.layers.find(keys)
        before = np.zeros_like(self.digests)
        add_puts(before, keys[there], rows[there])
        np.subtract(self.digests, before, out=self.digests)
        add_puts(self.digests, logged.keys, logged.rows)
        _write(self.env, self.layers.layout, self.prefix, self.written, logged)


@dataclass(frozen=True, slots=True)
class _Cleared:
    """`digests` are those of no row at all."""

    env: Environment
    layers: Layers
    prefix: str
    written: Collected
    digests: NDArray[np.uint64]

    def take(self, logged: Written) -> None:
        """Rows that only the log has; those of the chain have their tombstones."""
        self.delete(logged.keys[~self.layers.find(logged.keys)[1]])

    def delete(self, keys: NDArray[np.int64]) -> None:
        layout = self.layers.layout
        _write(self.env, layout, self.prefix, self.written, Written(NO_KEYS, np.empty((0, layout.width), np.uint8), keys))


def _layers(env: Environment, history: History, table: str) -> Layers:
    runs = table_layers(history.chain(history.newest.version), table)
    return Layers.open(env.catalog.store, TableLayout.of(env.schema, table), runs)


def _kept(env: Environment, history: History, layers: Layers, prefix: str) -> _Kept:
    stated = (history.stated_digests(history.newest, layers.layout.buckets) or {}).get(layers.layout.table)
    digests = layers.digests() if stated is None else stated.copy()
    return _Kept(env, layers, prefix, Collected(layers.layout.buckets), digests)


def _cleared(env: Environment, layers: Layers, prefix: str, *, is_empty: bool) -> _Cleared:
    found = _Cleared(env, layers, prefix, Collected(layers.layout.buckets), np.zeros(layers.layout.buckets, np.uint64))
    if not is_empty:
        for keys in layers.merged_keys():
            found.delete(keys)
    return found


def _follow(env: Environment, history: History, checkpoint: Checkpoint, parts: Mapping[str, _Kept | _Cleared]) -> None:
    """Hands to each what the log has brought to it."""
    for p in range(env.schema.partitions if parts else 0):
        folds = {name: Fold(part.layers.layout.width) for name, part in parts.items()}
        for offset, record, *_ in entries_since(env, history, checkpoint, Partition(p)):
            if record.kind == RecordKind.ROWS and record.table in folds:
                where = record_name(env.log, Partition(p), offset)
                folds[record.table].add(record.put_keys, record.rows, record.tombstones, name=where)
        for name, fold in folds.items():
            parts[name].take(fold.written())


def _write(env: Environment, layout: TableLayout, prefix: str, found: Collected, written: Written) -> None:
    sliced = slice_rows(*written, layout, env.catalog.store, prefix, number=len(found.runs))
    found.add(sliced.runs, sliced.interval)
