"""What a rollback writes: the changes for newcomers, the undo for those who lived through what is taken back.

Cost follows the touched keys: only they are read from the chains, and only they are written.

Where only some tables go back, the others go on from the newest version and the log up to the fences: their rows that never
went over the log stay. What deltas after the base wrote to them is written again, for those who pass over these deltas.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.history import History
from penstock.pipeline.core.ids import Offset
from penstock.pipeline.core.manifest import DenseInfo, Manifest, TableChange
from penstock.pipeline.core.records import NO_KEYS, RecordKind
from penstock.pipeline.core.times import EventTime
from penstock.pipeline.environment import Environment
from penstock.slicer.fold import Written
from penstock.slicer.names import Names
from penstock.slicer.ordering import distinct
from penstock.slicer.runs import Run

from .gathering import Folded, behind_cuts, fold
from .table_at import CHUNK_KEYS, Difference, Keys, TableAt, chain_layers, write_runs

SHRINK_AT_KEYS = 1 << 23
COMPARED = ("compared", "whole")
"""The sources of versions that say what differs from the one before, whatever the log has brought."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """`changes` of newcomers relative to the base; `undo` of everybody else; `lost_rows` counted behind the cuts; `digests` of
    the state, where those of the base are known."""

    changes: dict[str, TableChange]
    undo: dict[str, TableChange]
    trained_through: EventTime
    dense: DenseInfo | None
    lost_rows: int
    digests: dict[str, DigestVector] | None


@dataclass(slots=True)
class KeySet:
    """Distinct keys of one table, from parts that overlap."""

    _parts: list[Keys] = field(default_factory=list)
    _added: int = 0

    def add(self, keys: Keys) -> None:
        self._parts.append(keys)
        self._added += len(keys)
        if self._added > SHRINK_AT_KEYS:
            self.array()

    def array(self) -> Keys:
        """int64[n], sorted."""
        self._parts = [distinct(self._parts)]
        self._added = 0
        return self._parts[0]


@dataclass(frozen=True, slots=True)
class Begun:
    """The recovery of a whole model, as far as `ends`: `undone` are the keys that its undo has, `written` is what stands at the
    cuts of the log since the base."""

    recovery: Recovery
    undone: dict[str, KeySet]
    written: dict[str, Written]
    ends: tuple[Offset, ...]


def recover(
    env: Environment,
    history: History,
    named: History,
    base: Manifest,
    *,
    tables: tuple[str, ...] | None,
    cuts: Sequence[Offset],
    fences: Sequence[Offset],
    folder: str,
) -> Begun:
    """Computes the state at the target and writes its runs below `folder`. `named` is the history on which the target was found,
    `history` all of it. The cuts must be final; before the last fence `fences` are the ends of the log so far."""
    covered = frozenset(env.schema.tables if tables is None else tables)
    back = fold(env, named, base, cuts, tables=covered)
    on = back if tables is None else _others(env, history, fences, covered)
    newest = base if tables is None else history.newest
    undone, lost_rows = _undone(env, history, base, covered, cuts, fences)
    if any(manifest.source in COMPARED for manifest in history.after(base.version)):
        _add_written(env, history, base, back, covered, undone)
    changed = {name: _all_keys(written) for name, written in back.written.items()}
    if tables is not None:
        changed |= _differing(env, history, base, on, covered)
    with ExitStack() as opened:

        def table_at(name: str) -> TableAt:
            version, folded = (base, back) if name in covered else (newest, on)
            return TableAt(opened.enter_context(chain_layers(env, history, version, name)), folded.written.get(name))

        at = {name: table_at(name) for name in {*changed, *undone}}
        digests = _known_digests(env, history, base)
        changes = {}
        for name, keys in sorted(changed.items()):
            before = opened.enter_context(chain_layers(env, history, base, name))
            difference = None if digests is None else Difference(before, digests[name])
            # What goes back is named by the chain of the base; what stays may have got its names later.
            names = None if name in covered else Names.among(at[name].layers)
            changes[name] = write_runs(env, name, f"{folder}/changes", keys.array(), at[name], difference, names)
        undo = {name: write_runs(env, name, f"{folder}/undo", keys.array(), at[name]) for name, keys in sorted(undone.items())}
    stated = None if digests is None else {name: DigestVector.of(found) for name, found in digests.items()}
    through = EventTime(max(back.trained_through, on.trained_through))
    recovery = Recovery(changes, undo, through, on.dense or newest.dense, lost_rows, stated)
    return Begun(recovery, undone, back.written, tuple(fences))


def extended(
    env: Environment, history: History, base: Manifest, begun: Begun, *, fences: Sequence[Offset], folder: str
) -> Recovery:
    """What was begun, with the keys that were written since then. History and base must be the same."""
    late, lost_rows = _behind(env, history, base, frozenset(env.schema.tables), begun.ends, fences)
    undo = dict(begun.recovery.undo)
    for name, found in sorted(late.items()):
        known = begun.undone[name].array() if name in begun.undone else NO_KEYS
        if not len(keys := np.setdiff1d(found.array(), known, assume_unique=True)):
            continue
        with chain_layers(env, history, base, name) as layers:
            more = write_runs(env, name, folder, keys, TableAt(layers, begun.written.get(name)))
        undo[name] = _joined(undo[name], more, env.schema.buckets) if name in undo else more
    return replace(begun.recovery, undo=undo, lost_rows=begun.recovery.lost_rows + lost_rows)


# ---- which keys ------------------------------------------------------------------------------------------------------


def _others(env: Environment, history: History, fences: Sequence[Offset], covered: frozenset[str]) -> Folded:
    return fold(env, history, history.newest, fences, tables=frozenset(env.schema.tables) - covered)


def _differing(env: Environment, history: History, base: Manifest, on: Folded, covered: frozenset[str]) -> dict[str, KeySet]:
    """Per table that stays, the keys in which it may differ from the base: of the versions that only one of both states is made
    of, and of the log since."""
    newest = history.newest
    lineages = [{m.version for m in history.lineage(version)} for version in (base.version, newest.version)]
    found = {name: _all_keys(written) for name, written in on.written.items()}
    for manifest in history.trunk:
        if manifest.version in lineages[0] ^ lineages[1]:
            _add_changed(env, manifest.changes, found, frozenset(env.schema.tables) - covered)
    return found


def _undone(
    env: Environment,
    history: History,
    base: Manifest,
    covered: frozenset[str],
    cuts: Sequence[Offset],
    fences: Sequence[Offset],
) -> tuple[dict[str, KeySet], int]:
    """The keys to set back per table: those behind the cuts, and those of every later version, dead timelines included. And how
    many rows behind the cuts counted."""
    found, lost_rows = _behind(env, history, base, covered, cuts, fences)
    every = frozenset(env.schema.tables)
    for manifest in history.after(base.version):
        _add_changed(env, manifest.changes, found, every)
        if manifest.rollback is not None:
            _add_changed(env, manifest.rollback.undo, found, every)
    return found, lost_rows


def _behind(
    env: Environment,
    history: History,
    base: Manifest,
    covered: frozenset[str],
    starts: Sequence[Offset],
    fences: Sequence[Offset],
) -> tuple[dict[str, KeySet], int]:
    """The keys of all records of [start, fence), and how many rows of them counted."""
    found: dict[str, KeySet] = {}
    lost_rows = 0
    for entry, counts in ((behind.entry, behind.counts) for behind in behind_cuts(env, history, base, starts, fences)):
        record = entry.record
        if record.kind == RecordKind.ROWS and record.table in covered:
            found.setdefault(record.table, KeySet()).add(np.array(record.keys))
            lost_rows += len(record.keys) if counts else 0
    return found, lost_rows


def _add_written(
    env: Environment, history: History, base: Manifest, back: Folded, covered: frozenset[str], found: dict[str, KeySet]
) -> None:
    """The keys that the log has brought behind the base as well: a later version that was made by comparing has set them to what
    the base has, without a word where its checkpoint has the same."""
    brought, others = dict(back.written), frozenset(env.schema.tables) - covered
    if others:
        ends = [position.offset for position in history.newest.positions.partitions]
        brought |= fold(env, history, base, ends, tables=others).written
    for name, written in brought.items():
        found.setdefault(name, KeySet()).add(written.keys)
        found[name].add(written.tombstones)


def _add_changed(env: Environment, changes: dict[str, TableChange], found: dict[str, KeySet], tables: Iterable[str]) -> None:
    """The keys that stand in these runs, rows and tombstones alike."""
    for table in set(changes) & set(tables):
        for info in changes[table].runs:
            with Run.open(env.catalog.store, info, buckets=env.schema.buckets) as run:
                for low in range(0, info.rows, CHUNK_KEYS):
                    found.setdefault(table, KeySet()).add(np.array(run.keys_at(low, min(info.rows, low + CHUNK_KEYS))))


def _all_keys(written: Written) -> KeySet:
    found = KeySet()
    found.add(written.keys)
    found.add(written.tombstones)
    return found


def _joined(one: TableChange, other: TableChange, buckets: int) -> TableChange:
    """Both, which have no key in common."""
    interval = one.interval.array(buckets) + other.interval.array(buckets)
    return TableChange(runs=(*one.runs, *other.runs), interval=DigestVector.of(interval))


def _known_digests(env: Environment, history: History, base: Manifest) -> dict[str, NDArray[np.uint64]] | None:
    """The table digests of the base's state, where it, or one beside the chain, states them."""
    buckets = env.schema.buckets
    known = history.stated_digests(base, buckets)
    if known is None:
        return None
    return {name: known.get(name, np.zeros(buckets, np.uint64)) for name in env.schema.tables}
