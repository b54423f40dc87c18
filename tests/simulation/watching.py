"""What replicas serve, looked at while they are at work: between steps, and, where readers are promised one version, at every
call that a replica makes. It takes no turn."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from penstock.pipeline.catalog.skipping import read_skips
from penstock.pipeline.core.errors import NotFound, VersionGone
from penstock.pipeline.core.hashing import buckets_of, partitions_of
from penstock.pipeline.core.ids import Partition
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.schema import ModelSchema
from penstock.pipeline.core.schema_change import is_read

from .invariants import Invariants
from .states import Key, Row, Rows, difference, ensure, event, rows_in

LOOKS = 0.1
"""How often an older version is asked for, of a replica's calls."""


class Watch:
    def __init__(self, invariants: Invariants, chance: random.Random, keys: list[int]) -> None:
        self.invariants, self.states = invariants, invariants.states
        self.digests: dict[tuple[int, int, int], tuple[dict[str, list[int]], str]] = {}
        self.exact = 0
        """How many versions were looked at that a replica served exactly."""
        self._chance, self._keys = chance, np.array(keys, np.int64)
        self._seen: dict[tuple[Any, int], tuple[int, int]] = {}
        self._reached: dict[tuple[Any, int], int] = {}

    # ---- readers -------------------------------------------------------------------------------------------------------

    def ask(self, replica: Any) -> None:
        """Whoever asks now is answered with exactly one version, where that was promised."""
        for p, state in replica.follower.partitions.items():
            # One that was loaded anew may have read on before, unseen.
            seen = len(self.invariants.log.kept[p]) if state.counters.reloaded else state.offset
            self._reached[replica, p] = max(seen, self._reached.get((replica, p), 0))
        if (shown := replica.lookups.shown) is not None:
            self._ask_for(replica, shown, None)
            dense = None if replica.dense is None else replica.dense.info
            ensure(dense == shown.dense, f"{replica.name} shows version {shown.version} with dense {dense}, not {shown.dense}")
        # Who has read what the log has lost since is only found out by the next comparison.
        if self._chance.random() < LOOKS and not self.invariants.log.lost:
            manifest = self._chance.choice(replica.follower.history.trunk[-4:])
            self._ask_for(replica, manifest, manifest.version)

    def _ask_for(self, replica: Any, manifest: Manifest, version: Any) -> None:
        rows = self.invariants.known.get(manifest.version)
        if rows is None:
            return  # the birth
        keys = self._keys[replica.follower.holding.holds(self._keys)]
        for table in replica.follower.schema.names():
            name = manifest.generation(table)
            expected = {(table, key): rows[name, key] for key in keys.tolist() if (name, key) in rows}
            try:
                answer = replica.lookup(table, keys, version=version)
            except (NotFound, VersionGone) as error:
                # One that is shown is kept while the next one is adopted, as far as its budget goes.
                may_go = version is not None or not replica.env.config.replica.before_image_bytes
                excused = (may_go and isinstance(error, VersionGone)) or not expected
                ensure(excused, f"{replica.name} does not show version {manifest.version}: {error}")
                return
            found = rows_in(table, keys[answer.found], answer.rows[answer.found])
            what = f"{replica.name}, asked for version {manifest.version}"
            ensure(found == expected, f"{what}: {difference(found, expected)}")
        self.exact += 1

    def served(self, replica: Any) -> Rows:
        """What readers of a replica that has come to rest see, by table."""
        found, current = Rows(), replica.adoption.generations.current
        for name in replica.follower.schema.names():
            generation = current.get(name, name)
            if generation in replica.follower.tables:
                found |= rows_in(name, *replica.follower.tables[generation].scan(replica.buckets))
        return found

    # ---- followers -----------------------------------------------------------------------------------------------------

    def look_at(self, replica: Any) -> None:
        """Nothing is served on a timeline that has learned from what the rollback to it took back; versions have one digest."""
        confirmed, lost = replica.confirmed, self.invariants.log.lost
        if confirmed is not None and confirmed.is_known and not lost:
            number = int(confirmed.manifest.version)
            # Who began before a table was born does not name it; nor have those who hold a part the digests of the rest.
            digests = {name: found.tolist() for name, found in confirmed.digests.items() if found.any()}
            held = (number, replica.buckets.start, replica.buckets.stop)
            known, who = self.digests.setdefault(held, (digests, replica.name))
            ensure(known == digests, f"version {number}: {who} has digests {known}, {replica.name} {digests}")
        for p, state in replica.follower.partitions.items():
            self._agreed(replica, p, state)
            self._stopped(replica, p, state)
        self._unlearned(replica)
        if replica.follower.follows_log:
            self._announced(replica)

    def _unlearned(self, replica: Any) -> None:
        rollbacks = [m for m in replica.follower.history.trunk if m.rollback is not None]
        events = [m for m in rollbacks if m.rollback.target.kind == "before_event" and m.rollback.tables is None]
        limits = {m.version: (m.rollback.fence, m.rollback.target.time) for m in events}
        states = replica.follower.partitions
        back = {p for p, state in states.items() if state.version in limits and state.offset <= limits[state.version][0][p] + 1}
        if not back:
            return
        for name, table in replica.follower.tables.items():
            keys, rows = table.scan(replica.buckets)
            for (_, key), row in rows_in(name, keys, rows).items():
                state = states[_partition_of(replica, key)]
                if state.partition in back:
                    limit = limits[state.version][1]
                    ensure(event(int(row[0])) < limit, f"{replica.name} serves {name} {key} {row} at version {state.version}")
        versions = {state.version for state in states.values()}
        if len(back) == len(states) and len(versions) == 1 and replica.dense is not None and _is_settled(replica):
            limit, dense = limits[versions.pop()][1], self.states.dense(replica.dense.info)
            ensure(dense is not None and event(int(dense[0])) < limit, f"{replica.name} serves dense {dense}")

    def _agreed(self, replica: Any, partition: int, state: Any) -> None:
        """A bucket disagrees only where a version does not say what the log has brought beside it: one made by comparing, or in a
        generation of a table that it empties."""
        version, disagreed = self._seen.get((replica, partition), (-1, 0))
        if state.counters.disagreed > disagreed:
            # One that it could not load yet is not adopted.
            passed = [m for m in replica.follower.history.trunk if version < m.version]
            why = [f"{m.version} ({m.source})" for m in passed]
            said_so = any(m.source in ("compared", "whole") or _empties(m, replica.follower.schema) for m in passed)
            ensure(said_so or self.invariants.log.lost, f"{replica.name} partition {partition} disagreed at version {why}")
        self._seen[replica, partition] = (state.version, state.counters.disagreed)

    def _stopped(self, replica: Any, partition: int, state: Any) -> None:
        """Nobody passes a record that cannot be read, unless that was decided, or a version leads past it, or what had its offset
        before could be read."""
        log = self.invariants.log
        if not log.harmed or not replica.follower.follows_log:
            return
        begins = replica.follower.history.version(state.version).positions.partitions[partition].offset
        skips = read_skips(self.invariants.catalog)
        for p, offset in log.harmed:
            # What the brokers do not hold any more was skipped once, and needs no decision now.
            first = max(begins, log.begin(Partition(p)))
            passed = p == partition and first <= offset < min(state.offset, log.given_again.get(p, state.offset))
            ensure(
                not passed or skips.has(p, offset), f"{replica.name} passed partition {p} offset {offset}, which nobody can read"
            )

    def _announced(self, replica: Any) -> None:
        """A dense slice is served that a version has, or that was announced in every partition before where it stands."""
        info, states = None if replica.dense is None else replica.dense.info, replica.follower.partitions
        if info is None or any(m.dense == info for m in replica.follower.history.trunk):
            return
        for p, state in states.items():
            # Where it was loaded anew, it reads again what it has read.
            before = self.invariants.log.kept[p][: max(state.offset, self._reached[replica, p])]
            ensure(
                any(info.path.encode() in entry.payload for entry in before) or self.invariants.log.lost,
                f"{replica.name} serves dense {info.path}, which was not announced in partition {p} before {state.offset}",
            )


def _is_settled(replica: Any) -> bool:
    return bool(replica._wanted == replica._served.info)


def _empties(version: Manifest, schema: ModelSchema) -> bool:
    return any(not is_read(version, name, schema.table_of(name)) for name in version.changes)


def _partition_of(replica: Any, key: int) -> int:
    schema = replica.follower.schema
    bucket = buckets_of(np.array([key]), schema.buckets)
    return int(partitions_of(bucket, bucket_count=schema.buckets, partition_count=schema.partitions)[0])


def held_by(replica: Any, rows: dict[Key, Row]) -> Rows:
    """Those in the buckets that a replica has."""
    holding = replica.follower.holding
    return {key: row for key, row in rows.items() if holding.holds(np.array([key[1]]))[0]}
