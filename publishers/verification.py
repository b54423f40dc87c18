"""Reads every byte that a version needs, and holds it against what was written. Damage is a finding, not an exception."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from penstock.pipeline.core.errors import NotFound, Refused
from penstock.pipeline.core.hashing import digest_text
from penstock.pipeline.core.history import History, table_layers
from penstock.pipeline.core.ids import Version
from penstock.pipeline.core.manifest import DenseInfo, Manifest, RunInfo
from penstock.pipeline.environment import Environment
from penstock.slicer.layers import Layers
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.runs import Run

BLOCK = 8 << 20


class Finding(msgspec.Struct, frozen=True):
    """One damage: which object breaks which rule."""

    object: str
    rule: str


class Verification(msgspec.Struct, frozen=True):
    """`digest`: of the state as the chain gives it, None when it cannot be read as a whole. `read_bytes` were read for it."""

    version: Version
    ok: bool
    digest: str | None
    findings: tuple[Finding, ...]
    read_bytes: int


@dataclass(slots=True)
class _Reading:
    env: Environment
    history: History
    of: Manifest
    read_bytes: int = 0

    def findings(self) -> Iterator[Finding]:
        try:
            chain = self.history.chain(self.of.version)
        except Refused as error:
            yield Finding(f"version {self.of.version}", str(error))
            return
        if self.of.rollback is not None:
            for name, change in self.of.rollback.undo.items():
                yield from self._runs(name, change.runs, change.interval.array(self.env.schema.buckets), "undo")
        for at, manifest in enumerate(chain):
            yield from self._version(manifest, whole=at == 0 and manifest.full is not None)

    def _version(self, manifest: Manifest, *, whole: bool) -> Iterator[Finding]:
        buckets = self.env.schema.buckets
        if whole and manifest.full is not None:
            for name, full in manifest.full.items():
                yield from self._runs(name, full.runs, full.state.array(buckets), f"version {manifest.version}")
        else:
            for name, change in manifest.changes.items():
                yield from self._runs(name, change.runs, change.interval.array(buckets), f"version {manifest.version}")
        if manifest.dense is not None:
            yield from self._dense(manifest.dense)

    def _runs(self, table: str, runs: tuple[RunInfo, ...], stated: np.ndarray, owner: str) -> Iterator[Finding]:
        layout, found, damaged = TableLayout.of(self.env.schema, table), np.zeros(self.env.schema.buckets, np.uint64), False
        for info in runs:
            try:
                with Run.open(self.env.catalog.store, info, buckets=layout.buckets, layout=layout) as run:
                    found += run.verify()
                self.read_bytes += info.bytes
            except (Refused, NotFound) as error:
                damaged = True
                yield Finding(info.path, str(error))
        if not damaged and not np.array_equal(found, stated):
            wrong = np.flatnonzero(found != stated)
            yield Finding(
                f"{owner}, table {table}", f"the digests of {len(wrong)} buckets differ from those stated, first {wrong[0]}"
            )

    def _dense(self, info: DenseInfo) -> Iterator[Finding]:
        try:
            size = self.env.catalog.store.size(info.path)
            if size != info.bytes:
                yield Finding(info.path, f"{size} bytes, {info.bytes} were written")
                return
            whole = hashlib.blake2b(digest_size=16)
            for start in range(0, size, BLOCK):
                whole.update(self.env.catalog.store.get_range(info.path, start, min(BLOCK, size - start)))
            self.read_bytes += size
            if whole.hexdigest() != info.digest:
                yield Finding(info.path, "its BLAKE2b digest differs from the one stated")
        except (Refused, NotFound) as error:
            yield Finding(info.path, str(error))

    def digest(self) -> Iterator[Finding | str]:
        """The state's digest, from the chain as a newcomer reads it; a finding where it is not the one stated."""
        chain, tables = self.history.chain(self.of.version), {}
        stated = self.of.state_digests(self.env.schema.buckets)
        for name in self.env.schema.tables:
            layout = TableLayout.of(self.env.schema, name)
            with Layers.open(self.env.catalog.store, layout, table_layers(chain, name)) as layers:
                tables[name] = layers.digests()
            if stated is not None and name in stated and not np.array_equal(stated[name], tables[name]):
                wrong = np.flatnonzero(stated[name] != tables[name])
                yield Finding(f"version {self.of.version}, table {name}", f"the state's digests differ in {len(wrong)} buckets")
        yield digest_text(tables, () if self.of.dense is None else (self.of.dense.digest,))


def verify(env: Environment, version: Version | None = None) -> Verification:
    """Of `version`, by default the live ref's. `NotFound` when there is no such version."""
    refs = env.catalog.refs()
    history = env.catalog.history(refs)
    of = history.version(refs.ref("live").version if version is None else version)
    if of.version not in [m.version for m in history.trunk]:
        beside = history.of_state(of.state)
        of = of if beside is None else beside
    reading = _Reading(env, history, of)
    findings = list(reading.findings())
    digest = None
    if not findings:
        for found in reading.digest():
            if isinstance(found, str):
                digest = found
            else:
                findings.append(found)
    return Verification(of.version if version is None else version, not findings, digest, tuple(findings), reading.read_bytes)
