"""What a rollback writes: the fold for newcomers, the undo for those who lived through what is taken back.

Cost follows the touched keys: only they are read from the chain, and only they are written.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.hashing import add_puts
from penstock.pipeline.core.history import History, table_layers
from penstock.pipeline.core.ids import Offset
from penstock.pipeline.core.manifest import DenseInfo, Manifest
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.core.times import EventTime
from penstock.pipeline.environment import Environment
from penstock.slicer.fold import Written
from penstock.slicer.layers import Layers
from penstock.slicer.run_layout import TableLayout

from .gathering import changed_keys, dead_entries, fold

Keys = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Undo:
    """`changes` of newcomers relative to the base; `undo` of everybody else; `lost_rows` written behind the cuts; `digests` of
    the state where those of the base are known."""

    changes: dict[str, Written]
    undo: dict[str, Written]
    trained_through: EventTime
    dense: DenseInfo | None
    lost_rows: int
    digests: dict[str, DigestVector] | None


def compute_undo(
    env: Environment,
    history: History,
    named: History,
    base: Manifest,
    *,
    tables: tuple[str, ...] | None,
    cuts: list[Offset],
    fences: list[Offset],
) -> Undo:
    """`named` is the history on which the target was found, `history` all of it. Of a table that is not in `tables` the log is
    folded up to the fences, and only what later deltas wrote beside the log is set back to that."""
    ends: dict[str | None, list[Offset]] = {None: cuts}
    for table in env.schema.tables:
        ends[table] = cuts if tables is None or table in tables else fences
    folded = fold(env, named, base, ends)
    touched, lost_rows = _touched(env, history, base, tables, cuts, fences)
    with ExitStack() as opened:
        layers = {name: opened.enter_context(chain_layers(env, history, base, name)) for name in {*touched, *folded.written}}
        undo = {name: _at_target(layers[name], keys, folded.written.get(name)) for name, keys in touched.items()}
        digests = _digests(env, history, base, folded.written, layers)
    dense = folded.dense if folded.dense is not None else base.dense
    return Undo(folded.written, undo, folded.trained_through, dense, lost_rows, digests)


def chain_layers(env: Environment, history: History, version: Manifest, table: str) -> AbstractContextManager[Layers]:
    """The chain of one table of a version, for point reads."""
    runs = table_layers(history.chain(version.version), table)
    return Layers.open(env.catalog.store, TableLayout.of(env.schema, table), runs)


def _touched(
    env: Environment, history: History, base: Manifest, tables: tuple[str, ...] | None, cuts: list[Offset], fences: list[Offset]
) -> tuple[dict[str, Keys], int]:
    """The keys to set back per table: those behind the cuts, and those of every later version, dead timelines included."""
    found: dict[str, list[Keys]] = {}
    lost_rows = 0
    for _, entry in dead_entries(env, cuts, fences):
        record = entry.record
        if record.kind == RecordKind.ROWS and (tables is None or record.table in tables):
            found.setdefault(record.table, []).append(np.array(record.keys))
            lost_rows += len(record.keys)
    for manifest in history.after(base.version):
        parts = [manifest.changes, *([manifest.rollback.undo] if manifest.rollback is not None else [])]
        for part in parts:
            for table, keys in changed_keys(env, part).items():
                found.setdefault(table, []).extend(keys)
    return {table: np.unique(np.concatenate(keys)) for table, keys in found.items()}, lost_rows


def _at_target(layers: Layers, keys: Keys, folded: Written | None) -> Written:
    """The rows of `keys` at the target: as folded, else as the chain has them, else gone."""
    rows, there = layers.find(keys)
    if folded is not None:
        for some, data in ((folded.keys, folded.rows), (folded.tombstones, None)):
            at, hit = _positions(some, keys)
            there[hit] = data is not None
            if data is not None:
                rows[hit] = data[at]
    return Written(keys[there], rows[there], keys[~there])


def _positions(sorted_keys: Keys, wanted: Keys) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Where the wanted keys stand among the sorted ones: positions of those that do, and which do."""
    if not len(sorted_keys):
        return np.empty(0, np.intp), np.zeros(len(wanted), np.bool_)
    at = np.minimum(np.searchsorted(sorted_keys, wanted), len(sorted_keys) - 1)
    hit = sorted_keys[at] == wanted
    return at[hit], hit


def _digests(
    env: Environment, history: History, base: Manifest, folded: dict[str, Written], layers: dict[str, Layers]
) -> dict[str, DigestVector] | None:
    """The base's table digests with the folded keys exchanged, where the base, or one beside the chain, states them."""
    buckets = env.schema.buckets
    known = base.state_digests(buckets)
    if known is None and base.state in history.bases:
        known = history.bases[base.state].state_digests(buckets)
    if known is None:
        return None
    for table in env.schema.tables:
        digests = known.setdefault(table, np.zeros(buckets, np.uint64))
        if table in folded:
            digests += _difference(folded[table], layers[table], buckets)
    return {table: DigestVector.of(digests) for table, digests in known.items()}


def _difference(written: Written, layers: Layers, buckets: int) -> NDArray[np.uint64]:
    added, removed = np.zeros(buckets, np.uint64), np.zeros(buckets, np.uint64)
    add_puts(added, written.keys, written.rows)
    keys = np.concatenate([written.keys, written.tombstones])
    rows, there = layers.find(keys)
    add_puts(removed, keys[there], rows[there])
    return added - removed
