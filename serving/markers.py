"""What a replica remembers of markers, so that versions that are named after them later can be compared, and older ones served.
Bounded; the adopted version's marker is always among them. Knows no log, no store."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import VersionGone
from penstock.pipeline.core.hashing import buckets_of, put_hashes
from penstock.pipeline.core.ids import Offset, State

from .changes import Part
from .holding import Digests, Holding
from .partition import Marked, Overruled, PartitionState, Waypoint, add_buckets

WAYPOINTS = 16
"""Of a partition at most, but for those at markers."""
WAYPOINT_SHARE = 1 / (2 * WAYPOINTS)
"""How much of a partition's before-images is written from one to the next: together they take half, the rest is for versions."""


def labels_needed(bound: int) -> int:
    """How many labels a table needs a partition: outstanding markers, versions held, the adopted one, waypoints, one more
    between."""
    return 2 * bound + 4 + WAYPOINTS


@dataclass(slots=True)
class Markers:
    """At most `bound` outstanding markers are remembered a partition, and as many older versions."""

    holding: Holding
    bound: int

    def mark(self, state: PartitionState, marker: State) -> None:
        """A marker in the log: the digests here, and those of what was written since every marker remembered."""
        found = {older: self.holding.interval(state.partition, older) for older in state.marked}
        self.holding.mark(state.partition, marker)
        known = {older: digests for older, digests in found.items() if digests is not None}
        state.marked[marker] = self._marked(state, known)
        self._set_waypoint(state, marker, Offset(state.offset + 1))
        while len(state.marked) > 1 + self.bound:
            self._forget(state, list(state.marked)[1])

    def adopt(self, state: PartitionState, marker: State) -> None:
        """The version of a marker that is remembered was adopted: older ones are not outstanding any more."""
        adopted = state.state
        for older in [m for m in state.marked if m.marker < marker.marker]:
            if older == adopted and state.marked[older].is_sure:
                del state.marked[older]
                state.held.append(older)
            else:
                self._forget(state, older)
        for found in state.marked.values():
            found.intervals = {older: digests for older, digests in found.intervals.items() if older in state.marked}

    def stand_at(self, state: PartitionState, marker: State) -> None:
        """The rows are exactly those of this state, and the next record is at `state.offset`: nothing is outstanding."""
        held = [*state.held, *([state.state] if state.marked and state.marked[state.state].is_sure else [])]
        state.held = [older for older in held if older != marker]
        labels, state.marked, state.waypoints = state.labels, {}, [w for w in state.waypoints if w.label in state.held]
        for label in labels:  # the oldest first: what was written since it is not needed for one before it
            if label not in state.held:
                self.holding.forget(state.partition, label)
        self.holding.mark(state.partition, marker)
        state.marked = {marker: self._marked(state, {})}
        self._set_waypoint(state, marker, state.offset)

    def pass_over(self, state: PartitionState, table: str, keys: NDArray[np.int64]) -> None:
        """Rows of the log are not taken, since a later rollback takes them back: up to it no version is exact where they are."""
        count = self.holding.schema.buckets
        add_buckets(state.passed_over, table, buckets_of(keys, count), count)

    def pass_by(self, state: PartitionState) -> None:
        """The next record is at `state.offset`: a waypoint, if enough has been written since the last label."""
        if self.holding.share_written(state.partition) < WAYPOINT_SHARE:
            return
        self._set_waypoint(state, state.offset, state.offset)
        self.holding.mark(state.partition, state.offset)
        between = [waypoint.label for waypoint in state.waypoints if not isinstance(waypoint.label, State)]
        if len(between) > WAYPOINTS:
            self._forget_label(state, between[0])

    def set_out(self, state: PartitionState) -> None:
        """Rows are about to be set back behind the back of all labels: no version can be served exactly until the partition
        stands somewhere else. What is remembered stays."""
        state.held = []
        for marker in state.marked:
            self.doubt_all(state, marker)

    def doubt_older(self, state: PartitionState, marker: State, differing: Mapping[str, NDArray[np.bool_]]) -> None:
        """Rows are about to be corrected behind the back of what is older than a marker: it cannot be served exactly any more."""
        self.disown(state)
        for older, marked in state.marked.items():
            if older.marker < marker.marker:
                for table, mask in differing.items():
                    marked.doubt(table, np.flatnonzero(mask), mask.size)

    def doubt_all(self, state: PartitionState, marker: State) -> None:
        """The rows are not those of this state after all: it cannot be served exactly."""
        buckets = np.arange(self.holding.schema.buckets)
        for table in self.holding.tables:
            state.marked[marker].doubt(table, buckets, buckets.size)

    def correct(self, state: PartitionState, since: State, before: Digests) -> None:
        """Rows were corrected that had not been written since a marker, when the digests were `before`: the digests at it and at
        later ones follow."""
        after = self.holding.digests(state.partition)
        for marker, marked in state.marked.items():
            if marker.marker >= since.marker:
                for name, digests in after.items():
                    marked.digests[name] = marked.digests.get(name, np.zeros_like(digests)) + (digests - before[name])

    def overrule(self, state: PartitionState, marker: State, table: str, part: Part) -> None:
        """Of keys written behind a marker a delta says other rows at it: the digests at the marker follow, and those at later
        ones up to where a key was written, as long as the table knows its own rows there. It goes on keeping those."""
        found, count = self.holding.tables[table], self.holding.schema.buckets
        buckets = buckets_of(part.keys, count)
        for at, marked in [(m, each) for m, each in state.marked.items() if m.marker >= marker.marker]:
            written = found.written_since(state.partition, marker, until=at)
            still = np.ones(len(part.keys), np.bool_) if written is None else ~np.isin(part.keys, written)
            marked.doubt(table, buckets[still], count)
            try:
                rows, there = found.encoded_at(state.partition, at, part.keys[still])
            except VersionGone:
                marked.lose(table, buckets[still], count)
                continue
            keys = part.keys[still]
            said = np.zeros(len(keys), np.uint64) if part.rows is None else put_hashes(keys, part.rows[still])
            before = marked.overruled.setdefault(table, Overruled(keys[:0], said[:0]))
            counted = before.counted(keys, np.where(there, put_hashes(keys, rows), np.uint64(0)))
            np.add.at(marked.digests.setdefault(table, np.zeros(count, np.uint64)), buckets[still], said - counted)
            before.add(keys, said)

    def _marked(self, state: PartitionState, intervals: dict[State, Digests]) -> Marked:
        digests, passed_over = self.holding.digests(state.partition), state.passed_over
        return Marked(digests, intervals, unsure=deepcopy(passed_over), unknown=deepcopy(passed_over))

    def trim(self, state: PartitionState, *, keep: State | None = None) -> None:
        """Of the older versions only the newest within the bound stay servable, and `keep`."""
        while len(older := [held for held in state.held if held != keep]) > self.bound:
            self._drop(state, older[0])

    def disown(self, state: PartitionState, *, keep: State | None = None) -> None:
        """No older version can be served any more, but for `keep`."""
        for older in [held for held in state.held if held != keep]:
            self._drop(state, older)

    def _drop(self, state: PartitionState, older: State) -> None:
        state.held.remove(older)
        self._forget_label(state, older)

    def _forget(self, state: PartitionState, marker: State) -> None:
        """A version whose marker is forgotten is loaded anew when its turn comes."""
        del state.marked[marker]
        for found in state.marked.values():
            found.intervals.pop(marker, None)
        self._forget_label(state, marker)

    def _forget_label(self, state: PartitionState, label: Hashable) -> None:
        state.waypoints = [waypoint for waypoint in state.waypoints if waypoint.label != label]
        self.holding.forget(state.partition, label)

    def _set_waypoint(self, state: PartitionState, label: Hashable, offset: Offset) -> None:
        kept = [waypoint for waypoint in state.waypoints if waypoint.label != label]
        found = Waypoint(label, offset, state.timeline, dict(state.readers), state.counters.rows)
        state.waypoints = [*kept, found]
