"""What an inference node says of itself. Changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from .node import InferenceNode


class HotStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Of one table: keys that are hot, their rows that are here, and bytes."""

    keys: int
    rows: int
    bytes: int
    near_bytes: int


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`trusts`: hot rows are as new as the log. `hits`: keys by where they were answered. `proof`: hot rows that were asked for
    from the cluster: `new`, the `same` bit by bit, `changed` by what a version brought beside the log, `passed` by the log
    meanwhile; `differing`: changed for no such reason, which should not be. `editions`: how many there were. `trouble`: what it
    waits for, `failure`: what it cannot go on without."""

    version: int
    timeline: int
    dense: str | None
    trusts: bool
    wanted: int
    tables: dict[str, HotStatus]
    hits: dict[str, int]
    hit_ratio: float
    proof: dict[str, int]
    differing: int
    editions: int
    lag_ms: float
    alarm: str
    trouble: str
    failure: str


def status_of(node: InferenceNode) -> NodeStatus:
    edition, editions, sources = node.edition, node.editions, node.sources
    info = edition.shown.dense.info
    return NodeStatus(
        version=edition.shown.version, timeline=edition.timeline, dense=None if info is None else info.digest,
        trusts=node.trusts(edition), wanted=sum(keys.size for parts in list(edition.wanted.values()) for keys in parts),
        tables={
            name: HotStatus(keys=table.members.keys.size, rows=table.row_count, bytes=table.nbytes, near_bytes=table.near.nbytes)
            for name, table in edition.tables.items()
        },
        hits={"hot": sources.hot, "near": sources.near, "cluster": sources.cluster, "defaults": sources.defaults},
        hit_ratio=sources.hit_ratio, proof=editions.taken._asdict(), differing=editions.differing, editions=1 + editions.swaps,
        lag_ms=max(0, node.env.clock() - editions.current_at) / 1000, alarm=edition.alarm, trouble=editions.trouble,
        failure="" if node.failure is None else str(node.failure),
    )  # fmt: skip
