"""Which generation of a table is read while partitions stand at different versions: one that has its rows in all of them.
Knows no rows. One thread tells it where partitions stand; readers take `current` as it is.

A version that brings another shape leaves the generation before as it is, so both are whole where it was adopted. The older one
is read until the last partition has adopted it. A rollback, which restores one and empties the other, has none that is whole
everywhere for as long as it is on its way: readers wait then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import NamedTuple

from penstock.pipeline.core.history import History
from penstock.pipeline.core.ids import Partition, Version
from penstock.pipeline.core.manifest import Manifest

NONE = ""
"""In the place of a generation: none is whole in all partitions."""


class Whole(NamedTuple):
    """Of one table: the generation that readers should take, and those that have all of its rows; None: it has no rows."""

    first: str
    among: frozenset[str] | None


Standing = Mapping[Partition, tuple[Version, Mapping[str, Whole]]]


def whole_at(manifest: Manifest, history: History) -> dict[str, Whole]:
    """What is whole in a partition that stands at a version; a table that is missing has its first generation alone."""
    base = next((m for m in history.trunk if m.version == manifest.base), None)
    before = base if base is not None and manifest.rollback is None else manifest
    found = {}
    for table in {*manifest.shapes, *manifest.retired, *before.shapes, *before.retired}:
        first = manifest.generation(table)
        among = {first} if table in before.retired else {first, before.generation(table)}
        found[table] = Whole(first, None if table in manifest.retired else frozenset(among))
    return found


@dataclass(slots=True)
class Generations:
    """`current`: the generation to read of every table that has another than its first in some partition. It is replaced, never
    changed, and before anything is written that makes it wrong: a reader who finds the same one before and after has read
    whole rows."""

    current: Mapping[str, str] = field(default_factory=dict)
    _standing: Standing = field(default_factory=dict)

    def stand(self, partition: Partition, manifest: Manifest, history: History) -> None:
        """The partition has come to a version."""
        self._publish({**self._standing, partition: (manifest.version, whole_at(manifest, history))})

    def leave(self, partition: Partition, manifest: Manifest, history: History) -> None:
        """The partition is about to be made that of another version."""
        if partition in self._standing:
            self._publish(self._left(partition, manifest, history))

    def must_wait(self, partition: Partition, manifest: Manifest, history: History) -> bool:
        """Whether the partition would leave no generation of a table whole everywhere if it adopted a version now, and others
        are behind it, which change that."""
        behind = any(version < self._standing[partition][0] for version, _ in self._standing.values())
        return behind and NONE in _resolved(self._left(partition, manifest, history)).values()

    def _left(self, partition: Partition, manifest: Manifest, history: History) -> Standing:
        (version, here), there = self._standing[partition], whole_at(manifest, history)
        both = {table: _both(_of(here, table), _of(there, table)) for table in {*here, *there}}
        return {**self._standing, partition: (version, both)}

    def _publish(self, standing: Standing) -> None:
        self._standing, found = standing, _resolved(standing)
        if found != self.current:
            self.current = found


def _of(whole: Mapping[str, Whole], table: str) -> Whole:
    return whole.get(table) or Whole(table, frozenset({table}))


def _both(one: Whole, other: Whole) -> Whole:
    if one.among is None or other.among is None:
        return Whole(one.first, other.among if one.among is None else one.among)
    return Whole(one.first, one.among & other.among)


def _resolved(standing: Standing) -> dict[str, str]:
    """Of the generations that are whole everywhere, the one that the partition furthest behind takes first."""
    found = {}
    for table in {table for _, whole in standing.values() for table in whole}:
        in_order = [_of(whole, table) for _, whole in sorted(standing.values(), key=lambda each: each[0])]
        everywhere = reduce(_both, in_order)
        usual = [each.first for each in in_order if everywhere.among is None or each.first in everywhere.among]
        found[table] = next(iter([*usual, *sorted(everywhere.among or ())]), NONE)
    return found
