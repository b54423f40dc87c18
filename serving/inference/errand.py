"""Rows of hot keys, asked for from the cluster and merged into what the log goes on writing. Knows no thread.

What a replica says of its positions proves an answer: it has all that the log had when the rows were asked for, and once this
node has read as far as the log went when the answer came, nothing older can be written over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from penstock.pipeline.core.errors import PenstockError, Unreachable
from penstock.pipeline.core.hashing import buckets_of, partitions_of
from penstock.pipeline.core.ids import Offset, Partition, Timeline, Version
from penstock.slicer.ordering import distinct

from ..answers import Answer
from .edition import Edition
from .hot_table import Sought, Taken
from .members import Keys
from .near_cache import Flags

MOST_KEYS = 100_000
"""Of one errand."""


class Cluster(Protocol):
    """Who has all rows: a `Client`. The answers of one call are of one timeline; with `version`, exactly of that version."""

    def answers(self, keys: Mapping[str, Keys], *, version: Version | None = None) -> Mapping[str, Answer]: ...


@dataclass(slots=True, eq=False)
class Errand:
    """`since`: what this node had read of the log when it was sent. `answers` and `until`, where the log ended after them; or the
    `error` that came instead."""

    edition: Edition
    asked: dict[str, Sought]
    since: Mapping[Partition, Offset]
    answers: Mapping[str, Answer] = field(default_factory=dict)
    until: Mapping[Partition, Offset] = field(default_factory=dict)
    error: PenstockError | None = None
    timeline: Timeline | None = None
    """Of the answers."""
    is_back: bool = False

    @property
    def is_ahead(self) -> bool:
        """The replicas have come to a version that is not shown here yet, and may have what it corrects."""
        return any(answer.version > self.edition.shown.version for answer in self.answers.values())

    @classmethod
    def begin(cls, edition: Edition, *, most: int) -> Errand:
        """Takes some of what is wanted. Between two steps of the edition."""
        asked: dict[str, Sought] = {}
        while edition.wanted and most:
            name, parts = edition.wanted.popitem()
            keys = np.concatenate(parts)
            edition.want(name, keys[most:])
            table = edition.table(name)
            asked[name] = table.sought(distinct([keys[:most][table.members.places(keys[:most]) >= 0]]))
            most -= min(most, keys.size)
        return cls(edition, {name: some for name, some in asked.items() if some.keys.size}, edition.offsets())

    def run(self, cluster: Cluster, end: Callable[[Partition], Offset]) -> None:
        """Asks. `end`: of a partition of the log."""
        edition = self.edition
        try:
            version = edition.shown.version if edition.exact else None
            answers = cluster.answers({name: some.keys for name, some in self.asked.items()}, version=version)
            self.timeline = max((answer.timeline for answer in answers.values()), default=edition.timeline)
            if any(answer.timeline != edition.timeline for answer in answers.values()):
                raise Unreachable(f"the replicas are on timeline {self.timeline}, this node is on {edition.timeline}")
            if any(answer.version < edition.manifest.version for answer in answers.values()):
                raise Unreachable(f"the replicas have not come to version {edition.manifest.version} yet")
            self.until = {} if edition.exact else {partition: end(partition) for partition in self.since}
            self.answers = answers
        except PenstockError as error:
            self.error = error
        self.is_back = True

    def may_settle(self) -> bool:
        """Whether what the log wrote before the answer was read here as well."""
        offsets = self.edition.offsets()
        return all(offsets[p] >= offset or self.edition.stands(p) for p, offset in self.until.items())

    def settle(self) -> Taken:
        """Takes the rows that are proven; what is not is wanted again. Between two steps of the edition."""
        total = Taken()
        for name, sought in self.asked.items():
            answer, table = self.answers.get(name), self.edition.table(name)
            proven = np.zeros(sought.keys.size, np.bool_)
            if answer is not None and answer.rows.shape == (sought.keys.size, table.dim):
                proven = self._proven(answer, sought.keys)
                total = total.plus(table.take(sought, proven, answer.found, answer.rows))
            self.edition.want(name, sought.keys[~proven])
        return total

    def _proven(self, answer: Answer, keys: Keys) -> Flags:
        """bool[n]: the replica had all that this node had of the key's partition."""
        if self.edition.exact:
            return np.ones(keys.size, np.bool_)
        schema = self.edition.schema
        return covered(keys, answer.positions, self.since, buckets=schema.buckets, partitions=schema.partitions)


def covered(
    keys: Keys, positions: Mapping[Partition, Offset], since: Mapping[Partition, Offset], *, buckets: int, partitions: int
) -> Flags:
    """bool[n]: whether `positions` lie at or behind `since` in the partition of each of int64[n] keys."""
    reached = np.zeros(partitions, np.bool_)
    for partition, offset in since.items():
        reached[partition] = positions.get(partition, -1) >= offset
    return np.asarray(reached[partitions_of(buckets_of(keys, buckets), bucket_count=buckets, partition_count=partitions)])
