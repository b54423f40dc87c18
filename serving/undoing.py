"""Takes back in one partition what a rollback takes back: with what is remembered of the rows, where that proves to be what the
rollback says, else with the rows of its runs.

What a row was at the cut is told by the nearest waypoint before it, and by what the log wrote from there up to the cut. Of each
bucket that must come to the digest that the rollback states of its undo; so whatever is remembered, no row can be another than
the one in the runs, of which the keys alone are read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.catalog.replay import replay_live
from penstock.pipeline.core.errors import Corrupt, PositionGone, Refused, Unreachable, VersionGone
from penstock.pipeline.core.hashing import add_puts, add_tombstones, buckets_of
from penstock.pipeline.core.history import effective
from penstock.pipeline.core.ids import Offset
from penstock.pipeline.core.manifest import Manifest, Rollback, TableChange
from penstock.pipeline.core.records import NO_KEYS, RecordKind
from penstock.pipeline.ports.log import UpdateLog
from penstock.pipeline.ports.store import ObjectStore
from penstock.slicer.fold import Fold, Written
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.runs import Run

from .chains import groups
from .changes import Part
from .follower import Follower
from .partition import PartitionState, Waypoint
from .table import Keys, Rows, Table

log = logging.getLogger(__name__)
Write = Callable[[Table, Part], None]

GROUP_KEYS = 1 << 15
"""About so many keys are looked up and written at a time."""
WORTH = 2
"""As many keys must be set back for each row that the log is read for."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """The rows of some tables at the cut: as they were at the waypoint, or are (None), but for what was written up to the cut."""

    waypoint: Waypoint | None
    written: Mapping[str, Written]


@dataclass(frozen=True, slots=True)
class Undoing:
    """Reads of a rollback from `store` and `log`."""

    store: ObjectStore
    log: UpdateLog
    follower: Follower

    def undo(self, state: PartitionState, version: Manifest, write: Write) -> None:
        """Sets back what the undo of a rollback names in a partition that stands at its cut or beyond. Safe to repeat. Errors as
        of `Run.open`, with some of it written."""
        taken, held = version.rollback, self.follower.holding.part(state.partition)
        assert taken is not None
        with ExitStack() as opened:
            runs = {name: self._opened(opened, name, change) for name, change in taken.undo.items()}
            keys = sum(int(run.offsets[held.stop] - run.offsets[held.start]) for found in runs.values() for run in found)
            remembered = self._remembered(state, taken, keys) if keys else None
            for name, change in taken.undo.items():
                stated = change.interval.array(self.follower.schema.buckets)
                for group in groups(runs[name], held, rows=GROUP_KEYS):
                    self._undo_group(state, taken, name, remembered, runs[name], group, stated, write)

    def _opened(self, opened: ExitStack, name: str, change: TableChange) -> list[Run]:
        layout = TableLayout.of(self.follower.schema, name)
        found = (Run.open(self.store, info, buckets=layout.buckets, layout=layout) for info in change.runs)
        return [opened.enter_context(run) for run in found]

    def _undo_group(
        self, state: PartitionState, taken: Rollback, name: str, remembered: Remembered | None, runs: Sequence[Run],
        group: range, stated: NDArray[np.uint64], write: Write,
    ) -> None:  # fmt: skip
        """Some buckets: those that agree from memory, the others from the runs."""
        table, agree = self.follower.tables[name], np.zeros(len(stated), np.bool_)
        if remembered is not None:
            keys = np.concatenate([NO_KEYS, *(run.keys(group) for run in runs)])
            found = _rows_at(table, state, remembered, name, keys, covered=taken.covers(name))
            if found is not None:
                both = _split(keys, *found)
                agree = _agreeing(*both, stated)
                for part in both:
                    chosen = (
                        part if agree[group.start : group.stop].all() else part.where(agree[buckets_of(part.keys, len(agree))])
                    )
                    write(table, chosen)
                    state.counters.recalled += len(chosen.keys)
        for part in (part for buckets in _stretches(~agree, group) for run in runs if len((part := _read(run, buckets)).keys)):
            write(table, part)
            state.counters.fetched += len(part.keys)

    # ---- what is remembered ----------------------------------------------------------------------------------------------

    def _remembered(self, state: PartitionState, taken: Rollback, keys: int) -> Remembered | None:
        """What there is, if using it costs less than reading the rows of so many keys."""
        cut = taken.cut[state.partition]
        if state.offset == cut:
            return Remembered(None, {})
        passed = [waypoint for waypoint in state.waypoints if waypoint.offset <= cut]
        if not passed:
            return None
        nearest, later = passed[-1], state.waypoints[len(passed) :]
        if nearest.offset == cut:
            return Remembered(nearest, {})
        rows = (later[0].rows if later else state.counters.rows) - nearest.rows
        if rows * WORTH > keys:
            return None
        try:
            return Remembered(nearest, self._written(state, nearest, cut, taken))
        except (PositionGone, Unreachable, Corrupt, Refused) as error:
            log.warning("partition %d is set back with the rollback's own rows: %s", state.partition, error)
            return None

    def _written(self, state: PartitionState, since: Waypoint, cut: Offset, taken: Rollback) -> dict[str, Written]:
        """What the log wrote to the tables that go back, from a waypoint up to the cut."""
        follower, folds = self.follower, dict[str, Fold]()
        live = replay_live(
            self.log, follower.schema, follower.history, state.partition, since.offset, since.timeline, cut, follower.skips
        )
        for entry in effective(live, since.readers, since.timeline):
            record = entry.record
            if record.kind == RecordKind.ROWS and record.table in taken.undo and taken.covers(record.table):
                fold = folds.setdefault(record.table, Fold(follower.tables[record.table].width))
                fold.add(record.put_keys, record.rows, record.tombstones)
                state.counters.replayed += len(record.keys)
        return {name: fold.written() for name, fold in folds.items()}


def _rows_at(
    table: Table, state: PartitionState, remembered: Remembered, name: str, keys: Keys, *, covered: bool
) -> tuple[Rows, NDArray[np.bool_]] | None:
    """uint8[n, width] rows and bool[n] which are there, as far as is remembered; None where that fell out of the budget."""
    if not covered or remembered.waypoint is None:
        return table.encoded(keys)
    try:
        rows, there = table.encoded_at(state.partition, remembered.waypoint.label, keys)
    except VersionGone:
        return None
    if (written := remembered.written.get(name)) is not None:
        for source, data in ((written.keys, written.rows), (written.tombstones, None)):
            at = np.minimum(np.searchsorted(source, keys), max(0, len(source) - 1))
            hit = source[at] == keys if len(source) else np.zeros(len(keys), np.bool_)
            there[hit] = data is not None
            if data is not None:
                rows[hit] = data[at[hit]]
    return rows, there


def _split(keys: Keys, rows: Rows, there: NDArray[np.bool_]) -> tuple[Part, Part]:
    """Rows, and tombstones."""
    if there.all():
        return Part(keys, rows), Part(keys[:0], None)
    return Part(keys[there], rows[there]), Part(keys[~there], None)


def _agreeing(puts: Part, tombstones: Part, stated: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """bool[buckets]: where these rows and tombstones come to what is stated."""
    assert puts.rows is not None
    found = np.zeros_like(stated)
    add_puts(found, puts.keys, puts.rows)
    add_tombstones(found, tombstones.keys)
    return np.equal(found, stated)


def _stretches(mask: NDArray[np.bool_], within: range) -> list[range]:
    """The buckets of a mask, those that follow each other together."""
    edges = np.flatnonzero(np.diff(mask[within.start : within.stop], prepend=False, append=False)) + within.start
    return [range(first, stop) for first, stop in edges.reshape(-1, 2).tolist()]


def _read(run: Run, buckets: range) -> Part:
    return Part(run.keys(buckets), None if run.layout.kind == "tombstones" else run.rows(buckets))
