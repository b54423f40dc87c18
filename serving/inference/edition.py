"""What an inference node has of one timeline and one shape of the tables: hot rows that follow the log, the near caches, and the
dense slice that belongs to them. A rollback begins another edition beside it, so that no answer is made of both.

Step functions: records and answers in, rows out. No thread, no clock, no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from penstock.pipeline.catalog.replay import Unreadable, decoded
from penstock.pipeline.core.errors import PositionGone
from penstock.pipeline.core.history import Entry, History
from penstock.pipeline.core.ids import Offset, Partition, Timeline, Version
from penstock.pipeline.core.manifest import DenseInfo, Manifest
from penstock.pipeline.core.refs import Refs
from penstock.pipeline.core.schema import ModelSchema, TableSchema
from penstock.pipeline.core.skips import Skips
from penstock.pipeline.ports.log import LogEntry

from ..bootstrap import first_version
from ..follower import Follower, UnknownTable
from ..holding import Holding
from ..markers import Markers
from ..partition import PartitionState
from ..replica import Dense, News
from ..table import Table
from .hot_table import HotTable
from .members import Keys


@dataclass(slots=True)
class HotHolding(Holding):
    """Every table, of which only the hot rows are kept. A follower asks a table for its width, and writes to it: no more is
    here."""

    near_bytes: int = 0
    expiry_us: int = 0

    def _new_table(self, found: TableSchema) -> Table:
        near_bytes = self.near_bytes // max(1, len(self.schema.tables))
        return cast(Table, HotTable(self.schema, found, near_bytes=near_bytes, expiry_us=self.expiry_us))

    def hot(self, generation: str) -> HotTable:
        return cast(HotTable, self.tables[generation])


class NoMarkers(Markers):
    """Nothing is remembered of a marker: what a version brings beside the log is asked for."""

    def mark(self, state: PartitionState, marker: object) -> None:
        return

    def pass_by(self, state: PartitionState) -> None:
        return


@dataclass(frozen=True, slots=True)
class Shown:
    """What readers see, replaced as one: a version, and the dense slice that is served with it."""

    version: Version
    dense: Dense


@dataclass(slots=True, eq=False)
class Edition:
    """`exact`: rows are those of `shown.version` and no newer ones, and the log is not followed. `wanted`: keys that are to be
    asked for, by the name of the table. `caught_up`: the log was read up to `ends`, where it ended when the edition began; no hot
    row counts before."""

    manifest: Manifest
    follower: Follower
    shown: Shown
    exact: bool
    ends: Mapping[Partition, Offset]
    wanted: dict[str, list[Keys]] = field(default_factory=dict)
    caught_up: bool = False
    corrects: bool = False
    """Rows that a version brought beside the log are being asked for."""
    confirmed: bool = False
    """The cluster has answered from this timeline."""

    @classmethod
    def begin(cls, news: News, *, ref: str, dense: Dense, hot: Mapping[str, Keys], near_bytes: int, expiry_us: int) -> Edition:
        """At the ref's version, with no row yet."""
        manifest = manifest_of(news, ref)
        holding = HotHolding(
            news.schema, range(news.schema.buckets), image_bytes=0, max_labels=1, near_bytes=near_bytes, expiry_us=expiry_us
        )
        follower = Follower(holding, news.history, news.refs, ref, NoMarkers(holding, 1), news.skips)
        follower.learn(news.refs, news.history, news.ends, news.skips)
        for p in holding.partitions():
            position = manifest.positions.partitions[p]
            follower.partitions[p] = PartitionState(
                p, position.offset, dict(position.readers), manifest.timeline, manifest.version, {}
            )
        found = cls(manifest, follower, Shown(manifest.version, dense), exact=not follower.follows_log, ends=news.ends)
        found.choose(hot)
        return found

    # ---- what there is ---------------------------------------------------------------------------------------------------

    @property
    def timeline(self) -> Timeline:
        return self.manifest.timeline

    @property
    def schema(self) -> ModelSchema:
        return self.follower.schema

    def table(self, name: str) -> HotTable:
        """The generation of table `name` that readers take. `NotFound`: no such table."""
        self.schema.table(name)
        return self.holding.hot(self.manifest.generation(name))

    @property
    def holding(self) -> HotHolding:
        return cast(HotHolding, self.follower.holding)

    @property
    def tables(self) -> dict[str, HotTable]:
        return {name: self.table(name) for name in self.schema.names()}

    def passed(self) -> dict[Partition, Offset]:
        """Per partition, what is behind everything that the tables were told so far. From any thread."""
        found = {}
        for partition, state in self.follower.partitions.items():
            under_way = state.applying is not None  # asked first: what is told meanwhile lies behind
            found[partition] = Offset(state.offset + under_way)
        return found

    def offsets(self) -> dict[Partition, Offset]:
        return {partition: state.offset for partition, state in self.follower.partitions.items()}

    def stands(self, partition: Partition) -> bool:
        """It is not read on, so nothing will be written over what it has."""
        return not self.follower.may_poll(self.follower.partitions[partition])

    @property
    def alarm(self) -> str:
        """What stopped a partition, "" while all run."""
        return next((state.alarm for state in self.follower.partitions.values() if state.alarm), "")

    # ---- which are hot ---------------------------------------------------------------------------------------------------

    def choose(self, hot: Mapping[str, Keys]) -> None:
        """These keys are hot, and those that were not are wanted. Tables that are not named keep theirs."""
        for name, keys in hot.items():
            if name in self.schema.tables and self.schema.tables[name].generation_of is None:
                self.want(name, self.table(name).choose(keys))

    def want(self, name: str, keys: Keys) -> None:
        if keys.size:
            self.wanted.setdefault(name, []).append(keys)

    def want_all(self) -> None:
        self.wanted.clear()
        for name, table in self.tables.items():
            self.want(name, table.members.keys)

    # ---- following -------------------------------------------------------------------------------------------------------

    def polls(self) -> dict[Partition, Offset]:
        """From where each partition is to be read on."""
        if self.exact:
            return {}
        return {p: state.reads_from for p, state in self.follower.partitions.items() if self.follower.may_poll(state)}

    def take(self, partition: Partition, entries: Sequence[LogEntry], schema: Callable[[], ModelSchema], name: str) -> int:
        """Goes through what was read of a partition of log `name`; returns the rows that were told to the tables. `schema`: read
        anew."""
        state, found, broken = self.follower.partitions[partition], list[Entry](), ""
        skipped = self.follower.skips.of_partition(partition)
        for entry in entries:
            try:
                where = f"{name} partition {partition} offset {entry.offset}"
                found.append(decoded(entry, partition, skipped, self.schema.raw_id, where))
            except Unreadable as error:
                broken = str(error)
                break
        try:
            rows = self.follower.step(partition, found)
        except UnknownTable as error:
            if not self.holding.grow(schema(), {}):
                self.follower.refuse(partition, str(error), at=state.offset)
            return 0  # what is left unread is polled again
        if broken and not state.alarm and state.reads_from == (at := entries[len(found)].offset):
            self.follower.refuse(partition, broken, at=at)
        return rows

    def learn(self, refs: Refs, history: History, ends: Mapping[Partition, Offset], skips: Skips, schema: ModelSchema) -> None:
        self.holding.grow(schema, {})
        self.follower.learn(refs, history, ends, skips)

    def adopt(self) -> bool:
        """Goes on to versions whose markers were passed. False: what comes next takes another edition."""
        follower = self.follower
        for state in follower.partitions.values():
            while (version := follower.next_version(state)) is not None:
                if self._is_other(version):
                    return False
                position = version.positions.partitions[state.partition].offset
                if state.offset < position:
                    if (
                        state.alarm
                        or state.gap is not None
                        or state.paused
                        or position > follower.ends.get(state.partition, position)
                    ):
                        return False  # the log does not lead there
                    break
                state.version = version.version
        self._reach(min(state.version for state in follower.partitions.values()))
        return True

    def _is_other(self, version: Manifest) -> bool:
        return self.exact or version.timeline != self.timeline or version.shapes != self.manifest.shapes

    def _reach(self, number: Version) -> None:
        """Every partition has passed a version's marker: what it brought beside the log is asked for, before it is shown."""
        if number > self.manifest.version:
            self.manifest, self.corrects = self.follower.history.version(number), True
            self.want_all()

    def catch_up(self) -> None:
        if not self.caught_up:
            states = self.follower.partitions.values()
            at_end = (state.offset >= self.ends[state.partition] or self.stands(state.partition) for state in states)
            self.caught_up = self.exact or all(at_end)

    @property
    def wanted_dense(self) -> DenseInfo | None:
        """The slice that belongs to the version whose markers were passed last, or was announced since."""
        return self.follower.dense_at(self.manifest)

    def show(self, dense: Dense) -> bool:
        """Shows the version that was reached, if all that it takes is there."""
        if self.wanted_dense != dense.info:
            return False
        if self.corrects and self.wanted:
            return False
        shown = self.shown
        if shown.version != self.manifest.version or shown.dense.info != dense.info:
            if self.corrects:
                for table in self.tables.values():
                    table.near.clear()  # it may have what the version has corrected
            self.shown, self.corrects = Shown(self.manifest.version, dense), False
        return True


def manifest_of(news: News, ref: str) -> Manifest:
    """The version that an edition begins at. `PositionGone`: it counts in another log."""
    manifest = first_version(news.history, news.refs.ref(ref))
    if manifest.positions.log != news.schema.log:
        raise PositionGone(
            f"version {manifest.version} counts its positions in log {manifest.positions.log}, not {news.schema.log}"
        )
    return manifest
