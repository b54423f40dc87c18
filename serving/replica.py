"""A replica: holds the tables, follows the log and the versions, answers lookups, reports what it has.

One thread steps it (`run`); lookups run in their callers' threads and take no lock. Everything that decides is in `Follower`
and `Adoption`; here is the I/O and the clock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.catalog import leases
from penstock.pipeline.catalog.replay import record_name
from penstock.pipeline.config import microseconds
from penstock.pipeline.core.coordination import PartitionPresence, Presence
from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.errors import NotFound, PenstockError, PositionGone, Refused, Unreachable, VersionGone
from penstock.pipeline.core.hashing import digest_text
from penstock.pipeline.core.history import Entry
from penstock.pipeline.core.ids import Offset, Partition, State, Timeline, Version
from penstock.pipeline.core.manifest import DenseInfo, Manifest
from penstock.pipeline.core.records import decode_record
from penstock.pipeline.core.times import WallTime
from penstock.pipeline.environment import Environment
from penstock.pipeline.ports.log import LogEntry
from penstock.slicer.dense import read_dense

from .adoption import dense_of
from .bootstrap import bootstrap, new_table, refs_for
from .follower import UnknownTable
from .partition import Digests, PartitionState

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """`rows` float32[n, dim], `found` bool[n]; the version and timeline that the rows belong to."""

    rows: NDArray[np.float32]
    found: NDArray[np.bool_]
    version: Version
    timeline: Timeline


@dataclass(frozen=True, slots=True)
class Dense:
    """The dense slice that is served: tensors by name."""

    info: DenseInfo
    tensors: Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The last version that every partition has adopted, with the digests at its marker or fence."""

    manifest: Manifest
    digests: Digests

    @property
    def digest(self) -> str:
        dense = () if self.manifest.dense is None else (self.manifest.dense.digest,)
        return digest_text(self.digests, dense)


class Replica:
    """Bootstraps when it is made. `buckets`: those held, by default all. `address` is what the presence record tells clients.
    With `at` it serves that version for ever, and follows nothing."""

    def __init__(
        self,
        env: Environment,
        *,
        name: str,
        ref: str = "live",
        buckets: range | None = None,
        address: str = "",
        at: Version | None = None,
    ) -> None:
        self.env, self.name, self.ref, self.address, self._at = env, name, ref, address, at
        self.buckets = buckets if buckets is not None else range(env.schema.buckets)
        if not 0 <= self.buckets.start < self.buckets.stop <= env.schema.buckets:
            raise Refused(f"buckets {self.buckets.start}-{self.buckets.stop - 1}: the model has {env.schema.buckets}")
        self.follower, self.adoption = bootstrap(env, ref=ref, buckets=self.buckets, name=name, at=at)
        self.dense: Dense | None = None
        self.confirmed: Confirmed | None = None
        self._reports: dict[Version, dict[Partition, Digests]] = {}
        self._pinned: dict[Partition, State] | None = None
        self._refreshed_at = self._heard_at = WallTime(env.clock())
        self._reported_at = WallTime(0)
        self._ends: dict[Partition, Offset] = {}
        self._latency_ms: dict[Partition, float] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.failure: PenstockError | None = None
        for state in self.follower.partitions.values():
            self._record(state)
        self._settle()

    # ---- lookups -------------------------------------------------------------------------------------------------------

    def lookup(self, table: str, keys: NDArray[np.int64], *, version: Version | None = None) -> Answer:
        """Rows of `keys` (int64[n]): as new as they are, or exactly as they were at `version` while it is held.

        `NotFound` for a table that does not exist, `VersionGone` for a version not held, `Refused` for an unknown key where the
        table says so."""
        found = self.follower.tables.get(table)
        if found is None:
            self.env.schema.table(table)
            raise NotFound(f"table {table} is not loaded yet")
        if len(keys) > self.env.config.replica.max_request_keys:
            raise Refused(f"{len(keys)} keys in one lookup, at most {self.env.config.replica.max_request_keys}")
        labels, answered = (self._labels(version), version) if version is not None else (self._pinned, self.version)
        if labels is None:
            rows, there = found.lookup(keys)
        else:
            rows, there = found.lookup_at(labels, keys)
        self._fill(table, keys, rows, there)
        return Answer(rows, there, answered, self.timeline if version is None else self._manifest(version).timeline)

    @property
    def version(self) -> Version:
        """The newest version that every partition has adopted."""
        return min(state.version for state in self.follower.partitions.values())

    @property
    def timeline(self) -> Timeline:
        return min(state.timeline for state in self.follower.partitions.values())

    def _manifest(self, version: Version) -> Manifest:
        try:
            return self.follower.history.version(version)
        except NotFound as error:
            raise VersionGone(str(error)) from None

    def _labels(self, version: Version) -> dict[Partition, State]:
        state = self._manifest(version).state
        for partition in self.follower.partitions.values():
            if partition.version < version:
                raise VersionGone(
                    f"version {version} is not adopted yet: partition {partition.partition} is at {partition.version}"
                )
            if state not in partition.marked and state not in partition.held:
                raise VersionGone(f"version {version} is not held any more in partition {partition.partition}")
        return dict.fromkeys(self.follower.partitions, state)

    def _fill(self, table: str, keys: NDArray[np.int64], rows: NDArray[np.float32], found: NDArray[np.bool_]) -> None:
        absent = self.env.schema.table(table).absent
        if absent == "zeros" or found.all():
            return
        if absent == "refuse":
            raise Refused(f"table {table} has no key {int(keys[~found][0])} ({int((~found).sum())} of {len(keys)} are unknown)")
        rows[~found] = np.asarray(absent, np.float32)

    # ---- stepping ------------------------------------------------------------------------------------------------------

    def step(self, timeout_s: float) -> int:
        """One round: the refs if they are due, what the log has, what can be adopted, a report if it is due. Returns rows applied."""
        now = self.env.clock()
        if now - self._refreshed_at >= microseconds(self.env.config.replica.refresh):
            self.refresh()
        rows = self._poll(timeout_s)
        self._adopt()
        self._settle()
        if now - self._reported_at >= microseconds(self.env.config.replica.lease) // 3:
            self.report()
        return rows

    def refresh(self) -> None:
        """Reads the refs, and the versions where they have moved."""
        refs = refs_for(self.env, self._at)
        self._refreshed_at = self.env.clock()
        if refs.generation != self.follower.refs.generation:
            self.follower.learn(refs, self.env.catalog.history(refs))

    def _poll(self, timeout_s: float) -> int:
        states = self.follower.partitions
        wanted = {p: state.reads_from for p, state in states.items() if self.follower.may_poll(state)}
        if not wanted:
            self._stop.wait(timeout_s)
            return 0
        try:
            found = self.env.log.poll(wanted, timeout_s=timeout_s)
        except PositionGone as error:
            self._bootstrap_again(wanted, error)
            return 0
        return sum(self._step(partition, entries) for partition, entries in found.items() if entries)

    def _step(self, partition: Partition, entries: Sequence[LogEntry]) -> int:
        decoded, broken, model_id = [], "", self.follower.schema.raw_id
        for offset, appended_at, payload in entries:
            name = record_name(self.env.log, partition, offset)
            try:
                decoded.append(
                    Entry(offset, decode_record(payload, model_id=model_id, partition=partition, name=name), appended_at)
                )
            except Refused as error:
                broken = str(error)
                break
        rows = self._step_decoded(partition, decoded)
        state = self.follower.partitions[partition]
        if broken and state.reads_from == entries[len(decoded)].offset:
            log.error("partition %d stops: %s", partition, broken)
            self.follower.refuse(partition, broken)
        self._heard_at = self.env.clock()
        if decoded:
            self._latency_ms[partition] = max(0.0, (self._heard_at - decoded[-1].record.written_at) / 1000)
        return rows

    def _step_decoded(self, partition: Partition, decoded: Sequence[Entry]) -> int:
        try:
            return self.follower.step(partition, decoded)
        except UnknownTable as error:
            if not self._new_tables():
                self.follower.refuse(partition, str(error))
            return 0  # what is left unread is polled again

    def _new_tables(self) -> bool:
        """Tables that were born since; whether there are any."""
        schema = self.env.catalog.reload_schema()
        new = {name: table for name, table in schema.tables.items() if name not in self.follower.tables}
        for name, found in new.items():
            table = new_table(schema, found, self.buckets, self.env.config.replica.before_image_bytes // len(schema.tables))
            for partition, state in self.follower.partitions.items():
                for marker in (*state.held, *state.marked):
                    table.mark(partition, marker)
            self.follower.tables = {**self.follower.tables, name: table}
        self.follower.schema = schema
        return bool(new)

    def _adopt(self) -> None:
        if any(name not in self.follower.tables for name in self._tables_to_come()):
            self._new_tables()
        self._pin_if_needed()
        for partition, state in self.follower.partitions.items():
            while self.adoption.adopt_next(partition):
                self._record(state)
        if len({state.version for state in self.follower.partitions.values()}) == 1:
            self._pinned = None

    def _tables_to_come(self) -> set[str]:
        after = self.follower.history.after(self.version)
        return {name for manifest in after for name in manifest.changes}

    def _pin_if_needed(self) -> None:
        """A ref that follows versions shows exactly one: the old one until every partition has the new one."""
        states = self.follower.partitions
        if self.follower.known.follow == "versions" and self._pinned is None:
            behind = [s for s in states.values() if self.follower.next_version(s) is not None]
            if behind and self.follower.known.frozen is None:
                self._pinned = {p: self.follower.history.version(s.version).state for p, s in states.items()}

    def _bootstrap_again(self, wanted: Mapping[Partition, Offset], error: PositionGone) -> None:
        """The log does not have a partition's position any more: load it anew from the chain, and say so."""
        for partition, offset in wanted.items():
            begin, end = self.env.log.begin(partition), self.env.log.end(partition)
            if begin <= offset <= end:
                continue
            state = self.follower.partitions[partition]
            version = self.follower.history.version(self.follower.known.version)
            start = version.positions.partitions[partition].offset
            if not begin <= start <= end:
                state.alarm = f"{error}; version {version.version} stands at {start}, the log holds {begin} to {end}"
                log.error("partition %d stops: %s", partition, state.alarm)
                continue
            log.warning("partition %d is loaded anew from version %d: %s", partition, version.version, error)
            self.adoption.load(state, version.version)
            self._record(state)

    # ---- what it has ---------------------------------------------------------------------------------------------------

    def _record(self, state: PartitionState) -> None:
        """Keeps the digests of the version that a partition has just adopted, until all have."""
        reached = self.follower.history.version(state.version)
        marked = state.marked[reached.state]
        found = self._reports.setdefault(state.version, {})
        found[state.partition] = {name: digests.copy() for name, digests in marked.digests.items()}
        if len(found) == len(self.follower.partitions):
            digests: Digests = {}
            for part in found.values():
                for name, some in part.items():
                    digests[name] = digests[name] + some if name in digests else some
            self.confirmed = Confirmed(reached, digests)
            self._reports = {version: parts for version, parts in self._reports.items() if version > state.version}
            self._reported_at = WallTime(0)  # worth telling at once

    def _settle(self) -> None:
        """Switches the dense slice, in one step, once every partition has come to where it counts."""
        states = list(self.follower.partitions.values())
        if len({state.version for state in states}) != 1:
            return
        info = dense_of(self.follower.history.version(states[0].version), self.follower.dense)
        if info is not None and (self.dense is None or self.dense.info != info):
            self.dense = Dense(info, read_dense(self.env.catalog.store, info))

    def report(self) -> Presence:
        """Writes the presence record: what it has, leased."""
        now = self.env.clock()
        self._ends = {p: self.env.log.end(p) for p in self.follower.partitions}
        presence = self.presence(now)
        leases.report_presence(self.env.catalog, presence)
        self._reported_at = now
        return presence

    def presence(self, now: WallTime) -> Presence:
        confirmed = self.confirmed
        assert confirmed is not None
        tables = self.follower.tables
        return Presence(
            id=self.env.catalog.new_id(), replica=self.name, address=self.address, ref=self.ref,
            buckets=(self.buckets.start, self.buckets.stop), version=confirmed.manifest.version, state=confirmed.manifest.state,
            digest=confirmed.digest, digests={name: DigestVector.of(digests) for name, digests in confirmed.digests.items()},
            rows={name: table.row_count for name, table in tables.items()}, bytes=sum(table.nbytes for table in tables.values()),
            partitions=tuple(self._partition(state, now) for state in self.follower.partitions.values()), ready=self.ready(now),
            at=now, until=WallTime(now + microseconds(self.env.config.replica.lease)),
        )  # fmt: skip

    def _partition(self, state: PartitionState, now: WallTime) -> PartitionPresence:
        end = max(self._ends.get(state.partition, state.offset), state.offset)
        lag_ms = self._latency_ms.get(state.partition) if end == state.offset else max(0.0, (now - state.heard_at) / 1000)
        counters = state.counters
        return PartitionPresence(
            partition=state.partition, offset=state.offset, end=end, version=state.version, timeline=state.timeline, lag_ms=lag_ms,
            trained_through=state.trained_through, gaps=counters.gaps, dropped=counters.dropped, reloaded=counters.reloaded,
            alarm=state.alarm,
        )  # fmt: skip

    def ready(self, now: WallTime) -> bool:
        """Whether it should be asked: no partition stands still for good, and the log was heard of lately."""
        silent = self.follower.known.follow == "log" and now - self._heard_at > microseconds(self.env.config.replica.max_silence)
        return not silent and self.failure is None and not any(s.alarm for s in self.follower.partitions.values())

    # ---- the thread ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Steps in a thread of its own until `close`."""
        self._thread = threading.Thread(target=self.run, name=f"replica {self.name}", daemon=True)
        self._thread.start()

    def run(self) -> None:
        """Steps until `close`; a dependency that does not answer is waited for, anything else that fails is kept as `failure`."""
        waits = 0
        while not self._stop.is_set():
            try:
                self.step(0.05)
                waits = 0
            except Unreachable as error:
                waits = min(waits + 1, 6)
                log.warning("replica %s waits: %s", self.name, error)
                self._stop.wait(0.05 * 2**waits)
            except PenstockError as error:
                log.exception("replica %s stops following", self.name)
                self.failure = error
                return

    def close(self) -> None:
        """Stops the thread and takes the presence record away."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        leases.remove_presence(self.env.catalog, self.name)
