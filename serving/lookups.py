"""Answers lookups from the tables of a replica, in the callers' threads and without a lock. Knows no log, no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import InvalidInput, NotFound, Refused, VersionGone
from penstock.pipeline.core.ids import Partition, State, Version
from penstock.pipeline.core.manifest import Manifest

from .answers import Answer
from .follower import Follower
from .table import Keys, Table

Wanted = Sequence[tuple[str, Keys]]
"""Tables and their keys (int64[n])."""


@dataclass(slots=True)
class Lookups:
    """`most_keys` bounds one request. `shown`: the one version that readers of a ref that follows versions see."""

    follower: Follower
    most_keys: int
    shown: Manifest | None = None

    def answer(self, wanted: Wanted, version: Version | None) -> list[Answer]:
        """One answer for each table, all of one version; their rows lie next to each other in memory, in this order."""
        tables = self._checked(wanted)
        sizes = [table.dim * keys.size for table, (_, keys) in zip(tables, wanted, strict=True)]
        ends = np.cumsum([0, *sizes]).tolist()
        whole = np.empty(ends[-1], np.float32)
        out = [
            whole[low : low + size].reshape(keys.size, table.dim)
            for low, size, table, (_, keys) in zip(ends, sizes, tables, wanted, strict=False)
        ]
        if version is not None:
            manifest = self._exactly(version)
            labels = self._labels(manifest)
            found = self._at(tables, wanted, labels, out)
            self._labels(manifest)  # a row that was corrected meanwhile would not be the version's
            reached, timeline = version, manifest.timeline
        elif self.shown is not None:
            manifest, found = self._as_shown(tables, wanted, out)
            reached, timeline = manifest.version, manifest.timeline
        else:
            states = self.follower.partitions.values()
            reached, timeline = min(state.version for state in states), min(state.timeline for state in states)
            found = [table.lookup(keys, rows)[1] for table, (_, keys), rows in zip(tables, wanted, out, strict=True)]
        for (name, keys), rows, there in zip(wanted, out, found, strict=True):
            self._fill(name, keys, rows, there)
        return [Answer(rows, there, reached, timeline) for rows, there in zip(out, found, strict=True)]

    def _checked(self, wanted: Wanted) -> list[Table]:
        holding = self.follower.holding
        for name, keys in wanted:
            if keys.dtype != np.int64 or keys.ndim != 1:
                raise InvalidInput(f"table {name}: keys are {keys.dtype}{list(keys.shape)}, need int64[n]")
        if (total := sum(keys.size for _, keys in wanted)) > self.most_keys:
            raise Refused(f"{total} keys in one lookup, at most {self.most_keys}", hint="ask for them in parts")
        tables = []
        for name, keys in wanted:
            if name not in holding.tables:
                holding.schema.table(name)
                raise NotFound(f"table {name} is not loaded yet")
            if not holding.is_complete and not (held := holding.holds(keys)).all():
                first, last = holding.buckets.start, holding.buckets.stop - 1
                raise Refused(f"key {int(keys[~held][0])} lies in no bucket that this replica holds ({first}-{last})")
            tables.append(holding.tables[name])
        return tables

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

    def _as_shown(
        self, tables: Sequence[Table], wanted: Wanted, out: Sequence[NDArray[np.float32]]
    ) -> tuple[Manifest, list[NDArray[np.bool_]]]:
        while True:
            manifest = self.shown
            assert manifest is not None
            try:
                return manifest, self._at(tables, wanted, dict.fromkeys(self.follower.partitions, manifest.state), out)
            except VersionGone:
                if self.shown is manifest:
                    raise
                # Another one is shown by now.

    def _at(
        self,
        tables: Sequence[Table],
        wanted: Wanted,
        labels: dict[Partition, State],
        out: Sequence[NDArray[np.float32]],
    ) -> list[NDArray[np.bool_]]:
        return [table.lookup_at(labels, keys, rows)[1] for table, (_, keys), rows in zip(tables, wanted, out, strict=True)]

    def _fill(self, table: str, keys: Keys, rows: NDArray[np.float32], found: NDArray[np.bool_]) -> None:
        absent = self.follower.schema.table(table).absent
        if absent == "zeros" or found.all():
            return
        missing = ~found
        if absent == "refuse":
            raise Refused(f"table {table} has no key {int(keys[missing][0])} ({int(missing.sum())} of {len(keys)} are unknown)")
        rows[missing] = np.asarray(absent, np.float32)
