"""One answer from one edition: its hot rows, its near caches, and the cluster for the rest. Changes nothing but near caches; from
any thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import InvalidInput, Refused, Unreachable, VersionGone
from penstock.pipeline.core.ids import Offset, Partition, Timeline, Version
from penstock.pipeline.core.times import WallTime

from ..answers import Answer
from ..pooling import pooled
from .edition import Edition, Shown
from .errand import Cluster, covered
from .hot_table import HotTable
from .inputs import Checked, Inputs, Sources
from .members import Keys
from .missing import Missing
from .near_cache import Flags, Rows

T = TypeVar("T", bound=np.generic)
Unreached = Literal["refuse", "defaults"]
"""What becomes of keys that nobody can be asked for."""


class Elsewhere(Exception):
    """The cluster is on another `timeline`, None: or does not hold the version any more. Caught inside the node."""

    def __init__(self, timeline: Timeline | None, reason: str) -> None:
        super().__init__(reason)
        self.timeline = timeline


def _joined(arrays: Sequence[NDArray[T]]) -> NDArray[T]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


@dataclass(slots=True)
class _Part:
    """One feature while it is gathered."""

    wanted: Checked
    table: HotTable
    rows: Rows
    known: Flags
    found: Flags


@dataclass(slots=True)
class Gathering:
    """`trusts`: whether the hot rows are as new as the cluster's, as far as can be told; if not they count only where the cluster
    does not answer."""

    edition: Edition
    cluster: Cluster
    now: WallTime
    trusts: bool
    _parts: dict[str, _Part] = field(init=False, default_factory=dict)

    def gather(self, wanted: Mapping[str, Checked], unreached: Unreached) -> Inputs:
        shown, sources = self.edition.shown, Sources()
        for name, some in wanted.items():
            self._parts[name] = self._part(some)
        if self.trusts:
            sources = self._local()
        missing = self._missing()
        if missing:
            tickets = {name: self.edition.table(name).near.tickets(some.keys) for name, some in missing.items()}
            passed = {} if self.edition.exact else self.edition.passed()  # after the tickets
            try:
                answers = self.cluster.answers({name: some.keys for name, some in missing.items()}, version=self._version(shown))
            except VersionGone as error:
                if not self.edition.exact:
                    raise
                raise Elsewhere(None, str(error)) from None
            except Unreachable as error:
                sources = self._without(sources, error, unreached)
            else:
                sources = sources.plus(self._merge(missing, answers, tickets, passed))
        return self._inputs(shown, sources)

    def _version(self, shown: Shown) -> Version | None:
        return shown.version if self.edition.exact else None

    def _part(self, wanted: Checked) -> _Part:
        schema = self.edition.schema
        table = self.edition.table(wanted.table)
        if wanted.hashed and schema.table(self.edition.manifest.generation(wanted.table)).keys != "string":
            raise InvalidInput(f"table {wanted.table}: its keys are numbers, and texts were asked for")
        count = wanted.keys.size
        known, found = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        return _Part(wanted, table, np.empty((count, table.dim), np.float32), known, found)

    # ---- in this process -------------------------------------------------------------------------------------------------

    def _local(self) -> Sources:
        hot = near = 0
        for part in self._parts.values():
            part.known, part.found = part.table.lookup(part.wanted.keys, part.rows)
            hot += int(np.count_nonzero(part.known))
            if not part.known.all():
                near += part.table.near.get(part.wanted.keys, self.now, known=part.known, found=part.found, out=part.rows)
        return Sources(hot=hot, near=near)

    def _missing(self) -> dict[str, Missing]:
        """By table."""
        found: dict[str, list[_Part]] = {}
        for part in self._parts.values():
            if not part.known.all():
                found.setdefault(part.wanted.table, []).append(part)
        return {
            name: Missing.of(_joined([part.wanted.keys for part in parts]), _joined([part.known for part in parts]))
            for name, parts in found.items()
        }

    def _without(self, sources: Sources, error: Unreachable, unreached: Unreached) -> Sources:
        """Nobody answers: the hot rows count as they are, and of the rest there is nothing, or the defaults."""
        if not self.trusts and self.edition.caught_up:
            sources = self._local()
        lacking = sum(int(np.count_nonzero(~part.known)) for part in self._parts.values())
        if lacking and unreached == "refuse":
            total = sum(part.known.size for part in self._parts.values())
            raise Unreachable(
                f"{lacking} of {total} keys are not among the hot rows, and the cluster does not answer: {error}",
                hint='ask for defaults in their place (unreached="defaults"), or start replicas',
            ) from None
        for part in self._parts.values():
            part.rows[~part.known] = 0
            part.known[:] = True
        return sources.plus(Sources(defaults=lacking))

    # ---- from the cluster ------------------------------------------------------------------------------------------------

    def _merge(
        self,
        missing: Mapping[str, Missing],
        answers: Mapping[str, Answer],
        tickets: Mapping[str, Keys],
        passed: Mapping[Partition, Offset],
    ) -> Sources:
        for answer in answers.values():
            if answer.timeline != self.edition.timeline:
                reason = f"the replicas are on timeline {answer.timeline}, this node is on {self.edition.timeline}"
                raise Elsewhere(answer.timeline, reason)
        asked = 0
        for name, (keys, places) in missing.items():
            answer, table, begin = answers[name], self.edition.table(name), 0
            if answer.rows.shape[1] != table.dim:
                raise Elsewhere(None, f"table {name} has another shape by now")
            proven = self._proven(keys, answer, passed)
            table.near.put(keys, answer.found, answer.rows, proven=proven, tickets=tickets[name], now=self.now)
            for part in (part for part in self._parts.values() if part.wanted.table == name):
                end = begin + int(np.count_nonzero(~part.known))
                own = Missing(keys, places[begin:end])
                own.spread(part.known, answer.rows, answer.found, part.rows, part.found)
                begin = end
            asked += begin
        return Sources(cluster=asked)

    def _proven(self, keys: Keys, answer: Answer, passed: Mapping[Partition, Offset]) -> Flags:
        """bool[n]: the answer has all that the near cache was told of the key's partition."""
        if self.edition.exact:
            return np.ones(keys.size, np.bool_)
        schema = self.edition.schema
        return covered(keys, answer.positions, passed, buckets=schema.buckets, partitions=schema.partitions)

    # ---- all of it -------------------------------------------------------------------------------------------------------

    def _inputs(self, shown: Shown, sources: Sources) -> Inputs:
        rows = {}
        for name, part in self._parts.items():
            self._fill(part)
            bags = part.wanted.bags
            rows[name] = (
                part.rows if bags is None else pooled(part.rows, bags, np.empty((bags.offsets.size, part.table.dim), np.float32))
            )
        return Inputs(
            rows, {name: part.found for name, part in self._parts.items()}, shown.dense.tensors, shown.version,
            self.edition.timeline, sources,
        )  # fmt: skip

    def _fill(self, part: _Part) -> None:
        """What the table gives for keys without a row."""
        wanted = part.wanted
        absent = self.edition.schema.table(self.edition.manifest.generation(wanted.table)).absent
        if absent == "zeros" or part.found.all():
            return
        gone = ~part.found
        if absent == "refuse":
            raise Refused(
                f"table {wanted.table} has no key {int(wanted.keys[gone][0])} ({int(gone.sum())} of {gone.size} are unknown)"
            )
        part.rows[gone] = np.asarray(absent, np.float32)
