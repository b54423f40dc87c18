"""What a replica remembers of markers, so that versions that are named after them later can be compared, and older ones served.
Bounded; the adopted version's marker is always among them. Knows no log, no store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import VersionGone
from penstock.pipeline.core.hashing import add_puts, buckets_of
from penstock.pipeline.core.ids import State

from .changes import Part
from .holding import Digests, Holding
from .partition import Marked, PartitionState


def labels_needed(bound: int) -> int:
    """How many labels a table needs a partition: outstanding markers, versions held, the adopted one, one more between."""
    return 2 * bound + 4


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
        state.marked[marker] = Marked(self.holding.digests(state.partition), known)
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
        """The rows are exactly those of this state: nothing is outstanding."""
        held = [*state.held, *([state.state] if state.marked and state.marked[state.state].is_sure else [])]
        for older in state.marked:
            if older not in held:
                self._forget_label(state, older)
        self.holding.mark(state.partition, marker)
        state.held = [older for older in held if older != marker]
        state.marked = {marker: Marked(self.holding.digests(state.partition), {})}

    def doubt_older(self, state: PartitionState, marker: State, differing: Mapping[str, NDArray[np.bool_]]) -> None:
        """Rows are about to be corrected behind the back of what is older than a marker: it cannot be served exactly any more."""
        self.disown(state)
        for older, marked in state.marked.items():
            if older.marker < marker.marker:
                for table, mask in differing.items():
                    marked.doubt(table, np.flatnonzero(mask), mask.size)

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
            digests = marked.digests.setdefault(table, np.zeros(count, np.uint64))
            digests -= self._hashed(part.keys[still][there], rows[there])
            if part.rows is not None:
                digests += self._hashed(part.keys[still], part.rows[still])

    def _hashed(self, keys: NDArray[np.int64], rows: NDArray[np.uint8]) -> NDArray[np.uint64]:
        found = np.zeros(self.holding.schema.buckets, np.uint64)
        add_puts(found, keys, rows)
        return found

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

    def _forget_label(self, state: PartitionState, marker: State) -> None:
        self.holding.forget(state.partition, marker)
