"""The small model that a run is held against: what was promised, and what follows from it, computed by brute force from what is
durable. Every change of the store is looked at when it happens.

It reads the memory store and log directly, takes no turn, and uses of the product only what decodes bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from penstock.pipeline.catalog.catalog import Catalog
from penstock.pipeline.catalog.leases import read_claim
from penstock.pipeline.core.documents import decode
from penstock.pipeline.core.hashing import buckets_of, partitions_of
from penstock.pipeline.core.history import table_layers
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.records import RecordKind, decode_record
from penstock.pipeline.core.refs import Refs
from penstock.pipeline.ports.memory_log import MemoryLog
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.slicer.layers import Layers
from penstock.slicer.run_layout import TableLayout

MODEL, TABLES = "m", ("a", "b")
EPOCH, SECOND = 1_700_000_000_000_000, 1_000_000
Key = tuple[str, int]
Row = tuple[float, float]


class Violated(BaseException):
    """An invariant does not hold. Not an Exception, so that no handler of the product hides it."""


def ensure(holds: object, what: str) -> None:
    if not holds:
        raise Violated(what)


def event(number: int) -> int:
    """Event `number` happened then."""
    return EPOCH + number * SECOND


def number_of(moment: int) -> float:
    """The newest event at or before `moment`."""
    return (moment - EPOCH) // SECOND


def rows_in(table: str, keys: Any, rows: Any) -> dict[Key, Row]:
    values = np.ascontiguousarray(rows).view("<f4").reshape(-1, 2).tolist() if len(rows) else []
    return {(table, key): (row[0], row[1]) for key, row in zip(keys.tolist(), values, strict=True)}


@dataclass
class Promises:
    """What one incarnation of a trainer was told: `written` per key whatever it put, in order (None: deleted); from
    `acknowledged` on that was flushed, so that nothing older may be served as long as this incarnation lives."""

    timeline: int
    written: dict[Key, list[Row | None]] = field(default_factory=dict)
    acknowledged: dict[Key, int] = field(default_factory=dict)

    def write(self, key: Key, row: Row | None) -> None:
        self.written.setdefault(key, []).append(row)

    def flushed(self, counts: Mapping[Key, int]) -> None:
        """`counts`: how many writes of each key had been put before the flush."""
        for key, count in counts.items():
            self.acknowledged[key] = max(self.acknowledged.get(key, 0), count - 1)

    def check(self, served: Mapping[Key, Row]) -> None:
        for key, first in self.acknowledged.items():
            allowed = self.written[key][first:]
            ensure(served.get(key) in allowed, f"{key} was acknowledged as {allowed}, and {served.get(key)} is served")


class Invariants:
    def __init__(self, store: MemoryStore, log: MemoryLog) -> None:
        self.store, self.log = store, log
        self.catalog = Catalog(store, MODEL)
        self.digests: dict[int, tuple[dict[str, list[int]], str]] = {}
        self._seen: dict[tuple[Any, int], tuple[int, int]] = {}
        self.promises: Promises | None = None
        self.rollbacks = 0
        self._named: set[str] = set()

    # ---- what is durable -----------------------------------------------------------------------------------------------

    def on_write(self, key: str, old: bytes | None, new: bytes | None) -> None:
        folder = key.split("/")[1]
        if new is None:
            ensure(key not in self._named, f"{key} was deleted, and a version that can be reached needs it")
        elif folder == "refs.json" and old is not None:
            self._moved(decode(Refs, old, key), decode(Refs, new, key))
        elif old is not None:
            ensure(folder not in ("versions", "history", "touched"), f"{key} was written twice")
            ensure(key not in self._named, f"{key} was changed under a version that can be reached")

    def _moved(self, old: Refs, new: Refs) -> None:
        ensure(new.generation == old.generation + 1, "a generation was left out")
        ensure(f"{MODEL}/history/{old.generation:010d}.json" in self.store._objects, "a move is missing from the history")
        ensure(new.trunk >= old.trunk and new.timeline >= old.timeline, f"refs moved back: {old} {new}")
        ensure(set(old.abandoned) <= set(new.abandoned) and old.refs.keys() <= new.refs.keys(), f"refs forgot: {old} {new}")
        ensure(new.oldest <= new.trunk, f"nothing is retained: {new}")
        history = self.catalog.history(new)
        numbers = {m.version for m in history.trunk}
        ensure(all(ref.version in numbers for ref in new.refs.values()), f"a ref leads to nothing: {new}")
        if new.trunk != old.trunk:
            self._committed(self.catalog.manifest(new.trunk), old, new)
        else:
            ensure(new.timeline == old.timeline, "the timeline changed without a version")
        self._named = self._needed(history)

    def _committed(self, manifest: Manifest, old: Refs, new: Refs) -> None:
        ensure(manifest.previous == old.trunk and manifest.base is not None, f"{manifest.version} does not follow {old.trunk}")
        ensure(manifest.timeline == new.timeline, "refs and version are of different timelines")
        missing = manifest.data_paths() - self.store._objects.keys()
        ensure(not missing, f"version {manifest.version} names {missing}, which are not there")
        if manifest.rollback is None:
            ensure(new.timeline == old.timeline, "a timeline began without a rollback")
            base = self.catalog.manifest(manifest.base)
            ensure(manifest.state.marker > base.state.marker, f"{manifest.state} does not follow {base.state}")
            return
        self.rollbacks += 1
        self.promises = None
        ensure(new.timeline > old.timeline and new.timeline not in old.abandoned, "a rollback to a timeline that was given up")
        self._taken_back(manifest)

    def on_truncate(self, partition: int, before: int) -> None:
        position = self.catalog.manifest(self.catalog.refs().trunk).positions.partitions[partition]
        ensure(before <= position.offset, f"partition {partition} was cut off at {before}, newcomers begin at {position.offset}")

    def _needed(self, history: Any) -> set[str]:
        """Every object that somebody may read who follows the refs: of the live version a newcomer, and every undo."""
        chain = history.chain(history.newest.version)
        found = {f"{MODEL}/versions/{m.version:010d}.json" for m in history.trunk}
        for manifest in chain:
            found |= manifest.data_paths()
        return found

    def _taken_back(self, manifest: Manifest) -> None:
        """A rollback's state is what had been delivered before the cuts, and has not learned from what it takes back."""
        taken = manifest.rollback
        base, served = self.catalog.manifest(manifest.base), self.rows(manifest)
        if taken.target.kind == "before_event":
            limit = taken.target.time
            poisoned = {key: row for key, row in served.items() if taken.covers(key[0]) and event(int(row[0])) >= limit}
            ensure(not poisoned, f"version {manifest.version}, {taken.target}, has {poisoned}")
            through = manifest.trained_through
            ensure(through < limit or taken.tables is not None, f"version {manifest.version} claims {through}")
        named = read_claim(self.catalog, manifest.timeline).of
        expected = self.delivered(base, taken.cut, until=named)
        if taken.tables is not None:
            before = self.catalog.manifest(manifest.previous)
            on = self.delivered(before, taken.fence, until=before.timeline)
            expected = {key: row for key, row in expected.items() if taken.covers(key[0])}
            expected |= {key: row for key, row in on.items() if not taken.covers(key[0])}
        ensure(served == expected, f"version {manifest.version}, {taken.target}: {difference(served, expected)}")

    # ---- states --------------------------------------------------------------------------------------------------------

    def rows(self, version: Manifest) -> dict[Key, Row]:
        """What a newcomer loads."""
        schema, found = self.catalog.reload_schema(), dict[Key, Row]()
        chain = self.catalog.history().chain(version.version)
        for table in schema.tables:
            with Layers.open(self.store, TableLayout.of(schema, table), table_layers(chain, table)) as layers:
                for keys, rows in layers.merged():
                    found |= rows_in(table, keys, rows)
        return found

    def delivered(self, base: Manifest, ends: Iterable[int], *, until: int) -> dict[Key, Row]:
        """The rows of `base`, and what the log delivered from there up to `ends`, on the path that led to timeline `until`."""
        schema, found = self.catalog.reload_schema(), self.rows(base)
        passed = [m for m in self.catalog.history().trunk if m.rollback is not None and m.timeline <= until]
        for p, (position, end) in enumerate(zip(base.positions.partitions, ends, strict=True)):
            timeline, readers, offset = base.timeline, dict(position.readers), position.offset
            while offset < end:
                ahead = [m for m in passed if m.timeline > timeline]
                jump = next((m for m in ahead if m.rollback.tables is None and m.rollback.cut[p] <= offset), None)
                if jump is not None:
                    timeline, readers, offset = jump.timeline, {}, max(offset, jump.rollback.fence[p] + 1)
                    continue
                dead = [m.rollback for m in ahead if m.rollback.cut[p] <= offset < m.rollback.fence[p]]
                record, at = self._record(schema, p, offset), offset
                offset += 1
                if record.kind == RecordKind.FENCE:
                    reached = [m.timeline for m in ahead if m.rollback.fence[p] == at]
                    timeline, readers = max([timeline, *reached]), {} if reached else readers
                if record.kind == RecordKind.FENCE or record.timeline != timeline:
                    continue
                if (record.term, record.seq) <= tuple(readers.get(record.publisher, (0, 0))):
                    continue
                readers[record.publisher] = (record.term, record.seq)
                if record.kind == RecordKind.ROWS and not any(taken.covers(record.table) for taken in dead):
                    found |= rows_in(record.table, record.put_keys, record.rows)
                    for key in record.tombstones.tolist():
                        found.pop((record.table, key), None)
        return found

    def _record(self, schema: Any, partition: int, offset: int) -> Any:
        entry = self.log._records[partition][offset - self.log._begins[partition]]
        return decode_record(entry.payload, model_id=schema.raw_id, partition=partition, name="log")

    # ---- replicas ------------------------------------------------------------------------------------------------------

    def look_at(self, replica: Any) -> None:
        """Nothing is served on a timeline that has learned from what the rollback to it took back; versions have one digest."""
        if (confirmed := replica.confirmed) is not None and confirmed.digests is not None:
            number = int(confirmed.manifest.version)
            # Who began before a table was born does not name it.
            digests = {name: found.tolist() for name, found in confirmed.digests.items() if found.any()}
            known, who = self.digests.setdefault(number, (digests, replica.name))
            ensure(known == digests, f"version {number}: {who} has digests {known}, {replica.name} {digests}")
        for p, state in replica.follower.partitions.items():
            self._agreed(replica, p, state)
        rollbacks = [m for m in replica.follower.history.trunk if m.rollback is not None]
        events = [m for m in rollbacks if m.rollback.target.kind == "before_event" and m.rollback.tables is None]
        limits = {m.version: (m.rollback.fence, m.rollback.target.time) for m in events}
        if not limits:
            return
        for name, table in replica.follower.tables.items():
            keys, rows = table.scan(replica.buckets)
            for (_, key), row in rows_in(name, keys, rows).items():
                state = replica.follower.partitions[_partition_of(replica, key)]
                fences, limit = limits.get(state.version, (None, 0))
                if fences is not None and state.offset <= fences[state.partition] + 1:
                    ensure(event(int(row[0])) < limit, f"{replica.name} serves {name} {key} {row} at version {state.version}")

    def _agreed(self, replica: Any, partition: int, state: Any) -> None:
        """A bucket disagrees only where a version was made by comparing: that does not say what the log has brought beside it."""
        version, disagreed = self._seen.get((replica, partition), (-1, 0))
        if state.counters.disagreed > disagreed:
            passed = [m for m in replica.follower.history.trunk if version < m.version <= state.version]
            why = [f"{m.version} ({m.source})" for m in passed]
            said_so = any(m.source in ("compared", "whole") for m in passed)
            ensure(said_so, f"{replica.name} partition {partition} disagreed at version {why}")
        self._seen[replica, partition] = (state.version, state.counters.disagreed)

    def served(self, replica: Any) -> dict[Key, Row]:
        found: dict[Key, Row] = {}
        for name, table in replica.follower.tables.items():
            found |= rows_in(name, *table.scan(replica.buckets))
        return found


def _partition_of(replica: Any, key: int) -> int:
    schema = replica.follower.schema
    bucket = buckets_of(np.array([key]), schema.buckets)
    return int(partitions_of(bucket, bucket_count=schema.buckets, partition_count=schema.partitions)[0])


def difference(found: Mapping[Key, Row], expected: Mapping[Key, Row]) -> str:
    keys = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    return ", ".join(f"{key} is {found.get(key)}, should be {expected.get(key)}" for key in keys)
