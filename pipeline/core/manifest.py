"""What one version consists of. A manifest is written once and never changed; it names every byte that a reader needs.

A version's rows are a difference to its `base`; where `full` is given, they are also there as a whole. A rollback is a
difference to the base of its recovery, and carries besides the `undo` for those who lived through what is taken back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .digests import digest_text
from .documents import FORMAT, DigestVector, Document
from .ids import Offset, Positions, PublisherId, State, Term, Timeline, Version
from .times import EventTime, WallTime

Kind = Literal["birth", "snapshot", "delta", "rollback", "compaction"]


class NamesInfo(Document, frozen=True, kw_only=True):
    """The texts that the keys of a run stand for (Parquet), one for each of its rows, in their order; `bytes` of the file. The
    keys themselves tell whether they are what was written."""

    path: str
    bytes: int


class RunInfo(Document, frozen=True, kw_only=True, omit_defaults=True):
    """One run: a sorted file of rows or of tombstones. `digest` (16 hex digits) is the sum of its hashes; `bytes` of the file.
    `names`: of the rows of a table whose keys are strings, where they were known."""

    path: str
    kind: Literal["rows", "tombstones"]
    rows: int
    bytes: int
    digest: str
    names: NamesInfo | None = None

    @property
    def files(self) -> dict[str, int]:
        """Every object of the run, with its bytes."""
        return {self.path: self.bytes} | ({} if self.names is None else {self.names.path: self.names.bytes})


class DenseInfo(Document, frozen=True, kw_only=True):
    """A dense slice (safetensors). `digest` is BLAKE2b-128 of the file, in hex."""

    path: str
    bytes: int
    digest: str


class Archive(Document, frozen=True, kw_only=True):
    """A trainer's checkpoint as it was, optimizer state and all: a file, or a folder as a tar. `digest`: BLAKE2b-128, in hex."""

    path: str
    name: str
    packing: Literal["file", "tar"]
    bytes: int
    digest: str


class TableChange(Document, frozen=True, kw_only=True):
    """What a version writes to one table: runs of rows and of tombstones, every key at most once.
    `interval` is the digest per bucket of the (key, op, row) written."""

    runs: tuple[RunInfo, ...] = ()
    interval: DigestVector

    @property
    def rows(self) -> int:
        return sum(run.rows for run in self.runs if run.kind == "rows")

    @property
    def tombstones(self) -> int:
        return sum(run.rows for run in self.runs if run.kind == "tombstones")

    @property
    def bytes(self) -> int:
        return sum(run.bytes for run in self.runs)


class TableFull(Document, frozen=True, kw_only=True):
    """A table as a whole at the version's state; `state` is the digest of each bucket."""

    runs: tuple[RunInfo, ...]
    state: DigestVector

    @property
    def rows(self) -> int:
        return sum(run.rows for run in self.runs)

    @property
    def bytes(self) -> int:
        return sum(run.bytes for run in self.runs)


class Target(Document, frozen=True, kw_only=True):
    """Where a rollback goes: before an event time, before an append time, to a version, or to a state."""

    kind: Literal["before_event", "before_append", "version", "state"]
    time: int = 0
    version: Version = Version(0)
    state: State | None = None

    def __str__(self) -> str:
        from .times import format_time

        return {
            "before_event": f"before event time {format_time(self.time)}",
            "before_append": f"before append time {format_time(self.time)}",
            "version": f"version {self.version}",
            "state": f"state {self.state}",
        }[self.kind]


class Rollback(Document, frozen=True, kw_only=True):
    """What a rollback takes back. `cut[p]` and `fence[p]` bound the dead range of partition p: records in [cut, fence) of
    `tables` never count again. `undo` holds, for each key touched since, its row at the target or a tombstone."""

    target: Target
    tables: tuple[str, ...] | None = None
    """None: the whole model."""
    cut: tuple[Offset, ...]
    fence: tuple[Offset, ...]
    undo: dict[str, TableChange]
    lost_rows: int

    def covers(self, table: str) -> bool:
        return self.tables is None or table in self.tables


class Manifest(Document, frozen=True, kw_only=True):
    """`versions/<n>.json`.

    `previous` is the newest committed version when this one was, whatever its timeline: following it walks the commit order.
    `base` is the version to whose state `changes` are a difference; None for a base beside the chain, which has `full` only.
    `trained_through` is the newest event that the state has learned from.
    """

    format: int = FORMAT
    model: str
    version: Version
    kind: Kind
    state: State
    previous: Version | None
    base: Version | None
    positions: Positions
    trained_through: EventTime
    created_at: WallTime
    publisher: PublisherId
    term: Term
    upload: str
    """The name of the upload that owns the data; "" where there is none."""
    changes: dict[str, TableChange]
    full: dict[str, TableFull] | None = None
    digests: dict[str, DigestVector] | None = None
    """The table digests, where the writer held the whole state."""
    dense: DenseInfo | None = None
    checkpoint: Archive | None = None
    """The trainer's own checkpoint, where it is archived. Replicas never read it."""
    source: Literal["none", "whole", "touched", "compared", "log", "undo"] = "none"
    rollback: Rollback | None = None
    shapes: dict[str, str] = {}
    """The generation that readers take for a table, where that is not the first."""
    retired: tuple[str, ...] = ()
    """Tables that have gone, and have no rows."""

    @property
    def timeline(self) -> Timeline:
        return self.state.timeline

    def generation(self, table: str) -> str:
        """Which table of the schema holds the rows of `table`."""
        return self.shapes.get(table, table)

    @property
    def rows(self) -> int:
        parts: Mapping[str, TableChange | TableFull] = self.changes if self.full is None else self.full
        return sum(part.rows for part in parts.values())

    @property
    def tombstones(self) -> int:
        return sum(change.tombstones for change in self.changes.values())

    @property
    def bytes(self) -> int:
        """Of everything that this version alone added to the store."""
        parts = self._parts()
        files = {path: size for part in parts for run in part.runs for path, size in run.files.items()}
        return sum(files.values()) + sum(found.bytes for found in (self.dense, self.checkpoint) if found is not None)

    def state_digests(self, buckets: int) -> dict[str, NDArray[np.uint64]] | None:
        """uint64[buckets] per table of the whole state, where it is stated."""
        if self.full is not None:
            return {name: full.state.array(buckets) for name, full in self.full.items()}
        return None if self.digests is None else {name: found.array(buckets) for name, found in self.digests.items()}

    def digest(self, buckets: int) -> tuple[Literal["state", "interval"], str]:
        """One hex string for the state where its digest is stated, else for what the version writes."""
        dense = () if self.dense is None else (self.dense.digest,)
        whole = self.state_digests(buckets)
        if whole is not None:
            return "state", digest_text(whole, dense)
        return "interval", digest_text({name: change.interval.array(buckets) for name, change in self.changes.items()}, dense)

    def data_paths(self) -> set[str]:
        """Keys of every object that a reader of this version alone may need."""
        parts = self._parts()
        beside = {found.path for found in (self.dense, self.checkpoint) if found is not None}
        return {path for part in parts for run in part.runs for path in run.files} | beside

    def _parts(self) -> list[TableChange | TableFull]:
        undo = self.rollback.undo if self.rollback else {}
        return [*self.changes.values(), *(self.full or {}).values(), *undo.values()]
