"""Reading a stretch of the update log again, decoded: for resumes, folds and rollbacks, which know where they end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..core.errors import Corrupt, Unreachable, Unsupported
from ..core.history import Entry, History, LivePath
from ..core.ids import Offset, Partition, Timeline
from ..core.record_rules import check_record
from ..core.records import decode_record, skipped_record
from ..core.schema import ModelSchema
from ..core.skips import Skips
from ..ports.log import LogEntry, UpdateLog

POLL_S = 5.0
SILENT_POLLS = 6
"""How many polls may bring nothing, though records are known to be there, before the log counts as unreachable."""
CHUNK_BYTES = 8 << 20


class Unreadable(Corrupt):
    """A record that cannot be read, and that nobody has decided to skip."""

    def __init__(self, message: str, partition: Partition, offset: Offset) -> None:
        super().__init__(message, hint=f"`penstock log skip --partition {partition} --offset {offset} --reason …` passes over it")
        self.partition, self.offset = partition, offset


def record_name(log: UpdateLog, partition: Partition, offset: Offset) -> str:
    """What an error calls a record."""
    return f"{log.url} partition {partition} offset {offset}"


def replay_live(
    log: UpdateLog,
    schema: ModelSchema,
    history: History,
    partition: Partition,
    start: Offset,
    timeline: Timeline,
    end: Offset,
    skips: Skips,
) -> Iterator[Entry]:
    """As `replay`, but only what counts on the live path; dead ranges are not even read, what is skipped is left out."""
    path = LivePath(history, partition, offset=start, timeline=timeline)
    while path.offset < end:
        for entry in replay(log, schema, partition, path.offset, end, skips):
            expected = Offset(entry.offset + 1)
            if (found := path.step(entry)) is not None:
                yield found
            if path.offset != expected:
                break  # a rollback: go on behind it


def replay(
    log: UpdateLog, schema: ModelSchema, partition: Partition, start: Offset, end: Offset, skips: Skips
) -> Iterator[Entry]:
    """The records of [start, end), which must exist, in order and in bounded memory; in the place of each that is skipped one of
    kind SKIPPED. `PositionGone` when they were cut off, `Unreadable` at the first that cannot be read."""
    skipped, raw_id = skips.of_partition(partition), schema.raw_id
    for entry in payloads(log, partition, start, end):
        yield decoded(entry, partition, skipped, raw_id, record_name(log, partition, entry.offset))


def replay_around(
    log: UpdateLog, schema: ModelSchema, partition: Partition, start: Offset, end: Offset, skips: Skips
) -> Iterator[Entry]:
    """As `replay`, where no reader can have taken what cannot be read: it counts as skipped."""
    skipped, raw_id = skips.of_partition(partition), schema.raw_id
    for entry in payloads(log, partition, start, end):
        try:
            yield decoded(entry, partition, skipped, raw_id, record_name(log, partition, entry.offset))
        except Unreadable:
            yield Entry(entry.offset, skipped_record(partition, entry.appended_at), entry.appended_at)


def decoded(entry: LogEntry, partition: Partition, skipped: frozenset[Offset], model_id: bytes, name: str) -> Entry:
    """What readers make of one record: what it says, or, where it is `skipped`, a record that stands for it. `Unreadable`."""
    offset, appended_at, payload = entry
    if offset in skipped:
        return Entry(offset, skipped_record(partition, appended_at), appended_at)
    try:
        return Entry(offset, decode_record(payload, model_id=model_id, partition=partition, name=name), appended_at)
    except (Corrupt, Unsupported) as error:
        raise Unreadable(str(error), partition, offset) from error


def checked(entries: Iterable[Entry], log: UpdateLog, schema: ModelSchema, partition: Partition) -> Iterator[Entry]:
    """The entries; `Unreadable` at the first that a replica could not take. `schema` is as new as the entries."""
    for entry in entries:
        try:
            check_record(entry.record, schema, record_name(log, partition, entry.offset))
        except Corrupt as error:
            raise Unreadable(str(error), partition, entry.offset) from error
        yield entry


def payloads(log: UpdateLog, partition: Partition, start: Offset, end: Offset) -> Iterator[LogEntry]:
    """The records of [start, end) as they are, which must exist, in order and in bounded memory."""
    at, silent = start, 0
    while at < end:
        found = log.poll({partition: at}, timeout_s=POLL_S, max_bytes=CHUNK_BYTES).get(partition, ())
        silent = 0 if found else silent + 1
        if silent > SILENT_POLLS:
            raise Unreachable(f"{log.url} partition {partition}: offset {at} was not delivered, its end is {end}")
        for entry in found:
            if entry.offset >= end:
                return
            if entry.offset < at:
                raise Corrupt(f"{record_name(log, partition, entry.offset)}: delivered though {at} was asked for")
            yield entry
            at = Offset(entry.offset + 1)
