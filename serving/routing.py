"""Which replica can answer for which buckets. Pure: knows no network, no clock.

Replicas hold ranges of buckets that may overlap in any way, as when a model goes from two shards to three. What is asked for is
cut into segments: as few as the ranges allow, each with all the replicas that hold the whole of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum


class Rank(IntEnum):
    """How gladly a replica is asked. `LATE`: it says that it is not ready, or has not followed a rollback yet."""

    GOOD = 0
    LATE = 1
    DOWN = 2


@dataclass(frozen=True, slots=True)
class Held:
    """The buckets that a replica holds."""

    url: str
    buckets: range
    rank: Rank


@dataclass(frozen=True, slots=True)
class Segment:
    """`urls`: of all the replicas that hold these buckets, in the order given."""

    buckets: range
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Routing:
    """`segments` lie next to each other in the order of buckets; `missing`: the ranges that nobody holds."""

    bucket_count: int
    segments: tuple[Segment, ...]
    missing: tuple[range, ...]


def routed(holders: Sequence[Held], bucket_count: int) -> Routing:
    """Of those who could answer for a bucket, the best rank decides who does; among equals, who holds most of what follows."""
    cuts = sorted({0, bucket_count, *(edge for held in holders for edge in (held.buckets.start, held.buckets.stop))})
    best = {low: _best(held for held in holders if low in held.buckets) for low in cuts[:-1]}
    segments, missing, low = list[Segment](), list[range](), 0
    while low < bucket_count:
        rank = best[low]
        if rank is None:
            high = next(cut for cut in cuts if cut > low)
            missing.append(range(low, high))
        else:
            reach = max(held.buckets.stop for held in holders if low in held.buckets and held.rank == rank)
            high = next((cut for cut in cuts if low < cut < reach and best[cut] != rank), reach)
            urls = tuple(h.url for h in holders if h.buckets.start <= low and h.buckets.stop >= high)
            segments.append(Segment(range(low, high), urls))
        low = high
    return Routing(bucket_count, tuple(segments), tuple(missing))


def _best(holders: Iterable[Held]) -> Rank | None:
    return min((held.rank for held in holders), default=None)
