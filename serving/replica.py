"""A replica: holds the tables, follows the log and the versions, answers lookups, reports what it has.

One thread follows the log and adopts versions; another one reads refs and dense slices and reports, so that a slow store keeps
no row waiting. Lookups run in their callers' threads and take no lock. Everything that decides is in `Follower` and `Adoption`;
here is the I/O and the clock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.catalog import leases
from penstock.pipeline.catalog.replay import Unreadable, decoded
from penstock.pipeline.catalog.skipping import read_skips
from penstock.pipeline.config import microseconds
from penstock.pipeline.core.coordination import Presence
from penstock.pipeline.core.errors import Corrupt, PositionGone, Refused, Unreachable
from penstock.pipeline.core.history import Entry, History
from penstock.pipeline.core.ids import Offset, Partition, Timeline, Version, checked_name
from penstock.pipeline.core.manifest import DenseInfo
from penstock.pipeline.core.refs import Refs
from penstock.pipeline.core.schema import ModelSchema
from penstock.pipeline.core.skips import Skips
from penstock.pipeline.core.times import WallTime
from penstock.pipeline.environment import Environment
from penstock.pipeline.ports.log import LogEntry
from penstock.slicer.dense import read_dense

from .answers import Answer
from .bootstrap import bootstrap, refs_for
from .confirming import Confirmed, Confirming
from .follower import UnknownTable
from .lookups import Lookups, Wanted
from .measuring import Measured
from .partition import PartitionState
from .reporting import is_ready, presence_of
from .warming import warm

log = logging.getLogger(__name__)
POLL_S = 0.05
DECISION_S, DECISION_GROWTH = 0.01, 1.3
"""How soon a replica that has come to a fence looks what became of it; then less and less often, as often as at other times."""
LONGEST_PAUSE_S = 3.2
DAMAGED_S = 1.0
"""How long each partition is asked for, when one of them is damaged."""


@dataclass(frozen=True, slots=True)
class Dense:
    """A dense slice that was read: tensors by name. Without `info`: there is none."""

    info: DenseInfo | None
    tensors: Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class News:
    """The catalog as it was last read, and the ends of the log after that."""

    refs: Refs
    history: History
    schema: ModelSchema
    skips: Skips
    ends: Mapping[Partition, Offset]


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
        self.env, self.name, self.address, self._at = env, checked_name(name, "replica"), address, at
        self.ref = ref if at is None else f"@{at}"
        self.buckets = buckets if buckets is not None else range(env.schema.buckets)
        if not 0 <= self.buckets.start < self.buckets.stop <= env.schema.buckets:
            raise Refused(f"buckets {self.buckets.start}-{self.buckets.stop - 1}: the model has {env.schema.buckets}")
        self.follower, self.adoption = bootstrap(env, ref=ref, buckets=self.buckets, name=name, at=at)
        self.looked_at = self.heard_at = WallTime(env.clock())
        self.ends: dict[Partition, Offset] = {}
        self.latency_ms: dict[Partition, float] = {}
        self.at_end_at: dict[Partition, WallTime] = {}
        """When there was last nothing more to read."""
        self.failure: Exception | None = None
        self.trouble = ""
        """What the store could not give, though it was reached; "" if nothing is missing."""
        self.confirmed: Confirmed | None = None
        self._confirming = Confirming(len(self.follower.partitions))
        self._news: News | None = None
        self._look_s = microseconds(env.config.replica.refresh) / 1e6
        self.lookups = Lookups(self.follower, self.adoption.generations, env.config.replica.max_request_keys)
        self._wanted: DenseInfo | None = None
        self._fetched = self._served = Dense(None, {})
        self._reported_at = WallTime(0)
        self._stop, self._wake = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._leaving = False
        for state in self.follower.partitions.values():
            self._record(state)
        self._settle()
        self._fetch()
        self._settle()
        self.measured = Measured(self.follower.tables, self._read_ends())

    # ---- lookups -------------------------------------------------------------------------------------------------------

    def lookup(self, table: str, keys: NDArray[np.int64], *, version: Version | None = None) -> Answer:
        """Rows of `keys` (int64[n]): as new as they are, or exactly as they were at `version` while it is held.

        `NotFound` for a table that does not exist, `VersionGone` for a version not held, `Refused` for a key of a bucket that is
        not held, and for an unknown key where the table says so."""
        return self.lookup_many([(table, keys)], version=version)[0]

    def lookup_many(self, wanted: Wanted, *, version: Version | None = None) -> list[Answer]:
        """As `lookup`, of several tables, all of the same version."""
        return self.lookups.answer(wanted, version)

    @property
    def version(self) -> Version:
        """The one that is shown, or the newest that every partition has adopted."""
        shown, states = self.lookups.shown, self.follower.partitions.values()
        return min(state.version for state in states) if shown is None else shown.version

    @property
    def timeline(self) -> Timeline:
        shown, states = self.lookups.shown, self.follower.partitions.values()
        return min(state.timeline for state in states) if shown is None else shown.timeline

    @property
    def dense(self) -> Dense | None:
        """The dense slice that is served."""
        return None if self._served.info is None else self._served

    # ---- following -----------------------------------------------------------------------------------------------------

    def step(self, timeout_s: float) -> int:
        """One round of both threads: the catalog if it is due, what the log has, what can be adopted, a report if it is due.
        Returns the rows applied."""
        self._look()
        rows = self._follow(timeout_s)
        self._fetch()
        self._settle()
        self._report()
        return rows

    def refresh(self) -> None:
        """Reads the catalog now, and learns what is new."""
        self._read_refs()
        self._learn()

    def _follow(self, timeout_s: float) -> int:
        self._learn()
        rows = self._poll(timeout_s)
        for partition, state in self.follower.partitions.items():
            while self.adoption.adopt_next(partition):
                self._record(state)
        self._settle()
        return rows

    def _learn(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            self._grow(news.schema)
            self.follower.learn(news.refs, news.history, news.ends, news.skips)

    def _grow(self, schema: ModelSchema) -> bool:
        """Tables that were born since; whether there are any."""
        states, held = self.follower.partitions, self.follower.tables
        if not schema.tables.keys() <= held.keys():
            warm(schema)
        return self.follower.holding.grow(schema, {p: state.labels for p, state in states.items()})

    def _poll(self, timeout_s: float) -> int:
        wanted = {p: state.reads_from for p, state in self.follower.partitions.items() if self.follower.may_poll(state)}
        if not wanted:
            self.heard_at = self.env.clock()  # it does not want to hear
            self._stop.wait(min(timeout_s, self._look_s))
            return 0
        try:
            found = self.env.log.poll(wanted, timeout_s=timeout_s)
        except PositionGone as error:
            log.warning("replica %s: %s", self.name, error)
            self._reposition(wanted)
            return 0
        except Corrupt:
            self._stop_damaged(wanted)
            return 0
        self.heard_at = self.env.clock()
        if not found:
            self.at_end_at.update(dict.fromkeys(wanted, self.heard_at))
        return sum(self._step(partition, entries) for partition, entries in found.items() if entries)

    def _step(self, partition: Partition, entries: Sequence[LogEntry]) -> int:
        state, found, broken, model_id = self.follower.partitions[partition], list[Entry](), "", self.follower.schema.raw_id
        skipped = self.follower.skips.of_partition(partition)
        for entry in entries:
            try:
                name = f"{self.env.log.url} partition {partition} offset {entry.offset}"
                found.append(decoded(entry, partition, skipped, model_id, name))
            except Unreadable as error:
                broken = str(error)
                break
        before = state.offset
        try:
            rows = self.follower.step(partition, found)
        except UnknownTable as error:
            if not self._grow(self.env.catalog.reload_schema()):
                self.follower.refuse(partition, str(error), at=state.offset)
            rows, broken = 0, ""  # what is left unread is polled again
        if broken and not state.alarm and state.reads_from == (at := entries[len(found)].offset):
            self.follower.refuse(partition, broken, at=at)
        if state.alarm:
            log.error("partition %d stops: %s", partition, state.alarm)
        if state.paused:
            self._look_s = min(DECISION_S, self._look_s)
            self._wake.set()
        if state.offset > before:
            now = self.env.clock()
            self.latency_ms[partition] = max(0.0, (now - state.written_at) / 1000)
            self.measured.add(partition, state.arrived, since=before, now=now)
        return rows

    def _stop_damaged(self, wanted: Mapping[Partition, Offset]) -> None:
        """The log itself is damaged: the partitions that it cannot deliver stop, until a version leads past the place."""
        for partition, offset in wanted.items():
            try:
                self.env.log.poll({partition: offset}, timeout_s=DAMAGED_S, max_bytes=1)
            except Corrupt as error:
                self.follower.refuse(partition, str(error))
                log.error("partition %d stops: %s", partition, error)
            except PositionGone:
                continue  # found again, and repositioned, by the next poll

    def _reposition(self, wanted: Mapping[Partition, Offset]) -> None:
        """The log does not have the positions of some partitions any more: they are loaded anew from the chain."""
        for partition, offset in wanted.items():
            state, number = self.follower.partitions[partition], self.follower.known.version
            try:
                begin, end = self.env.log.begin(partition), self.env.log.end(partition)
            except PositionGone as error:
                self.adoption.give_up(state, str(error))  # another log
                continue
            if begin <= offset <= end:
                continue
            start = self.follower.history.version(number).positions.partitions[partition].offset
            if not begin <= start <= end:
                held = f"{self.env.log.url} has offsets {begin} to {end}"
                self.adoption.give_up(state, f"{held}, neither {offset} nor version {number}'s {start}")
            elif self.adoption.load_newest(state):
                self._record(state)

    def _record(self, state: PartitionState) -> None:
        """Keeps the digests of the version that a partition has just adopted, until all have."""
        manifest = self.follower.history.version(state.version)
        marked = state.marked[manifest.state]
        confirmed = self._confirming.adopted(manifest, state.partition, marked.digests if marked.is_known else None)
        if confirmed is not None:
            self.confirmed = confirmed
            self._reported_at = WallTime(0)  # worth telling at once
            self._wake.set()

    def _settle(self) -> None:
        """Once every partition has come to a version: its dense slice counts, or one announced since; and for a ref that follows
        versions, it is what readers see, all in one step."""
        states = list(self.follower.partitions.values())
        if any(state.version != states[0].version for state in states):
            return
        version = self.follower.history.version(states[0].version)
        self._wanted = self.follower.dense_at(version)
        fetched = self._fetched
        if self._wanted != fetched.info:
            self._wake.set()
            return
        was = self.lookups.shown
        if not self.follower.follows_log and was is not version:
            self.lookups.shown, self._served, self.adoption.shown = version, fetched, version.state
            for state in states:
                is_back = was is not None and was.timeline != version.timeline
                (self.follower.markers.disown if is_back else self.follower.markers.trim)(state)
        self._served = fetched

    # ---- the store -----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        if self.env.clock() - self.looked_at >= round(1e6 * self._look_s):
            self._read_refs()
            self._look_s = min(DECISION_GROWTH * self._look_s, microseconds(self.env.config.replica.refresh) / 1e6)

    def _read_refs(self) -> None:
        """Reads the refs, and the versions where they have moved."""
        refs = refs_for(self.env, self._at)
        known = self._news.refs if self._news is not None else self.follower.refs
        if refs.generation != known.generation:
            history, schema = self.env.catalog.history(refs), self.env.catalog.reload_schema()
            self._news = News(refs, history, schema, read_skips(self.env.catalog), self._read_ends())
        self.looked_at = self.env.clock()

    def _read_ends(self) -> dict[Partition, Offset]:
        now, states = self.env.clock(), self.follower.partitions
        self.ends = {p: self.env.log.end(p) for p in states}
        self.at_end_at.update({p: now for p, end in self.ends.items() if states[p].offset >= end})
        return self.ends

    def _fetch(self) -> None:
        """Reads the dense slice that is wanted."""
        info = self._wanted
        if info != self._fetched.info:
            self._fetched = Dense(info, {} if info is None else read_dense(self.env.catalog.store, info))

    def _report(self) -> None:
        if self.env.clock() - self._reported_at >= microseconds(self.env.config.replica.lease) // 3:
            self.report()

    def report(self) -> Presence:
        """Writes the presence record: what it has, leased."""
        self._reported_at = now = self.env.clock()
        self._read_ends()
        presence = presence_of(self, now)
        leases.report_presence(self.env.catalog, presence)
        return presence

    def ready(self, now: WallTime) -> bool:
        """Whether it should be asked."""
        return is_ready(self, now)

    def leave(self) -> None:
        """It will be gone soon, and says so to those who ask and in its presence record; until `close` it goes on."""
        self._leaving = True
        self._reported_at = WallTime(0)
        self._wake.set()

    @property
    def is_leaving(self) -> bool:
        return self._leaving or self._stop.is_set()

    # ---- the threads ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Follows and reports in threads of its own until `close`."""
        for work in (self.run, self._watch):
            self._threads.append(threading.Thread(target=work, name=f"replica {self.name}", daemon=True))
            self._threads[-1].start()

    def run(self) -> None:
        """Follows until `close`; a log or store that does not answer is waited for, anything else that fails is `failure`."""
        pause_s = POLL_S
        while not self._stop.is_set():
            try:
                self._follow(POLL_S)
                pause_s = POLL_S
            except Unreachable as error:
                log.warning("replica %s waits: %s", self.name, error)
                self._stop.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            except Exception as error:
                log.exception("replica %s stops following", self.name)
                self.failure = error
                return

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                self._look()
                self._fetch()
                self._report()
                self.trouble = ""
            except Unreachable as error:
                log.warning("replica %s waits: %s", self.name, error)
            except Exception as error:
                if self.trouble != str(error):
                    log.exception("replica %s cannot read what it needs", self.name)
                self.trouble = str(error) or type(error).__name__
            # What could not be read once is not asked for all the time.
            self._wake.wait(microseconds(self.env.config.replica.lease) / 3e6 if self.trouble else self._look_s)
            self._wake.clear()

    def close(self) -> None:
        """Stops the threads and takes the presence record away."""
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            thread.join()
        try:
            leases.remove_presence(self.env.catalog, self.name)
        except Unreachable as error:
            log.warning("replica %s leaves its presence record to its lease: %s", self.name, error)
