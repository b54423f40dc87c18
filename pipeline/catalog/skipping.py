"""Decisions to pass over records of the log that cannot be read: made once, never taken back, kept as long as the log has them.

A decision is in the store before the refs move, so whoever reads the refs and then the skips knows all that were made before.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress

from ..core.coordination import Skip
from ..core.documents import decode, encode
from ..core.errors import CommitConflict, Corrupt, InvalidInput, PositionGone, Refused
from ..core.ids import Offset, Partition
from ..core.skips import Skips
from ..ports.log import LogEntry, UpdateLog
from ..ports.settling import put_settled
from ..ports.store import Create
from . import keys
from .catalog import Actor, Catalog
from .reading import read_documents
from .replay import Unreadable, checked, decoded, payloads, record_name

MOST_SKIPS = 10_000
"""A log with more records than this that nobody can read is not one to read around."""


def read_skips(catalog: Catalog) -> Skips:
    """All that are decided."""
    return Skips.of(keys.skipped(entry.key) for entry in catalog.store.list(keys.skips(catalog.model)))


def skip_documents(catalog: Catalog) -> list[Skip]:
    """The decisions, by partition and offset."""
    return read_documents(catalog, Skip, keys.skips(catalog.model))


def skip_record(catalog: Catalog, log: UpdateLog, partition: Partition, offset: Offset, *, actor: Actor) -> Skip:
    """Decides that every reader passes over a record; safe to repeat, the first decision counts. Replicas that stand before it go
    on by themselves. `Refused` when the record can be read, `PositionGone` when the log does not hold it."""
    if not actor.why:
        raise InvalidInput("a skip needs a reason", hint='say --reason "what wrote it"')
    schema = catalog.reload_schema()
    if not 0 <= partition < schema.partitions:
        raise InvalidInput(f"partition {partition}: the log has 0 to {schema.partitions - 1}")
    known = read_skips(catalog)
    if not known.has(partition, offset):
        if sum(map(len, known.offsets.values())) >= MOST_SKIPS:
            raise Refused(f"{MOST_SKIPS} records of the log are skipped already", hint="publish a snapshot, or roll back")
        entry = _entry(log, partition, offset)
        skip = Skip(
            id=catalog.new_id(), log=log.identity, partition=partition, offset=offset, appended_at=entry.appended_at,
            bytes=len(entry.payload), digest=hashlib.blake2b(entry.payload, digest_size=16).hexdigest(),
            rule=_broken_rule(catalog, log, partition, entry), who=actor.who, at=actor.now, why=actor.why,
        )  # fmt: skip
        with suppress(CommitConflict):  # somebody else has decided the same: that decision is read below
            put_settled(catalog.store, keys.skip(catalog.model, partition, offset), encode(skip), Create())
    key = keys.skip(catalog.model, partition, offset)
    decided = decode(Skip, catalog.store.get(key).data, key)
    catalog.barrier(what=f"skipped partition {partition} offset {offset}", actor=actor)
    return decided


def remove_skip(catalog: Catalog, partition: Partition, offset: Offset) -> None:
    """For what the log does not have any more."""
    catalog.store.delete(keys.skip(catalog.model, partition, offset))


def _entry(log: UpdateLog, partition: Partition, offset: Offset) -> LogEntry:
    begin, end = log.begin(partition), log.end(partition)
    if not begin <= offset < end:
        raise PositionGone(
            f"{log.url} partition {partition} holds offsets {begin} to {end - 1}, not {offset}",
            hint="`penstock log inspect` shows more",
        )
    try:
        return next(payloads(log, partition, offset, Offset(offset + 1)))
    except Corrupt as error:
        raise Refused(
            f"{record_name(log, partition, offset)}: the log itself is damaged, there is no record to skip: {error}",
            hint="a newer version leads past it: publish a delta, or roll back to a version",
        ) from error


def _broken_rule(catalog: Catalog, log: UpdateLog, partition: Partition, entry: LogEntry) -> str:
    schema, name = catalog.schema(), record_name(log, partition, entry.offset)
    try:
        found = decoded(entry, partition, frozenset(), schema.raw_id, name)
        next(checked([found], log, schema, partition))
    except Unreadable as error:
        return str(error).removeprefix(f"{name}: ")
    raise Refused(f"{name} holds a good record; only one that cannot be read is skipped", hint="to take it back, roll back")
