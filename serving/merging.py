"""A lookup in parts: its keys by segment, and the rows of the parts in the order of the keys. Knows no replica, no network."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.ids import Version

from .asked_keys import AskedKeys
from .asking import Part
from .bags import Bags
from .connecting import Rows
from .routing import Routing, Segment
from .wire import LookupRequest, keys_batch

if TYPE_CHECKING:
    from .splitting import Places

Pending = Mapping[int, "Places"] | None
"""By the number of the table, which of its keys are to be asked for; None: all of all tables."""


class AnotherShape(Exception):
    """Parts came with rows of different lengths: some replicas have come to a version with another shape of the table."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part, and the keys that it asks for. `sums`: of these keys, float32[bags, dim] by the number of a pooled table."""

    part: Part
    pending: Pending
    sums: dict[int, NDArray[np.float32]]


@dataclass(slots=True)
class Merging:
    """`wanted`: the keys of each table; `bags`: of those that are pooled. `rows`, `found`: what has come of each so far, None
    where nothing has; `dims`: how long the rows are."""

    wanted: Mapping[str, AskedKeys]
    bags: Mapping[str, Bags] = field(default_factory=dict)
    rows: list[NDArray[np.float32] | None] = field(init=False)
    found: list[NDArray[np.bool_] | None] = field(init=False)
    dims: dict[int, int] = field(init=False)
    _changing: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begins anew."""
        self.rows, self.found, self.dims = [None] * len(self.wanted), [None] * len(self.wanted), {}

    def pieces(self, routing: Routing, pending: Pending, *, version: Version | None, timeout_ms: int) -> list[Piece]:
        """What to ask each segment for."""
        numbers = range(len(self.wanted))
        if pending is None and len(routing.segments) == 1:
            keys = {number: asked.keys for number, asked in zip(numbers, self.wanted.values(), strict=True)}
            return [self._piece(routing.segments[0], keys, None, version, timeout_ms)]
        from .splitting import split

        edges = [0, *(segment.buckets.stop for segment in routing.segments)]
        shares = {
            number: split(asked.keys, None if pending is None else pending[number], edges, routing.bucket_count)
            for number, asked in zip(numbers, self.wanted.values(), strict=True)
            if pending is None or number in pending
        }
        pieces = list[Piece]()
        for at, segment in enumerate(routing.segments):
            own = {number: share[at] for number, share in shares.items() if share[at].keys.size}
            if not pieces:  # somebody must say that a table exists of which no key is asked for
                own |= {number: share[at] for number, share in shares.items() if not any(s.keys.size for s in share)}
            if own:
                keys, places = {n: share.keys for n, share in own.items()}, {n: share.places for n, share in own.items()}
                pieces.append(self._piece(segment, keys, places, version, timeout_ms))
        return pieces

    def _piece(
        self, segment: Segment, keys: Mapping[int, NDArray[np.int64]], pending: Pending, version: Version | None, timeout_ms: int
    ) -> Piece:
        names = list(self.wanted)
        tables = tuple(names[number] for number in keys)
        bags = [self._share_of_bags(names[n], None if pending is None else pending[n]) for n in keys] if self.bags else []
        request = LookupRequest(
            tables=tables, version=version, hashed=tuple(name for name in tables if self.wanted[name].hashed),
            timeout_ms=timeout_ms, pooling=tuple(None if some is None else some.pooling for some in bags) if any(bags) else (),
        )  # fmt: skip
        sums = dict[int, NDArray[np.float32]]()
        part = Part(
            segment=segment, request=request, keys=keys_batch(list(keys.values()), bags),
            size=sum(some.size for some in keys.values()),
            take=self._take_all if pending is None else lambda found: self._take(pending, found, sums),
        )  # fmt: skip
        return Piece(part, pending, sums)

    def _share_of_bags(self, table: str, places: Places | None) -> Bags | None:
        """The bags with the keys at `places` only, whose sums are to be added to those of other shares."""
        bags = self.bags.get(table)
        if bags is None or places is None:
            return bags
        return Bags(np.searchsorted(places, bags.offsets).astype(np.int64), "sum")

    def _take_all(self, found: Rows) -> None:
        self.rows, self.found = [rows for rows, _ in found], [there for _, there in found]

    def _take(self, pending: Mapping[int, Places], found: Rows, sums: dict[int, NDArray[np.float32]]) -> None:
        from .splitting import put_rows

        names = list(self.wanted)
        for (number, places), (rows, there) in zip(pending.items(), found, strict=True):
            all_rows, all_found = self._room(number, names[number], rows.shape[1])
            if all_rows is None:
                sums[number], all_found[places] = rows, there
            else:
                put_rows(rows, there, places, all_rows, all_found)

    def _room(self, number: int, table: str, dim: int) -> tuple[NDArray[np.float32] | None, NDArray[np.bool_]]:
        """Where rows of a table go, None where they are pooled, and where it goes which there are."""
        count = self.wanted[table].keys.size
        with self._changing:
            if self.dims.setdefault(number, dim) != dim:
                raise AnotherShape
            rows, found = self.rows[number], self.found[number]
            if found is None:
                found = self.found[number] = np.empty(count, np.bool_)
            if rows is None and table not in self.bags:
                rows = self.rows[number] = np.empty((count, dim), np.float32)
            return rows, found

    def pool(self, pieces: Sequence[Piece]) -> None:
        """Adds up what `pieces`, which have all keys between them, brought for bags."""
        for number, (table, asked) in enumerate(self.wanted.items()):
            bags, sums = self.bags.get(table), [piece.sums[number] for piece in pieces if number in piece.sums]
            if bags is None or not sums:
                continue
            total = sums[0].copy()
            for some in sums[1:]:
                total += some
            if bags.pooling == "mean":
                sizes = np.diff(bags.offsets, append=asked.keys.size)
                total /= np.maximum(sizes, 1).astype(np.float32)[:, None]
            self.rows[number] = total


def together(pendings: Sequence[Pending]) -> Pending:
    """All that some of them ask for."""
    if None in pendings:
        return None
    numbers = {number for some in pendings if some is not None for number in some}
    return {n: np.concatenate([some[n] for some in pendings if some is not None and n in some]) for n in sorted(numbers)}
