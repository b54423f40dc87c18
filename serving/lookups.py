"""Answers lookups from the tables of a replica, in the callers' threads and without a lock. Knows no log, no network."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import InvalidInput, NotFound, Refused, Unreachable, VersionGone
from penstock.pipeline.core.ids import Offset, Partition, State, Timeline, Version
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.schema import KeyType

from .answers import Answer
from .bags import Bags
from .follower import Follower
from .generations import Generations
from .table import Keys, Table

Wanted = Sequence[tuple[str, Keys]]
"""Tables and their keys (int64[n])."""

PATIENCE_S = 1.0
PAUSE_S = 0.002
LEAST_KEYS = 16_384
"""Of a part that another thread looks up: to hand it over has its price."""
Job = Callable[[], None]
NOWHERE: Mapping[Partition, Offset] = {}
"""The positions of rows that follow no log."""


class Want(NamedTuple):
    """Keys (int64[n]) of a table; in bags, the rows of each are pooled."""

    table: str
    keys: Keys
    bags: Bags | None = None


class Helping(Protocol):
    """Runs what several threads may do at once, by up to `threads` of them."""

    @property
    def threads(self) -> int: ...

    def run(self, jobs: Iterable[Job]) -> None:
        """Returns when all have ended; raises what one has raised."""


class Alone:
    """No help: one after the other, in the caller's thread."""

    threads = 1

    def run(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            job()


ALONE = Alone()


@dataclass(slots=True)
class _Reading:
    """The generations that are read, and what of them: a table, the rows of its keys or bags (float32[n or bags, dim]), all these
    next to each other in memory, and which keys are there (bool[n])."""

    names: Sequence[str]
    tables: Sequence[Table]
    rows: Sequence[NDArray[np.float32]]
    found: Sequence[NDArray[np.bool_]]


class _How(NamedTuple):
    """Where the rows go, None for memory of their own, and who helps to find them."""

    room: NDArray[np.float32] | None
    helping: Helping


@dataclass(slots=True)
class Lookups:
    """`most_keys` bounds one request. `shown`: the one version that readers of a ref that follows versions see."""

    follower: Follower
    generations: Generations
    most_keys: int
    shown: Manifest | None = None

    def answer(self, wanted: Wanted, version: Version | None) -> list[Answer]:
        """One answer for each table, all of one version; their rows lie next to each other in memory, in this order."""
        return self.answer_pooled([Want(table, keys) for table, keys in wanted], version)

    def answer_pooled(
        self, wanted: Sequence[Want], version: Version | None, room: NDArray[np.float32] | None = None, helping: Helping = ALONE
    ) -> list[Answer]:
        """As `answer`; where there are bags, the answer has one row for each of them (float32[bags, dim]). The rows are put into
        `room` (float32[n]) if it has room for them all; many keys are shared out among the threads of `helping`."""
        self.check(wanted)
        how = _How(room, helping)
        if version is not None:
            manifest = self._exactly(version)
            return self._answers(self._read_at(wanted, manifest, how), wanted, manifest.version, manifest.timeline)
        if self.shown is not None:
            manifest, read = self._as_shown(wanted, how)
            return self._answers(read, wanted, manifest.version, manifest.timeline)
        while True:
            current, states = self.generations.current, self.follower.partitions.values()
            positions = {state.partition: state.applied for state in states}
            reached, timeline = min(state.version for state in states), min(state.timeline for state in states)
            read = self._read(wanted, [self._whole(want.table) for want in wanted], None, how)
            if self.generations.current is current:
                return self._answers(read, wanted, reached, timeline, positions)
            # A partition has come to a version of another shape meanwhile.

    def key_type(self, table: str) -> KeyType:
        """What the keys of a table are in the generation that is read."""
        return self.follower.schema.table(self.generations.current.get(table) or table).keys

    def nbytes(self, wanted: Sequence[Want]) -> int:
        """What the rows of the answers take. `NotFound`: no such table."""
        schema, current = self.follower.schema, self.generations.current
        dims = [schema.table(current.get(want.table) or want.table).dim for want in wanted]
        rows = [_row_count(want) for want in wanted]
        return sum(4 * dim * count for dim, count in zip(dims, rows, strict=True))

    def _whole(self, name: str) -> str:
        """The generation to read. While a rollback is on its way from one shape to another, none may be whole: that is waited
        for, a little. `Unreachable` then, so that a client asks another replica."""
        until = time.monotonic() + PATIENCE_S
        while not (found := self.generations.current.get(name, name)):
            if time.monotonic() > until:
                raise Unreachable(
                    f"table {name} is going back to another shape, and is not whole yet", hint="ask again a little later"
                )
            time.sleep(PAUSE_S)
        return found

    def check(self, wanted: Sequence[Want]) -> None:
        """What can be said before anything is looked up; `answer_pooled` checks it itself."""
        holding = self.follower.holding
        for name, keys, bags in wanted:
            if keys.dtype != np.int64 or keys.ndim != 1:
                raise InvalidInput(f"table {name}: keys are {keys.dtype}{list(keys.shape)}, need int64[n]")
            if bags is not None:
                bags.check(name, keys.size)
        for kind, total in (
            ("keys", sum(want.keys.size for want in wanted)),
            ("bags", sum(want.bags.offsets.size for want in wanted if want.bags is not None)),
        ):
            if total > self.most_keys:
                raise Refused(f"{total} {kind} in one lookup, at most {self.most_keys}", hint="ask for them in parts")
        for name, keys, _ in wanted:
            holding.schema.table(name)
            if not holding.is_complete and not (held := holding.holds(keys)).all():
                first, last = holding.buckets.start, holding.buckets.stop - 1
                raise Refused(f"key {int(keys[~held][0])} lies in no bucket that this replica holds ({first}-{last})")

    def _reading(self, wanted: Sequence[Want], names: Sequence[str], room: NDArray[np.float32] | None) -> _Reading:
        """Where the rows of these generations go."""
        held = self.follower.tables
        if missing := [name for name in names if name not in held]:
            raise NotFound(f"table {missing[0]} is not loaded yet")
        tables = [held[name] for name in names]
        counts = [_row_count(want) for want in wanted]
        ends = np.cumsum([0, *(table.dim * count for table, count in zip(tables, counts, strict=True))]).tolist()
        whole = np.empty(ends[-1], np.float32) if room is None or room.size < ends[-1] else room
        rows = [
            whole[low:end].reshape(count, table.dim)
            for (low, end), count, table in zip(pairwise(ends), counts, tables, strict=True)
        ]
        return _Reading(names, tables, rows, [np.empty(want.keys.size, np.bool_) for want in wanted])

    def _read_at(self, wanted: Sequence[Want], manifest: Manifest, how: _How) -> _Reading:
        """The rows as they were at a version; what was corrected meanwhile would not be the version's."""
        labels = self._labels(manifest)
        read = self._at(wanted, manifest, labels, how)
        self._labels(manifest)
        return read

    def _exactly(self, version: Version) -> Manifest:
        try:
            return self.follower.history.version(version)
        except NotFound as error:
            raise VersionGone(str(error)) from None

    def _labels(self, manifest: Manifest) -> dict[Partition, State]:
        version, state = manifest.version, manifest.state
        for partition in self.follower.partitions.values():
            marked = partition.marked.get(state)
            if partition.version < version:
                raise VersionGone(
                    f"version {version} is not adopted yet: partition {partition.partition} is at {partition.version}"
                )
            if (marked is None or not marked.is_sure) and state not in partition.held:
                raise VersionGone(f"version {version} is not held in partition {partition.partition}")
        return dict.fromkeys(self.follower.partitions, state)

    def _as_shown(self, wanted: Sequence[Want], how: _How) -> tuple[Manifest, _Reading]:
        while True:
            manifest = self.shown
            assert manifest is not None
            try:
                return manifest, self._at(wanted, manifest, dict.fromkeys(self.follower.partitions, manifest.state), how)
            except VersionGone:
                if self.shown is manifest:
                    raise
                # Another one is shown by now.

    def _at(self, wanted: Sequence[Want], manifest: Manifest, labels: dict[Partition, State], how: _How) -> _Reading:
        return self._read(wanted, [manifest.generation(want.table) for want in wanted], labels, how)

    def _read(
        self, wanted: Sequence[Want], names: Sequence[str], labels: Mapping[Partition, Hashable] | None, how: _How
    ) -> _Reading:
        """Rows of these generations as they are, or as they were at the labels."""
        read = self._reading(wanted, names, how.room)
        jobs = self._jobs(read, wanted, labels, how.helping.threads)
        (how.helping if sum(want.keys.size for want in wanted) >= 2 * LEAST_KEYS else ALONE).run(jobs)
        return read

    def _jobs(
        self, read: _Reading, wanted: Sequence[Want], labels: Mapping[Partition, Hashable] | None, threads: int
    ) -> Iterator[Job]:
        """Each looks up some keys of one table, so that each of the threads has its share."""
        share = max(LEAST_KEYS, -(-sum(want.keys.size for want in wanted) // threads))
        for name, table, want, rows, found in zip(read.names, read.tables, wanted, read.rows, read.found, strict=True):
            if want.bags is not None:
                yield partial(self._add_up, table, want, self._absent(name, table.dim), rows, found, labels)
                continue
            count = max(1, round(want.keys.size / share))
            for low, high in pairwise(want.keys.size * at // count for at in range(count + 1)):
                yield partial(self._find, table, want.keys[low:high], rows[low:high], found[low:high], labels)

    def _find(
        self, table: Table, keys: Keys, rows: NDArray[np.float32], found: NDArray[np.bool_],
        labels: Mapping[Partition, Hashable] | None,
    ) -> None:  # fmt: skip
        found[:] = (table.lookup(keys, rows) if labels is None else table.lookup_at(labels, keys, rows))[1]

    def _add_up(
        self, table: Table, want: Want, absent: NDArray[np.float32], rows: NDArray[np.float32], found: NDArray[np.bool_],
        labels: Mapping[Partition, Hashable] | None,
    ) -> None:  # fmt: skip
        assert want.bags is not None
        found[:] = table.add_up(want.keys, want.bags, absent, rows, labels=labels)

    def _absent(self, name: str, dim: int) -> NDArray[np.float32]:
        """float32[dim]: what an unknown key counts for in a bag."""
        absent = self.follower.schema.table(name).absent
        return np.zeros(dim, np.float32) if isinstance(absent, str) else np.asarray(absent, np.float32)

    def _answers(
        self, read: _Reading, wanted: Sequence[Want], version: Version, timeline: Timeline,
        positions: Mapping[Partition, Offset] = NOWHERE,
    ) -> list[Answer]:  # fmt: skip
        for want, name, rows, found in zip(wanted, read.names, read.rows, read.found, strict=True):
            absent = self.follower.schema.table(name).absent
            if absent == "zeros" or found.all():
                continue
            if absent == "refuse":
                unknown = want.keys[~found]
                raise Refused(f"table {want.table} has no key {unknown[0]} ({unknown.size} of {found.size} are unknown)")
            if want.bags is None:
                rows[~found] = self._absent(name, rows.shape[1])
        return [Answer(rows, found, version, timeline, positions) for rows, found in zip(read.rows, read.found, strict=True)]


def _row_count(want: Want) -> int:
    """Of its answer."""
    return want.keys.size if want.bags is None else want.bags.offsets.size
