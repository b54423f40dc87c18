"""What retention looks at: everything that a model has in its store and log, and who is at work. Reads only.

The order of reading matters. Data is listed before the uploads that own it, so that none seems to have no owner. Refs are read
before pins and presences: who leases a version reads the refs again behind its lease, so either the lease is seen here, or the
refs that its owner goes by.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from penstock.pipeline.catalog import keys, leases
from penstock.pipeline.catalog.catalog import Catalog
from penstock.pipeline.catalog.checkpoints import known_checkpoints
from penstock.pipeline.catalog.reading import read_document
from penstock.pipeline.catalog.replay import record_name, replay_around
from penstock.pipeline.catalog.skipping import read_skips
from penstock.pipeline.config import microseconds
from penstock.pipeline.core.checkpoint import Checkpoint
from penstock.pipeline.core.coordination import Claim, Pin, Presence, Upload
from penstock.pipeline.core.dense import announcement_of
from penstock.pipeline.core.documents import FORMAT, Document
from penstock.pipeline.core.errors import NotFound
from penstock.pipeline.core.history import History
from penstock.pipeline.core.ids import Offset, Partition, Version
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.core.refs import Refs
from penstock.pipeline.core.skips import Skips
from penstock.pipeline.core.times import WallTime
from penstock.pipeline.environment import Environment


class Notes(Document, frozen=True, kw_only=True):
    """`retention.json`: what one run leaves to the next. `unnamed`: since when nothing names these slices that were announced on
    the log. From before the refs are moved until it is clear that nobody leased anything meanwhile, `oldest` and `bases` are
    what they were: as long as these stand here, nothing of them is deleted."""

    format: int = FORMAT
    unnamed: dict[str, WallTime]
    oldest: Version | None = None
    bases: tuple[Version, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """`history` reaches down to what the refs have let go of and may be needed after all, see `Notes`; to `strays`, which are
    manifests, no ref leads. Objects are given with their bytes. `announced_late`: slices announced in the log, known only where
    some have gone unnamed for long."""

    now: WallTime
    window_us: int
    deadline_us: int
    skew_us: int
    refs: Refs
    history: History
    strays: tuple[Manifest, ...]
    pins: tuple[Pin, ...]
    presences: tuple[Presence, ...]
    claim: Claim | None
    uploads: dict[str, Upload]
    checkpoints: tuple[Checkpoint, ...]
    old_checkpoints: dict[str, int]
    data: dict[str, int]
    touched: dict[str, int]
    announced: dict[str, int]
    notes: Notes
    announced_late: frozenset[str]
    skips: Skips
    begins: tuple[Offset, ...]
    ends: tuple[Offset, ...]

    @property
    def overdue(self) -> WallTime:
        """Work that began before this and is not done counts as given up."""
        return WallTime(self.now - self.deadline_us)

    @property
    def sizes(self) -> dict[str, int]:
        return {**self.data, **self.touched, **self.announced}


def take_inventory(env: Environment) -> Inventory:
    catalog, now = env.catalog, env.clock()
    model = catalog.model
    data, touched, announced = (_sizes(catalog, f"{model}/{folder}/") for folder in ("data", "touched", "announced"))
    manifests = _sizes(catalog, keys.versions(model))
    refs = catalog.refs()
    uploads = {upload.id: upload for upload in leases.uploads(catalog)}
    pins = tuple(leases.pins(catalog, now=now))
    notes = read_document(catalog, Notes, notes_key(model)) or Notes(unnamed={})
    history = _history(catalog, refs, notes)
    known = {m.version for m in (*history.trunk, *history.bases.values())}
    others = (Version(keys.number_of(key)) for key in manifests if keys.number_of(key) not in known)
    strays = [_manifest(catalog, version) for version in others if version < refs.trunk]
    markers = _sizes(catalog, keys.checkpoints(model))
    newer = [key for key in markers if keys.number_of(key) >= history.trunk[0].state.marker]
    checkpoints = list(known_checkpoints(catalog, map(keys.number_of, newer)))
    deadline_us = microseconds(env.config.retention.publish_deadline)
    late = [path for path, since in notes.unnamed.items() if since <= now - deadline_us and path in announced]
    return Inventory(
        now=now,
        window_us=microseconds(env.config.recovery.window),
        deadline_us=deadline_us,
        skew_us=microseconds(env.config.realtime.max_event_skew),
        refs=refs,
        history=history,
        strays=tuple(manifest for manifest in strays if manifest is not None),
        pins=pins,
        presences=tuple(leases.presences(catalog, now=now)),
        claim=leases.open_claim(catalog, refs),
        uploads=uploads,
        checkpoints=tuple(checkpoints),
        old_checkpoints={key: size for key, size in markers.items() if key not in newer},
        data=data,
        touched=touched,
        announced=announced,
        notes=notes,
        announced_late=frozenset(_announced_in_log(env)) if late else frozenset(),
        skips=read_skips(catalog),
        begins=tuple(env.log.begin(Partition(p)) for p in range(env.schema.partitions)),
        ends=tuple(env.log.end(Partition(p)) for p in range(env.schema.partitions)),
    )


def notes_key(model: str) -> str:
    return f"{model}/retention.json"


def _sizes(catalog: Catalog, prefix: str) -> dict[str, int]:
    return {entry.key: entry.size for entry in catalog.store.list(prefix)}


def _history(catalog: Catalog, refs: Refs, notes: Notes) -> History:
    """As `Catalog.history`, but with what a run has let go of that did not come to its end."""
    oldest = refs.oldest if notes.oldest is None else min(refs.oldest, notes.oldest)
    try:
        return catalog.history(msgspec.structs.replace(refs, oldest=oldest, bases=(*notes.bases, *refs.bases)))
    except NotFound:
        return catalog.history(refs)  # another run, which knew what it did, has deleted it


def _manifest(catalog: Catalog, version: Version) -> Manifest | None:
    try:
        return catalog.manifest(version)
    except NotFound:
        return None  # another retention run was quicker


def _announced_in_log(env: Environment) -> Iterator[str]:
    """The slices announced in what the log still holds. An announcement stands in every partition, so one is read."""
    partition = Partition(0)
    start, end = env.log.begin(partition), env.log.end(partition)
    for offset, record, _ in replay_around(env.log, env.schema, partition, start, end, read_skips(env.catalog)):
        if record.kind == RecordKind.DENSE:
            yield announcement_of(record, record_name(env.log, partition, offset)).path


def folder_of(key: str) -> str:
    """The name of the folder below which an object of data or of touched keys stands."""
    return os.path.normpath(key).split("/")[2]
