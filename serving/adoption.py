"""Takes a replica through the versions, partition by partition, in commit order, while it serves on.

A delta whose marker was seen is compared by its interval digest: where it agrees, the log has brought all of it, and the
state is adopted without moving a byte. Where it does not, the rows of those buckets are taken, but for keys written since.
A rollback jumps to its fence and applies the undo. What was forgotten, or disagrees after all, is loaded anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import ChainBroken, NotFound, Refused
from penstock.pipeline.core.hashing import buckets_of
from penstock.pipeline.core.ids import Offset, Partition, Position, State, Version
from penstock.pipeline.core.manifest import Manifest, TableChange
from penstock.pipeline.core.records import NO_KEYS
from penstock.pipeline.core.schema_change import is_read
from penstock.pipeline.ports.log import UpdateLog
from penstock.pipeline.ports.store import ObjectStore

from .chains import load_part
from .changes import Part, parts
from .follower import Follower
from .generations import Generations
from .holding import Digests
from .partition import PartitionState
from .table import Keys, Table
from .undoing import Undoing

log = logging.getLogger(__name__)
Mask = NDArray[np.bool_]

TELLING = ("touched", "log")
"""The sources of versions that name every key that was touched, in the tables that are read."""
CLOSE_RECORDS = 100_000
"""A replica that is not further than this behind a delta's marker waits for the log to bring it there."""


@dataclass(slots=True)
class Adoption:
    """Reads what it needs from `store`, and of the log what a rollback needs. `shown`: the state that readers of a ref that
    follows versions see; it stays servable."""

    store: ObjectStore
    log: UpdateLog
    follower: Follower
    generations: Generations = field(default_factory=Generations)
    shown: State | None = None

    @property
    def undoing(self) -> Undoing:
        return Undoing(self.store, self.log, self.follower)

    def adopt_next(self, partition: Partition) -> bool:
        """Adopts the partition's next version, if its time has come; False when there is nothing to do now. What is broken in
        the store stops this partition, until the refs move."""
        state = self.follower.partitions[partition]
        if state.disagrees:
            return self._mend(state)
        version = self.follower.next_version(state)
        if version is None or self.follower.known.frozen is not None or state.failed == self.follower.refs.generation:
            return False
        if self._must_wait(partition, version):
            return False
        try:
            adopted = self._adopt(state, version)
        except (Refused, NotFound) as error:
            log.warning("partition %d cannot take version %d: %s", partition, version.version, error)
            return self.load_newest(state)
        if adopted and state.failed >= 0:
            state.failed = -1
            state.go_on()  # what is wrong with the log, if anything is, will be found again
        return adopted

    def _must_wait(self, partition: Partition, version: Manifest) -> bool:
        """Whether the version empties what is read until other partitions have come to the one before. A rollback waits for
        nobody; readers of a ref that follows versions are shown one state."""
        is_delta = self.follower.follows_log and version.rollback is None
        return is_delta and self.generations.must_wait(partition, version, self.follower.history)

    def load_newest(self, state: PartitionState) -> bool:
        """Loads the ref's version; when that cannot be either, the partition stops."""
        number = self.follower.known.version
        try:
            self.load(state, number)
        except (Refused, NotFound) as error:
            self.give_up(state, f"version {number} cannot be loaded: {error}")
        return not state.alarm

    def _mend(self, state: PartitionState) -> bool:
        """Loads the version that the partition stands at, or the newest; False where that has been tried, until the refs move."""
        if state.failed == self.follower.refs.generation:
            return False
        try:
            self.load(state, state.version)
        except (Refused, NotFound) as error:
            log.warning("partition %d cannot be made version %d again: %s", state.partition, state.version, error)
            return self.load_newest(state)
        return True

    def give_up(self, state: PartitionState, reason: str) -> None:
        """The partition stops, until the refs move and there is something else to try."""
        state.failed = self.follower.refs.generation
        self.follower.refuse(state.partition, f"partition {state.partition}: {reason}")
        log.error("stopped: %s", state.alarm)

    def _adopt(self, state: PartitionState, version: Manifest) -> bool:
        taken = version.rollback
        position = version.positions.partitions[state.partition].offset
        if taken is not None:
            position = (taken.cut if taken.tables is None else taken.fence)[state.partition]
        if not self._continues(state, version):
            self.load(state, self.follower.known.version)
        elif not self.follower.follows_log:
            self._jump(state, version)
        elif state.offset < position:
            if self._is_close(state, position):
                return False
            self._jump(state, version)
        elif taken is not None:
            self._roll_back(state, version)
        elif version.state in state.marked:
            self._compare(state, version)
        else:
            self.load(state, self.follower.known.version)
        return True

    def _continues(self, state: PartitionState, version: Manifest) -> bool:
        """Whether the version is a difference to what the partition has. If not, a link of the chain is not retained any more, or
        the ref went back."""
        if version.rollback is not None and version.version > state.version:
            return any(m.version == state.version for m in self.follower.history.trunk)
        return version.base == state.version

    def _is_close(self, state: PartitionState, position: Offset) -> bool:
        """A replica that follows closely comes there by itself, and need not read the difference; unless it stands still, or the
        log has lost what it would have to read."""
        end = self.follower.ends.get(state.partition, position)
        stands = bool(state.alarm) or state.gap is not None or state.paused
        return not stands and position - state.offset <= CLOSE_RECORDS and position <= end

    def load(self, state: PartitionState, number: Version) -> None:
        """The partition becomes what version `number` says, from the chain; what the log brought since is read again."""
        version = self.follower.history.version(number)
        self.generations.leave(state.partition, version, self.follower.history)
        state.applying = version.positions.partitions[state.partition].offset
        rows, nbytes = load_part(self.store, self.follower.holding, self.follower.history, version, state.partition)
        state.counters.reloaded += 1
        state.counters.loaded_rows += rows
        state.counters.loaded_bytes += nbytes
        state.passed_over = {}
        log.warning("partition %d was loaded anew from version %d", state.partition, number)
        self.stand_at(state, version, version.positions.partitions[state.partition])

    def stand_at(self, state: PartitionState, version: Manifest, position: Position) -> None:
        """The partition stands exactly at a version; `ChainBroken` when its digests are others than the version states."""
        if state.alarm:
            log.warning("partition %d goes on at version %d: %s", state.partition, version.version, state.alarm)
        state.version, state.timeline, state.trained_through = version.version, version.timeline, version.trained_through
        state.offset, state.readers = position.offset, dict(position.readers)
        if all(rollback.timeline <= version.timeline for rollback in self.follower.history.rollbacks()):
            state.passed_over = {}
        self.follower.markers.stand_at(state, version.state)
        state.gap, state.excused, state.taken_at, state.paused, state.failed = None, {}, {}, False, -1
        state.applying = None
        state.go_on()
        self._trim(state, is_back=version.rollback is not None)
        state.disagrees = not self._agrees(state, version)
        if state.disagrees:
            self.follower.markers.doubt_all(state, version.state)
            raise ChainBroken(
                f"version {version.version}: its chain does not have the digests that it states, in partition {state.partition}"
            )
        self.generations.stand(state.partition, version, self.follower.history)

    # ---- differences ---------------------------------------------------------------------------------------------------

    def _jump(self, state: PartitionState, version: Manifest) -> None:
        """Takes the difference whole, and goes on behind its marker, or fence."""
        self.generations.leave(state.partition, version, self.follower.history)
        self._write(state, version.changes)
        if version.rollback is not None:
            # Of dead versions, which the difference to the base says nothing of.
            self._write(state, version.rollback.undo)
        state.counters.jumped += 1
        self._settle(state, version, version.positions.partitions[state.partition])

    def _roll_back(self, state: PartitionState, version: Manifest) -> None:
        self.generations.leave(state.partition, version, self.follower.history)
        remembers = self.shown is not None
        if not remembers:
            self.follower.markers.set_out(state)

        def write(table: Table, part: Part) -> None:
            (table.apply if remembers else table.correct)(state.partition, *part.split(table.width))
            _count(state, part)

        self.undoing.undo(state, version, write)
        position = version.positions.partitions[state.partition]
        self._settle(state, version, Position(Offset(max(state.offset, position.offset)), {}))

    def _settle(self, state: PartitionState, version: Manifest, position: Position) -> None:
        try:
            self.stand_at(state, version, position)
        except ChainBroken:
            state.counters.disagreed += 1
            self.load(state, version.version)

    def _compare(self, state: PartitionState, version: Manifest) -> None:
        self.generations.leave(state.partition, version, self.follower.history)
        interval = state.marked[version.state].intervals.get(state.state)
        for name, digests in ({} if interval is None else interval).items():
            if name not in version.changes and digests.any() and self._tells(version, name):
                raise self._lost(version, f"rows of table {name}")
        differing = {
            name: mask
            for name, change in version.changes.items()
            if (mask := self._differing(state.partition, name, change, interval)).any()
        }
        if differing:
            self._correct(state, version, differing)
            state.counters.adopted_taken += 1
        else:
            state.counters.adopted_free += 1
        if not self._agrees(state, version):
            # It is not adopted before it is loaded: nobody who asks for exactly this version gets what it is not.
            state.counters.disagreed += 1
            self.load(state, version.version)
            return
        state.version = version.version
        self.follower.markers.adopt(state, version.state)
        self._trim(state, is_back=False)
        self.generations.stand(state.partition, version, self.follower.history)

    def _differing(self, partition: Partition, table: str, change: TableChange, interval: Digests | None) -> Mask:
        """bool[buckets]: where the delta says something else than the log did."""
        held = self.follower.holding.part(partition)
        mask = np.zeros(self.follower.schema.buckets, np.bool_)
        mask[held.start : held.stop] = True
        if interval is None:
            return mask
        stated = change.interval.array(mask.size)
        mask &= stated != interval.get(table, np.zeros_like(stated))
        return mask

    def _correct(self, state: PartitionState, version: Manifest, differing: Mapping[str, Mask]) -> None:
        """Takes the delta's rows in the buckets that differ, but for keys written since the marker."""
        markers, before = self.follower.markers, self.follower.holding.digests(state.partition)
        markers.doubt_older(state, version.state, differing)
        try:
            overruled = [(name, part) for name, mask in differing.items() for part in self._take(state, version, name, mask)]
        finally:  # what was taken has been taken, even if the rest could not be read
            markers.correct(state, version.state, before)
        # Not before all has been read: who tries again would count them twice.
        for name, part in overruled:
            markers.overrule(state, version.state, name, part)

    def _take(self, state: PartitionState, version: Manifest, name: str, differs: Mask) -> list[Part]:
        """Returns what it did not take, of keys written since the marker."""
        table, overruled = self.follower.tables[name], list[Part]()
        since = table.written_since(state.partition, version.state)
        if since is None:
            raise ChainBroken(f"partition {state.partition}: what was written since {version.state} is not remembered")
        untold = self._brought(state, version, name)
        for part in self._parts(state.partition, version.changes[name]):
            untold = np.setdiff1d(untold, part.keys, assume_unique=True)
            wanted, kept = differs[buckets_of(part.keys, differs.size)], np.isin(part.keys, since)
            overruled.append(part.where(wanted & kept))
            # As though it had been written before every marker that is remembered.
            taken = part.where(wanted & ~kept)
            table.correct(state.partition, *taken.split(table.width))
            _count(state, taken)
        if len(untold):
            raise self._lost(version, f"key {untold[0]} of table {name}")
        return overruled

    def _tells(self, version: Manifest, name: str) -> bool:
        """Whether the version names every key of a table that was touched."""
        return version.source in TELLING and is_read(version, name, self.follower.schema.table_of(name))

    def _lost(self, version: Manifest, what: str) -> ChainBroken:
        return ChainBroken(
            f"the log has brought {what} before {version.state}, and version {version.version}, which tells all that was "
            "touched, does not: the log has lost what was read here"
        )

    def _brought(self, state: PartitionState, version: Manifest, name: str) -> Keys:
        """int64[n]: what the log has brought to a table between the adopted version and this one, where it says of each such key
        what became of it, and that is known."""
        if not self._tells(version, name):
            return NO_KEYS
        found = self.follower.tables[name].written_since(state.partition, state.state, until=version.state)
        return NO_KEYS if found is None else found

    def _write(self, state: PartitionState, changes: dict[str, TableChange]) -> None:
        for name, change in changes.items():
            table = self.follower.tables[name]
            for part in self._parts(state.partition, change):
                table.apply(state.partition, *part.split(table.width))
                _count(state, part)

    def _parts(self, partition: Partition, change: TableChange) -> Iterator[Part]:
        holding = self.follower.holding
        return parts(self.store, change, holding.part(partition), buckets=holding.schema.buckets)

    # ---- shared --------------------------------------------------------------------------------------------------------

    def _trim(self, state: PartitionState, *, is_back: bool) -> None:
        """Older versions stay servable within the bound, but for what a rollback took back."""
        (self.follower.markers.disown if is_back else self.follower.markers.trim)(state, keep=self.shown)

    def _agrees(self, state: PartitionState, version: Manifest) -> bool:
        """The digests at the marker against those that are stated of the state, where they are."""
        buckets = self.follower.schema.buckets
        stated = self.follower.history.stated_digests(version, buckets)
        if stated is None:
            return True
        held, marked = self.follower.holding.part(state.partition), state.marked[version.state]
        at, nothing = slice(held.start, held.stop), np.zeros(buckets, np.uint64)
        for name in stated.keys() | marked.digests.keys():
            differs = marked.digests.get(name, nothing) != stated.get(name, nothing)
            if (unknown := marked.unknown.get(name)) is not None:
                # A version made by comparing does not name what the log has brought beside it: only the digest would show that.
                sure = version.rollback is not None or self._tells(version, name)
                differs = differs & ~unknown if sure else differs | unknown
            if differs[at].any():
                return False
        return True


def _count(state: PartitionState, part: Part) -> None:
    state.counters.delta_rows += len(part.keys)
    state.counters.delta_bytes += part.keys.nbytes + (0 if part.rows is None else part.rows.nbytes)
