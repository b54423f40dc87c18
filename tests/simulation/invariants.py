"""The small model that a run is held against: what was promised, and what follows from it. Every change of the store is looked at
when it happens. It takes no turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.pipeline.catalog.keys import skipped
from penstock.pipeline.catalog.leases import read_claim
from penstock.pipeline.core.documents import decode
from penstock.pipeline.core.manifest import Manifest, Rollback
from penstock.pipeline.core.refs import Refs
from penstock.pipeline.ports.memory_store import MemoryStore

from .broker import Broker
from .features import Shapes
from .states import MODEL, Delivered, Key, Row, Rows, States, difference, ensure, event


@dataclass
class Promises:
    """What one incarnation of a trainer was told: `written` per key whatever it put, in order (None: deleted); from
    `acknowledged` on that was flushed, so that nothing older may be served as long as this incarnation lives, unless the record
    was `lost` in the log."""

    timeline: int
    written: dict[Key, list[Row | None]] = field(default_factory=dict)
    acknowledged: dict[Key, int] = field(default_factory=dict)
    lost: set[Key] = field(default_factory=set)

    def write(self, key: Key, row: Row | None) -> None:
        self.written.setdefault(key, []).append(row)

    def flushed(self, counts: Mapping[Key, int]) -> None:
        """`counts`: how many writes of each key had been put before the flush."""
        for key, count in counts.items():
            self.acknowledged[key] = max(self.acknowledged.get(key, 0), count - 1)

    def check(self, served: Mapping[Key, Row], dims: Mapping[str, int]) -> None:
        """`dims` of the tables as they are served: a trainer's rows of another shape, and what it deletes beside them, wait for
        the version that brings it."""
        waiting = {
            key[0] for key, rows in self.written.items() for row in rows if row is not None and len(row) != dims.get(key[0])
        }
        for key, first in self.acknowledged.items():
            allowed = self.written[key][first:]
            kept = key in self.lost or key[0] in waiting or served.get(key) in allowed
            ensure(kept, f"{key} was acknowledged as {allowed}, and {served.get(key)} is served")


@dataclass(frozen=True)
class Content:
    """What a checkpoint of the trainer holds; `dense` None: it is not told."""

    rows: Rows
    dense: Row | None
    shapes: Shapes


class Invariants:
    """`checkpoints`: what a version of a state must hold, as long as nobody has done what makes that unclear (`unclear`)."""

    def __init__(self, store: MemoryStore, log: Broker) -> None:
        self.states, self.store, self.log = States(store, log), store, log
        self.catalog = self.states.catalog
        self.promises: Promises | None = None
        self.checkpoints: dict[str, Content] = {}
        self.unclear = ""
        self.pinned: dict[str, int] = {}
        self.known: dict[int, Rows] = {}
        """The rows of every version, by generation."""
        self.rollbacks = 0
        self._named: set[str] = set()

    # ---- the store -----------------------------------------------------------------------------------------------------

    def on_write(self, key: str, old: bytes | None, new: bytes | None) -> None:
        folder = key.split("/")[1]
        if new is None:
            ensure(key not in self._named, f"{key} was deleted, and a version that can be reached needs it")
        elif folder == "refs.json" and old is not None:
            self._moved(decode(Refs, old, key), decode(Refs, new, key))
        elif folder == "skips" and old is None:
            ensure(skipped(key) in self.log.harmed, f"{key}: the record can be read")
        elif old is not None:
            ensure(folder not in ("versions", "history", "touched", "skips"), f"{key} was written twice")
            ensure(key not in self._named, f"{key} was changed under a version that can be reached")

    def on_pin(self, name: str, version: int) -> None:
        """A version is kept from now on."""
        self.pinned[name] = version
        self._named |= self._needed()

    def _moved(self, old: Refs, new: Refs) -> None:
        ensure(new.generation == old.generation + 1, "a generation was left out")
        ensure(f"{MODEL}/history/{old.generation:010d}.json" in self.store._objects, "a move is missing from the history")
        ensure(new.trunk >= old.trunk and new.timeline >= old.timeline, f"refs moved back: {old} {new}")
        ensure(set(old.abandoned) <= set(new.abandoned) and old.refs.keys() <= new.refs.keys(), f"refs forgot: {old} {new}")
        ensure(new.oldest <= new.trunk, f"nothing is retained: {new}")
        numbers = {m.version for m in self.catalog.history(new).trunk}
        ensure(all(ref.version in numbers for ref in new.refs.values()), f"a ref leads to nothing: {new}")
        if new.trunk != old.trunk:
            self._committed(self.catalog.manifest(new.trunk), old, new)
        else:
            ensure(new.timeline == old.timeline, "the timeline changed without a version")
        self._named = self._needed()

    def on_truncate(self, partition: int, before: int) -> None:
        position = self.catalog.manifest(self.catalog.refs().trunk).positions.partitions[partition]
        allowed = max(position.offset, self.log.begin(partition))  # type: ignore[arg-type]
        ensure(before <= allowed, f"partition {partition} was cut off at {before}, newcomers begin at {position.offset}")

    def _needed(self) -> set[str]:
        """Every object that somebody may read who follows the refs or the pins."""
        refs = self.catalog.refs()
        history = self.catalog.history(refs)
        found = {f"{MODEL}/versions/{m.version:010d}.json" for m in history.trunk}
        for version in {history.newest.version, *(ref.version for ref in refs.refs.values()), *self.pinned.values()}:
            for manifest in history.chain(version):
                found |= manifest.data_paths()
        return found

    # ---- versions ------------------------------------------------------------------------------------------------------

    def _committed(self, manifest: Manifest, old: Refs, new: Refs) -> None:
        ensure(manifest.previous == old.trunk and manifest.base is not None, f"{manifest.version} does not follow {old.trunk}")
        ensure(manifest.timeline == new.timeline, "refs and version are of different timelines")
        missing = manifest.data_paths() - self.store._objects.keys()
        ensure(not missing, f"version {manifest.version} names {missing}, which are not there")
        served = self.known[manifest.version] = self.states.rows(manifest)
        base = self.catalog.manifest(manifest.base)
        if manifest.rollback is None:
            ensure(new.timeline == old.timeline, "a timeline began without a rollback")
            ensure(manifest.state.marker > base.state.marker, f"{manifest.state} does not follow {base.state}")
            self._is_checkpoint(manifest, served)
            return
        self.rollbacks += 1
        self.promises = None
        ensure(new.timeline > old.timeline and new.timeline not in old.abandoned, "a rollback to a timeline that was given up")
        ensure(all(ref.version == new.trunk for ref in new.refs.values() if ref.follow == "log"), f"not all went back: {new}")
        self._taken_back(manifest, manifest.rollback, base, served)

    def _is_checkpoint(self, manifest: Manifest, served: Rows) -> None:
        """The version of a state has the rows that the trainer had: whatever the log has brought, shed, or never seen."""
        content = self.checkpoints.get(str(manifest.state))
        if content is None or self.unclear:
            return
        schema = self.catalog.reload_schema()
        same = {t for t in content.shapes.tables if t not in manifest.retired and t in schema.tables}
        same = {t for t in same if schema.tables[manifest.generation(t)].dim == content.shapes.dims[t]}
        found = {key: row for key, row in self.states.read(manifest, served).items() if key[0] in same}
        expected = {key: row for key, row in content.rows.items() if key[0] in same}
        ensure(
            found == expected, f"version {manifest.version} of {manifest.state}, {manifest.source}: {difference(found, expected)}"
        )
        dense = self.states.dense(manifest.dense)
        ensure(content.dense in (None, dense), f"version {manifest.version} has dense {dense}, its checkpoint {content.dense}")

    def _taken_back(self, manifest: Manifest, taken: Rollback, base: Manifest, served: Rows) -> None:
        """A rollback's state is what had been delivered before the cuts, and has not learned from what it takes back."""
        what = f"version {manifest.version}, {taken.target}"
        dense = self.states.dense(manifest.dense)
        if taken.target.kind == "before_event":
            limit = taken.target.time
            poisoned = {key: row for key, row in served.items() if taken.covers(key[0]) and event(int(row[0])) >= limit}
            ensure(not poisoned, f"{what}, has {poisoned}")
            ensure(manifest.trained_through < limit or taken.tables is not None, f"{what} claims {manifest.trained_through}")
            learned = dense is not None and event(int(dense[0])) >= limit
            ensure(not learned or taken.tables is not None, f"{what}: its dense slice is {dense}")
        claim = read_claim(self.catalog, manifest.timeline)
        assert claim is not None
        back = self.states.delivered(base, taken.cut, until=claim.of)
        expected, of, on = back.rows, base, back
        if taken.tables is not None:
            of = self.catalog.manifest(manifest.previous)  # type: ignore[arg-type]
            on = self.states.delivered(of, taken.fence, until=of.timeline)
            expected = {key: row for key, row in expected.items() if taken.covers(key[0])}
            expected |= {key: row for key, row in on.rows.items() if not taken.covers(key[0])}
        ensure(served == expected, f"{what}: {difference(served, expected)}")
        self._has_dense(manifest, of, on, what)

    def _has_dense(self, manifest: Manifest, of: Manifest, on: Delivered, what: str) -> None:
        """The slice of the version gone on from, or one announced since, in every partition before it ends."""
        expected = on.dense or (None if of.dense is None else of.dense.path)
        found = None if manifest.dense is None else manifest.dense.path
        ensure(found == expected, f"{what}: its dense slice is {found}, should be {expected}")
