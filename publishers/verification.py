"""Reads every byte that a version needs, and holds it against what was written. Damage is a finding, not an exception."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import NotFound, Refused
from penstock.pipeline.core.hashing import digest_text
from penstock.pipeline.core.history import History, table_layers
from penstock.pipeline.core.ids import Version
from penstock.pipeline.core.manifest import Archive, DenseInfo, Manifest, NamesInfo, RunInfo, TableChange, TableFull
from penstock.pipeline.core.refs import LIVE
from penstock.pipeline.environment import Environment
from penstock.slicer.layers import Layers
from penstock.slicer.names import NamesFile
from penstock.slicer.ordering import ordered
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.runs import Run

BLOCK = 8 << 20


class Finding(msgspec.Struct, frozen=True):
    """One damage: which object breaks which rule."""

    object: str
    rule: str


class Verification(msgspec.Struct, frozen=True):
    """`digest`: of the state as the chain gives it, None when it cannot be read as a whole. `read_bytes` were read of slices.
    `unnamed`: rows of tables of strings that only the log has brought, so that nobody has said which string it is."""

    version: Version
    ok: bool
    digest: str | None
    findings: tuple[Finding, ...]
    read_bytes: int
    unnamed: dict[str, int] = {}


def verify(env: Environment, version: Version | None = None) -> Verification:
    """Of `version`, by default the live ref's. `NotFound` when there is no such version."""
    refs = env.catalog.refs()
    number = refs.ref(LIVE).version if version is None else version
    try:
        history = env.catalog.history(refs)
        env.catalog.reload_schema()  # a table of the version may be younger than what was read of it
        chain = _chain(history, history.version(number))
    except (Refused, NotFound) as error:
        if isinstance(error, NotFound) and not refs.oldest <= number <= max(refs.trunk, *refs.bases, 0):
            raise
        return Verification(number, False, None, (Finding(f"version {number}", str(error)),), 0)
    reading = _Reading(env, history, history.version(number), chain)
    findings = tuple(reading.findings())
    if findings:
        return Verification(number, False, None, findings, reading.read_bytes)
    tables = reading.state()
    findings = tuple(reading.against_stated(tables))
    dense = reading.of.dense
    digest = digest_text(tables, () if dense is None else (dense.digest,))
    return Verification(number, not findings, digest, findings, reading.read_bytes, reading.unnamed())


def _chain(history: History, of: Manifest) -> list[Manifest]:
    return [of] if of in history.bases.values() else history.chain(of.version)


@dataclass(slots=True)
class _Reading:
    """Of version `of`, which a newcomer loads as `chain`."""

    env: Environment
    history: History
    of: Manifest
    chain: list[Manifest]
    read_bytes: int = 0

    def findings(self) -> Iterator[Finding]:
        yield from self._positions()
        first, *later = self.chain
        yield from self._parts(first, first.changes if first.full is None else first.full)
        # A delta with a whole state beside it is still what those take who have followed.
        for manifest in later if self.of in self.chain else [*later, self.of]:
            yield from self._parts(manifest, manifest.changes)
        if self.of.rollback is not None:
            yield from self._parts(self.of, self.of.rollback.undo)
        for dense in {manifest.dense.path: manifest.dense for manifest in self.chain if manifest.dense is not None}.values():
            yield from self._file(dense)
        for archive in (manifest.checkpoint for manifest in self.chain if manifest.checkpoint is not None):
            yield from self._file(archive)

    def state(self) -> dict[str, NDArray[np.uint64]]:
        """uint64[buckets] per table, from the chain as a newcomer reads it; of an empty one, where that is stated."""
        found, buckets = {}, self.env.schema.buckets
        stated = self.history.stated_digests(self.of, buckets) or {}
        for name in self.env.schema.tables:
            if name in stated:
                found[name] = np.zeros(buckets, np.uint64)
            if runs := table_layers(self.chain, name):
                with Layers.open(self.env.catalog.store, TableLayout.of(self.env.schema, name), runs) as layers:
                    found[name] = layers.digests()
        return found

    def unnamed(self) -> dict[str, int]:
        """How many rows there are per table of strings whose key has no name."""
        found = {}
        for name, schema in self.env.schema.tables.items():
            runs = table_layers(self.chain, name) if schema.keys == "string" else []
            if all(info.names is not None or info.kind == "tombstones" for layer in runs for info in layer):
                continue
            with Layers.open(self.env.catalog.store, TableLayout.of(self.env.schema, name), runs) as layers:
                named = layers.named()
                asked = (ordered(keys, self.env.schema.buckets, name=name) for keys in layers.merged_keys())
                found[name] = sum(int(np.count_nonzero(named.resolve(some)[0] < 0)) for some in asked)
        return {name: count for name, count in found.items() if count}

    def against_stated(self, tables: Mapping[str, NDArray[np.uint64]]) -> Iterator[Finding]:
        for name, stated in (self.history.stated_digests(self.of, self.env.schema.buckets) or {}).items():
            found = tables.get(name, np.zeros_like(stated))
            yield from _differing(f"version {self.of.version}, table {name}", "whole state", found, stated)

    def _positions(self) -> Iterator[Finding]:
        schema = self.env.schema
        for manifest in self.chain:
            found = manifest.positions
            if found.log != schema.log or len(found.partitions) != schema.partitions:
                yield Finding(
                    f"version {manifest.version}",
                    f"{len(found.partitions)} positions in log {found.log}, the model has {schema.partitions} in {schema.log}",
                )
        for before, after in pairwise(self.chain):
            for p, (low, high) in enumerate(zip(before.positions.partitions, after.positions.partitions, strict=False)):
                if low.offset > high.offset:
                    yield Finding(
                        f"version {after.version}",
                        f"partition {p}: position {high.offset} lies before {low.offset}, that of version {before.version}",
                    )

    def _parts(self, manifest: Manifest, parts: Mapping[str, TableChange] | Mapping[str, TableFull]) -> Iterator[Finding]:
        for name, part in parts.items():
            stated = part.state if isinstance(part, TableFull) else part.interval
            yield from self._runs(manifest, name, part.runs, stated.array(self.env.schema.buckets))

    def _runs(self, owner: Manifest, table: str, runs: Iterable[RunInfo], stated: NDArray[np.uint64]) -> Iterator[Finding]:
        layout, found, damaged = TableLayout.of(self.env.schema, table), np.zeros_like(stated), False
        for info in runs:
            try:
                with Run.open(self.env.catalog.store, info, buckets=layout.buckets, layout=layout) as run:
                    found += run.verify()
                    if info.names is not None:
                        yield from self._names(run, info.names)
                self.read_bytes += info.bytes
            except (Refused, NotFound) as error:
                damaged = True
                yield Finding(info.path, str(error))
        if not damaged:
            yield from _differing(f"version {owner.version}, table {table}", "runs", found, stated)

    def _names(self, run: Run, info: NamesInfo) -> Iterator[Finding]:
        try:
            NamesFile(run).verify(run)
            self.read_bytes += info.bytes
        except (Refused, NotFound) as error:
            yield Finding(info.path, str(error))

    def _file(self, info: DenseInfo | Archive) -> Iterator[Finding]:
        store, whole = self.env.catalog.store, hashlib.blake2b(digest_size=16)
        try:
            size = store.size(info.path)
            if size != info.bytes:
                yield Finding(info.path, f"{size} bytes, {info.bytes} were written")
                return
            for start in range(0, size, BLOCK):
                whole.update(store.get_range(info.path, start, min(BLOCK, size - start)))
        except (Refused, NotFound) as error:
            yield Finding(info.path, str(error))
            return
        self.read_bytes += size
        if whole.hexdigest() != info.digest:
            yield Finding(info.path, f"digest {whole.hexdigest()}, {info.digest} was written")


def _differing(owner: str, what: str, found: NDArray[np.uint64], stated: NDArray[np.uint64]) -> Iterator[Finding]:
    wrong = np.flatnonzero(found != stated)
    if len(wrong):
        yield Finding(owner, f"{what}: the digests of {len(wrong)} buckets differ from those stated, first in bucket {wrong[0]}")
