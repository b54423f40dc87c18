"""Takes a replica through the versions, partition by partition, in commit order, while it serves on.

A delta whose marker was seen is compared by its interval digest: where it agrees, the log has brought all of it, and the
state is adopted without moving a byte. Where it does not, the rows of those buckets are taken, but for keys written since.
A rollback jumps to its fence and applies the undo. What was forgotten, or disagrees after all, is loaded anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.dense import DenseFold
from penstock.pipeline.core.errors import ChainBroken
from penstock.pipeline.core.history import table_layers
from penstock.pipeline.core.hashing import bucket_range, buckets_of
from penstock.pipeline.core.ids import Offset, Partition, State, Version
from penstock.pipeline.core.manifest import DenseInfo, Manifest, TableChange
from penstock.pipeline.ports.store import ObjectStore
from penstock.slicer.layers import Layers
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.runs import Run

from .follower import Follower
from .partition import Digests, Marked, PartitionState

Mask = NDArray[np.bool_]


class Part(NamedTuple):
    """The part of one run that lies in some buckets."""

    keys: NDArray[np.int64]
    rows: NDArray[np.uint8] | None
    """None: tombstones."""


@dataclass(slots=True)
class Adoption:
    """Reads what it needs from `store`."""

    store: ObjectStore
    follower: Follower

    def adopt_next(self, partition: Partition) -> bool:
        """Adopts the partition's next version, if its time has come; False when there is nothing to do now."""
        state = self.follower.partitions[partition]
        version = self.follower.next_version(state)
        if version is None or self.follower.known.frozen is not None:
            return False
        position = version.positions.partitions[partition]
        if version.rollback is not None:
            taken = version.rollback
            from_here = taken.cut[partition] if taken.tables is None else taken.fence[partition]
            if self.follower.known.follow == "log" and state.offset < from_here:
                return False
            self._roll_back(state, version)
        elif self.follower.known.follow == "versions" or state.offset < position.offset:
            if self.follower.known.follow == "log" and self._is_close(state, position.offset):
                return False
            self._jump(state, version)
        elif version.state in state.marked:
            self._compare(state, version)
        else:
            self.load(state, version.version)
        return True

    def load(self, state: PartitionState, number: Version) -> None:
        """The partition becomes what version `number` says, from the chain; what the log brought since is read again."""
        version = self.follower.history.version(number)
        chain = self.follower.history.chain(number)
        held = self._held(state.partition)
        for name, table in self.follower.tables.items():
            layout = TableLayout.of(self.follower.schema, name)
            with Layers.open(self.store, layout, table_layers(chain, name)) as layers:
                found = [(np.array(some), np.array(data)) for some, data in layers.merged(held)]
            width = self.follower.schema.table(name).width
            table.replace_buckets(
                held,
                np.concatenate([np.empty(0, np.int64), *(keys for keys, _ in found)]),
                np.concatenate([np.empty((0, width), np.uint8), *(rows for _, rows in found)]),
            )
        state.counters.reloaded += 1
        position = version.positions.partitions[state.partition]
        self.stand_at(state, version, position.offset)
        state.readers = dict(position.readers)
        self.check_loaded(state, version)

    # ---- deltas --------------------------------------------------------------------------------------------------------

    def _is_close(self, state: PartitionState, marker_at: Offset) -> bool:
        """A replica that follows closely reaches the marker itself, and need not read the delta: it is not paused or held."""
        return not state.alarm and state.gap is None and marker_at - state.offset <= CLOSE_RECORDS

    def _jump(self, state: PartitionState, version: Manifest) -> None:
        """Takes the delta whole, and goes on behind its marker."""
        for name, change in version.changes.items():
            for part in self._parts(change, self._held(state.partition)):
                self._apply(state.partition, name, part)
        position = version.positions.partitions[state.partition]
        state.counters.jumped += 1
        self.stand_at(state, version, max(position.offset, state.offset) if version.rollback else position.offset)
        state.readers = dict(position.readers)

    def _compare(self, state: PartitionState, version: Manifest) -> None:
        marked = state.marked[version.state]
        base = self.follower.history.version(version.base) if version.base is not None else None
        interval = None if base is None else marked.intervals.get(base.state)
        before = self.follower.digests_of(state.partition)
        taken = False
        for name, change in version.changes.items():
            differs = self._differing(state.partition, name, change, interval)
            if differs.any():
                taken = True
                self._take(state, version, name, change, differs)
        if taken:
            self._exchange(state, version.state, before)
            state.counters.adopted_taken += 1
        else:
            state.counters.adopted_free += 1
        state.version = version.version
        for marker in list(state.marked):
            if marker.marker < version.state.marker:
                state.marked.pop(marker)
                self.follower.hold(state, marker, servable=not taken)
        for found in state.marked.values():
            found.intervals = {older: d for older, d in found.intervals.items() if older in state.marked}
        self._check(state, version)

    def _differing(self, partition: Partition, table: str, change: TableChange, interval: Digests | None) -> Mask:
        """bool[buckets]: where the delta says something else than the log did."""
        held = self._held(partition)
        mask = np.zeros(self.follower.schema.buckets, np.bool_)
        mask[held.start : held.stop] = True
        if interval is None:
            return mask
        own = interval.get(table)
        stated = change.interval.array(self.follower.schema.buckets)
        differs: Mask = (stated != own) if own is not None else (stated != 0)
        return mask & differs

    def _take(self, state: PartitionState, version: Manifest, name: str, change: TableChange, differs: Mask) -> None:
        """The delta's rows in the buckets that differ, but for keys written since the marker."""
        table = self.follower.tables[name]
        since = table.written_since(state.partition, version.state)
        unsure = state.marked[version.state].unsure.setdefault(name, np.zeros(len(differs), np.bool_))
        for part in self._parts(change, self._held(state.partition)):
            buckets = buckets_of(part.keys, len(differs))
            wanted = differs[buckets]
            if since is not None:
                kept = np.isin(part.keys, since)
                unsure[buckets[wanted & kept]] = True
                wanted &= ~kept
            self._correct(state.partition, name, Part(part.keys[wanted], None if part.rows is None else part.rows[wanted]))

    def _exchange(self, state: PartitionState, since: State, before: Digests) -> None:
        """What was taken counts as though it had been there at the marker: the digests at it and at later ones follow."""
        after = self.follower.digests_of(state.partition)
        for marker, marked in state.marked.items():
            if marker.marker >= since.marker:
                for name, digests in marked.digests.items():
                    digests += after[name] - before[name]

    # ---- rollbacks -----------------------------------------------------------------------------------------------------

    def _roll_back(self, state: PartitionState, version: Manifest) -> None:
        assert version.rollback is not None
        for name, change in version.rollback.undo.items():
            for part in self._parts(change, self._held(state.partition)):
                self._apply(state.partition, name, part)
        position = version.positions.partitions[state.partition]
        self.stand_at(state, version, Offset(max(state.offset, position.offset)))
        state.readers = {}
        state.timeline = version.timeline
        self._check(state, version)

    # ---- shared --------------------------------------------------------------------------------------------------------

    def stand_at(self, state: PartitionState, version: Manifest, offset: Offset) -> None:
        """The partition stands exactly at a version: nothing is remembered but that."""
        for marker in [*state.marked, *state.held]:
            self.follower.forget(state, marker)
        for table in self.follower.tables.values():
            table.mark(state.partition, version.state)
        state.version, state.timeline, state.offset = version.version, version.timeline, offset
        state.marked, state.held = {version.state: Marked(self.follower.digests_of(state.partition), {})}, []
        state.trained_through = version.trained_through
        state.gap, state.excused, state.paused = None, {}, False

    def _check(self, state: PartitionState, version: Manifest) -> None:
        """The digests at the marker against those that the version states; what disagrees is loaded anew, and counted."""
        if not self._agrees(state, version):
            state.counters.disagreed += 1
            self.load(state, version.version)

    def check_loaded(self, state: PartitionState, version: Manifest) -> None:
        if not self._agrees(state, version):
            raise ChainBroken(
                f"version {version.version}: its chain does not have the digests that it states, in partition {state.partition}"
            )

    def _agrees(self, state: PartitionState, version: Manifest) -> bool:
        stated = version.state_digests(self.follower.schema.buckets)
        if stated is None and version.state in self.follower.history.bases:
            stated = self.follower.history.bases[version.state].state_digests(self.follower.schema.buckets)
        if stated is None:
            return True
        held, marked = self._held(state.partition), state.marked[version.state]
        for name, digests in stated.items():
            own = marked.digests.get(name)
            sure = np.ones(len(digests), np.bool_) if name not in marked.unsure else ~marked.unsure[name]
            mine = np.zeros_like(digests) if own is None else own
            at = slice(held.start, held.stop)
            if ((mine[at] != digests[at]) & sure[at]).any():
                return False
        return True

    def _held(self, partition: Partition) -> range:
        schema, held = self.follower.schema, self.follower.buckets
        own = bucket_range(partition, bucket_count=schema.buckets, partition_count=schema.partitions)
        return range(max(own.start, held.start), max(min(own.stop, held.stop), max(own.start, held.start)))

    def _parts(self, change: TableChange, buckets: range) -> Iterator[Part]:
        for info in change.runs:
            with Run.open(self.store, info, buckets=self.follower.schema.buckets) as run:
                keys = run.keys(buckets)
                if len(keys):
                    yield Part(np.array(keys), None if info.kind == "tombstones" else np.array(run.rows(buckets)))

    def _apply(self, partition: Partition, name: str, part: Part) -> None:
        self.follower.tables[name].apply(partition, *self._puts_and_tombstones(name, part))

    def _correct(self, partition: Partition, name: str, part: Part) -> None:
        """As `_apply`, but as though it had been written before every marker that is remembered."""
        self.follower.tables[name].correct(partition, *self._puts_and_tombstones(name, part))

    def _puts_and_tombstones(self, name: str, part: Part) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
        nothing = np.empty(0, np.int64)
        if part.rows is None:
            return nothing, np.empty((0, self.follower.schema.table(name).width), np.uint8), part.keys
        return part.keys, part.rows, nothing


CLOSE_RECORDS = 100_000
"""A replica that is not further than this behind a delta's marker waits for the log to bring it there."""


def dense_of(version: Manifest, fold: DenseFold) -> DenseInfo | None:
    """The slice to serve at a version that every partition has adopted: one announced behind its marker, else its own."""
    offsets = [position.offset for position in version.positions.partitions]
    return fold.newest(after=offsets) or version.dense
