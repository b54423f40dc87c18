"""What a replica says of itself, to people and to machines. Light: an inference service imports it without the replica."""

from __future__ import annotations

import msgspec

from penstock.pipeline.core.ids import Version
from penstock.pipeline.core.schema import KeyType


class PartitionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A partition's position, lag and freshness, and what was dropped, held and refused in it.

    `lag_ms`: from written to readable; `silence_s`: since the log took the record that was read last. `digests`: per table, in
    hex, the sum over its buckets at the replica's `version`."""

    partition: int
    offset: int
    end: int
    version: int
    timeline: int
    lag_records: int
    lag_ms: float | None
    trained_through: str
    freshness_s: float | None
    silence_s: float | None
    digests: dict[str, str]
    alarm: str
    counters: dict[str, int]


class TableStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`keys`: what they are to those who ask."""

    rows: int
    dim: int
    bytes: int
    keys: KeyType = "int64"


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Of the lookups of the last minute, from when their keys had come until their rows were ready to go, waiting included. None:
    there were none."""

    lookups: int
    p50_ms: float | None
    p99_ms: float | None


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What a server has done since it began: `lookups` that were answered, of so many `keys`; `shed` for want of room or time;
    `refused` for what was asked; `failed` for no fault of the caller. And what it does: `calls` that are open, lookups that are
    `running`, and `waiting` for their turn."""

    lookups: int
    keys: int
    shed: int
    refused: int
    failed: int
    calls: int
    running: int
    waiting: int
    latency: Latency


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a replica should be asked; if not, `why`. `leaving`: it drains, and will be gone soon. `buckets`: the first it
    holds, and one past the last, of `bucket_count`. `failure`: it will not recover by itself. `neighbourhood`: it can write into
    memory that a process offers which says the same of itself; "": of none."""

    replica: str
    ready: bool
    why: str
    leaving: bool
    version: int
    timeline: int
    buckets: tuple[int, int]
    failure: str = ""
    load: Load | None = None
    model: str
    bucket_count: int
    neighbourhood: str = ""


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`digest`: at `version`, the newest that every partition has adopted; `table_digests` the same, a table each, in hex.
    None, and empty, where it is not known: a delta corrected rows that had been written again behind its marker.
    `failure`: what it cannot go on without, "" while it runs. `why`: what makes it unready. `load`: of the server asked."""

    replica: str
    model: str
    ref: str
    address: str
    ready: bool
    version: Version
    state: str
    timeline: int
    digest: str | None
    table_digests: dict[str, str]
    dense: str | None
    buckets: tuple[int, int]
    tables: dict[str, TableStatus]
    partitions: tuple[PartitionStatus, ...]
    failure: str
    why: str = ""
    leaving: bool = False
    load: Load | None = None
