"""The proofs: what replicas hold and serve after a rollback, against what the trainer had before the poison.

The expected digest is computed from the trainer's own copy of its rows; nothing of it comes from the log, the store or a
replica. A replica's is taken twice: as it states it, and over every row that it serves when it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.pipeline.catalog.replay import replay
from penstock.pipeline.catalog.skipping import read_skips
from penstock.pipeline.core.errors import PenstockError
from penstock.pipeline.core.hashing import add_puts, digest_text
from penstock.pipeline.core.ids import Offset, Partition
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.environment import Environment
from penstock.serving.status import PartitionStatus
from penstock.slicer.dense import dense_digest

from .inference import Asked
from .keys import Keys
from .model import Floats
from .staging import awaited
from .trainer import TrainerState

ACK_S = READ_S = 30.0


def digest_of(tables: Mapping[str, tuple[Keys, Floats]], dense: str, *, buckets: int) -> str:
    """Of a state: per table int64[n] keys and float32[n, 16] rows, and the digest of the dense slice."""
    found = {table: np.zeros(buckets, np.uint64) for table in tables}
    for table, (keys, rows) in tables.items():
        add_puts(found[table], keys, np.ascontiguousarray(rows, "<f4").view(np.uint8))
    return digest_text(found, (dense,))


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the trainer had; `dense` is the slice that it had put last."""

    state: TrainerState
    dense: Mapping[str, Floats]

    def digest(self, buckets: int) -> str:
        tables = {name: (table.keys, table.rows) for name, table in self.state.tables.items()}
        return digest_of(tables, dense_digest(self.dense), buckets=buckets)

    def served_digest(self, replica: Asked, buckets: int) -> str:
        """The digest over the rows that `replica` serves for all these keys. `PenstockError` when it does not have one of them,
        or has others besides."""
        status, tables = replica.status(), {}
        for name, table in self.state.tables.items():
            rows, found = replica.client.lookup(name, table.keys)
            there = status.tables[name].rows
            if not found.all() or there != table.keys.size:
                missing = int((~found).sum())
                raise PenstockError(
                    f"{replica.name}: table {name} has {there} rows and lacks {missing} of the {table.keys.size} from before"
                )
            tables[name] = (table.keys, rows)
        return digest_of(tables, replica.client.dense()[0], buckets=buckets)


def send_again(env: Environment, rollback: Manifest, *, most: int) -> int:
    """Appends up to `most` records of rows that the rollback took back once more, byte by byte, as a broker's late retry or a
    zombie would; returns how many those were."""
    assert rollback.rollback is not None
    late, skips = [], read_skips(env.catalog)
    for p, (cut, fence) in enumerate(zip(rollback.rollback.cut, rollback.rollback.fence, strict=True)):
        partition = Partition(p)
        entries = replay(env.log, env.schema, partition, cut, fence, skips)
        offsets = [e.offset for e in entries if e.record.kind == RecordKind.ROWS]
        for offset in offsets[: most // env.log.partitions]:
            payload = bytes(env.log.poll({partition: offset}, timeout_s=ACK_S)[partition][0].payload)
            late.append(env.log.append(partition, payload))
    for pending in late:
        pending.result(ACK_S)
    return len(late)


def ignored_at_end(env: Environment, replica: Asked) -> int:
    """Once `replica` has read all that the log holds now: how many records of another timeline it has ignored so far."""
    ends = [env.log.end(Partition(p)) for p in range(env.log.partitions)]
    return awaited(
        f"{replica.name} to read the log to its end", lambda: _ignored(replica.status().partitions, ends), within_s=READ_S
    )


def _ignored(partitions: Sequence[PartitionStatus], ends: Sequence[Offset]) -> int | None:
    if any(found.offset < ends[found.partition] for found in partitions):
        return None
    return sum(found.counters["ignored"] for found in partitions)
