"""Reading a stretch of the update log again, decoded: for resumes, folds and rollbacks, which know where they end."""

from __future__ import annotations

from collections.abc import Iterator

from ..core.errors import Corrupt, Unreachable
from ..core.history import Entry, History, LivePath
from ..core.ids import Offset, Partition, Timeline
from ..core.records import decode_record
from ..core.schema import ModelSchema
from ..ports.log import UpdateLog

POLL_S = 5.0
SILENT_POLLS = 6
"""How many polls may bring nothing, though records are known to be there, before the log counts as unreachable."""
CHUNK_BYTES = 8 << 20


def record_name(log: UpdateLog, partition: Partition, offset: Offset) -> str:
    """What an error calls a record."""
    return f"{log.url} partition {partition} offset {offset}"


def replay_live(
    log: UpdateLog, schema: ModelSchema, history: History, partition: Partition, start: Offset, timeline: Timeline, end: Offset
) -> Iterator[Entry]:
    """As `replay`, but only what counts on the live path; dead ranges are not even read."""
    path = LivePath(history, partition, offset=start, timeline=timeline)
    while path.offset < end:
        for entry in replay(log, schema, partition, path.offset, end):
            expected = Offset(entry.offset + 1)
            if (found := path.step(entry)) is not None:
                yield found
            if path.offset != expected:
                break  # a rollback: go on behind it


def replay(log: UpdateLog, schema: ModelSchema, partition: Partition, start: Offset, end: Offset) -> Iterator[Entry]:
    """The records of [start, end), which must exist, in order and in bounded memory. `PositionGone` when they were cut off."""
    at, silent, model_id = start, 0, schema.raw_id
    while at < end:
        found = log.poll({partition: at}, timeout_s=POLL_S, max_bytes=CHUNK_BYTES).get(partition, ())
        silent = 0 if found else silent + 1
        if silent > SILENT_POLLS:
            raise Unreachable(f"{log.url} partition {partition}: offset {at} was not delivered, its end is {end}")
        for offset, appended_at, payload in found:
            if offset >= end:
                return
            if offset < at:
                raise Corrupt(f"{record_name(log, partition, offset)}: delivered though {at} was asked for")
            name = record_name(log, partition, offset)
            yield Entry(offset, decode_record(payload, model_id=model_id, partition=partition, name=name), appended_at)
            at = Offset(offset + 1)
