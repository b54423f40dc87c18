"""The catalog of one model: its schema, its refs, its versions. The only place that moves a ref.

A commit is: bytes, manifest, refs, in this order, the last by compare-and-swap. Whoever gives up somebody else's unfinished
work (a resume, retention) first marks it expired and then moves the refs, if only in generation; a commit looks for the
mark between reading the refs and swapping them. So one of both wins, and nobody has to wait.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from ..core.documents import decode, encode
from ..core.errors import CommitConflict, InvalidInput, NotFound, Refused
from ..core.history import History
from ..core.ids import BIRTH, FIRST_TIMELINE, Positions, PublisherId, Term, Version, checked_name
from ..core.manifest import Manifest
from ..core.refs import LIVE, Move, Ref, Refs
from ..core.schema import ModelSchema, TableSchema, check_birth, check_geometry, check_same
from ..core.times import NEVER, WallTime
from ..ports.settling import put_settled
from ..ports.store import Create, ObjectStore, Swap, Token
from . import keys

ATTEMPTS = 100
"""How often a swap is tried anew against other writers before it is reported as a conflict."""


def random_id() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who acts, when, and why; it goes into the history of the refs."""

    who: str
    now: WallTime
    why: str = ""


@dataclass(slots=True)
class Catalog:
    """`new_id` must never give the same text twice. Manifests are cached, since they never change."""

    store: ObjectStore
    model: str
    new_id: Callable[[], str] = random_id
    _manifests: dict[Version, Manifest] = field(default_factory=dict, repr=False)
    _schema: ModelSchema | None = field(default=None, repr=False)

    # ---- birth and schema ----------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        store: ObjectStore,
        model: str,
        *,
        buckets: int,
        positions: Positions,
        actor: Actor,
        new_id: Callable[[], str] = random_id,
    ) -> Catalog:
        """The model's catalog, born now unless it exists: version 0 is the empty state 1-0 at `positions`, the ends of its log.
        `Refused` when it exists with another geometry or log. Safe to repeat, and to race."""
        checked_name(model, "model")
        partitions = len(positions.partitions)
        check_geometry(buckets=buckets, partitions=partitions)
        catalog = cls(store, model, new_id)
        born = ModelSchema(
            model=model, id=hashlib.blake2b(new_id().encode(), digest_size=16).hexdigest(),
            buckets=buckets, partitions=partitions, log=positions.log, tables={}, created_at=actor.now,
        )  # fmt: skip
        catalog._create(keys.schema(model), encode(born))
        schema = catalog.schema()
        for rule, had, wants in (
            ("buckets", schema.buckets, buckets),
            ("partitions", schema.partitions, partitions),
            ("log", schema.log, positions.log),
        ):
            if had != wants:
                raise Refused(f"model {model}: {rule} {wants} was asked for, it was born with {rule} {had}")
        empty = Manifest(
            model=model, version=Version(0), kind="birth", state=BIRTH, previous=None, base=None, positions=positions,
            trained_through=NEVER, created_at=actor.now, publisher=PublisherId(""), term=Term(0), upload="", changes={}, full={},
        )  # fmt: skip
        catalog._create(keys.manifest(model, Version(0)), encode(empty))
        move = Move(id=new_id(), who=actor.who, at=actor.now, why=actor.why, what="born")
        first = Refs(generation=0, trunk=Version(0), timeline=FIRST_TIMELINE, refs={LIVE: Ref(version=Version(0))}, move=move)
        catalog._create(keys.refs(model), encode(first))
        return catalog

    def _create(self, key: str, data: bytes) -> None:
        """Creates the object unless it exists."""
        try:
            put_settled(self.store, key, data, Create())
        except CommitConflict:
            self.store.get(key)

    def schema(self) -> ModelSchema:
        """Read anew only by `reload_schema`: but for new tables it never changes."""
        return self._schema or self.reload_schema()

    def reload_schema(self) -> ModelSchema:
        found, _ = self._read_schema()
        return found

    def _read_schema(self) -> tuple[ModelSchema, Token]:
        key = keys.schema(self.model)
        try:
            found = self.store.get(key)
        except NotFound:
            raise NotFound(
                f"no model {self.model!r} in {self.store.url}", hint="publish its first snapshot, or check [store] url"
            ) from None
        self._schema = decode(ModelSchema, found.data, key)
        return self._schema, found.token

    def add_tables(self, tables: dict[str, TableSchema]) -> ModelSchema:
        """Tables that are new are born; those that exist must be the same, else `Refused` and none is born."""
        for _ in range(ATTEMPTS):
            schema, token = self._read_schema()
            for name, table in tables.items():
                check_birth(name, table)
                if name in schema.tables:
                    check_same(name, schema.tables[name], table)
            new = {name: table for name, table in tables.items() if name not in schema.tables}
            if not new:
                return schema
            grown = msgspec.structs.replace(schema, tables={**schema.tables, **new})
            try:
                self.store.put(keys.schema(self.model), encode(grown), Swap(token))
            except CommitConflict:
                continue
            self._schema = grown
            return grown
        raise CommitConflict(f"model {self.model}: its catalog was changed {ATTEMPTS} times meanwhile")

    # ---- refs ----------------------------------------------------------------------------------------------------------

    def refs(self) -> Refs:
        return self._read_refs()[0]

    def _read_refs(self) -> tuple[Refs, Token]:
        key = keys.refs(self.model)
        try:
            found = self.store.get(key)
        except NotFound:
            raise NotFound(f"no model {self.model!r} in {self.store.url}", hint="publish its first snapshot") from None
        return decode(Refs, found.data, key), found.token

    def move(self, change: Callable[[Refs], Refs], *, what: str, actor: Actor) -> Refs:
        """Swaps the refs for `change(refs)`, tried anew when somebody else moves them meanwhile. `change` looks at the refs that
        it is given, and raises what forbids the move; it may be called several times. Returns the refs as they are then."""
        key = keys.refs(self.model)
        move = Move(id=self.new_id(), who=actor.who, at=actor.now, why=actor.why, what=what)
        for _ in range(ATTEMPTS):
            old, token = self._read_refs()
            if old.move.id == move.id:
                return old
            new = msgspec.structs.replace(change(old), generation=old.generation + 1, move=move)
            # The move that is about to be replaced is kept first, so that none is ever missing from the history.
            self._create(keys.history(self.model, old.generation), encode(old))
            try:
                put_settled(self.store, key, encode(new), Swap(token))
            except CommitConflict:
                continue
            return new
        raise CommitConflict(f"model {self.model}: its refs were moved {ATTEMPTS} times meanwhile")

    def moves(self) -> Iterator[Refs]:
        """The refs after every move that is still recorded, oldest first."""
        newest = self.refs()
        for entry in self.store.list(f"{self.model}/history/"):
            if keys.number_of(entry.key) < newest.generation:
                yield decode(Refs, self.store.get(entry.key).data, entry.key)
        yield newest

    # ---- versions ------------------------------------------------------------------------------------------------------

    def manifest(self, version: Version) -> Manifest:
        if version not in self._manifests:
            key = keys.manifest(self.model, version)
            try:
                found = decode(Manifest, self.store.get(key).data, key)
            except NotFound:
                raise NotFound(f"model {self.model} has no version {version}", hint="`penstock versions` lists them") from None
            if found.model != self.model or found.version != version:
                raise Refused(f"{key}: says that it is version {found.version} of model {found.model}")
            self._manifests[version] = found
        return self._manifests[version]

    def history(self, refs: Refs | None = None) -> History:
        """The committed versions, down to the oldest retained. What retention has removed since `refs` were read is left out."""
        refs = refs or self.refs()
        found, at = [self.manifest(refs.trunk)], self.manifest(refs.trunk).previous
        while at is not None and at >= refs.oldest and (manifest := self._retained(at)) is not None:
            found.append(manifest)
            at = manifest.previous
        bases = [base for version in refs.bases if (base := self._retained(version)) is not None]
        return History(tuple(found[::-1]), {base.state: base for base in bases})

    def _retained(self, version: Version) -> Manifest | None:
        """The manifest; None when retention has removed it."""
        try:
            return self.manifest(version)
        except NotFound:
            now = self.refs()
            if version in now.bases or version >= now.oldest:
                raise
            return None

    def put_manifest(self, draft: Manifest, refs: Refs) -> Manifest:
        """Writes the draft under the first free number past every committed one. It is visible to nobody until a ref names it."""
        number = max(refs.trunk, draft.version, *refs.bases) + 1
        while True:
            manifest = msgspec.structs.replace(draft, version=Version(number))
            try:
                put_settled(self.store, keys.manifest(self.model, manifest.version), encode(manifest), Create())
            except CommitConflict:
                number += 1
                continue
            self._manifests[manifest.version] = manifest
            return manifest

    def commit(self, draft: Manifest, *, promote: tuple[str, ...], guard: Callable[[Refs], None], actor: Actor) -> Manifest:
        """Makes `draft` the newest version of the trunk, if its `previous` still is; else `CommitConflict`. The refs in `promote`
        that follow the trunk move with it. `guard` is called between reading the refs and the swap and raises what forbids it."""
        before = self.refs()
        guard(before)
        if before.trunk != draft.previous:
            raise CommitConflict(f"version {before.trunk} was committed after {draft.previous}, on which this one was computed")
        manifest = self.put_manifest(draft, before)

        def advance(refs: Refs) -> Refs:
            if refs.trunk != draft.previous:
                raise CommitConflict(f"version {refs.trunk} was committed after {draft.previous}, on which this one was computed")
            guard(refs)
            moved = {name: _moved(ref, manifest) for name, ref in refs.refs.items() if name in promote}
            if missing := set(promote) - set(refs.refs):
                moved |= {name: Ref(version=manifest.version, follow="versions") for name in missing}
            return msgspec.structs.replace(refs, trunk=manifest.version, timeline=manifest.timeline, refs={**refs.refs, **moved})

        self.move(advance, what=f"{manifest.kind} {manifest.version} of state {manifest.state}", actor=actor)
        return manifest

    def add_base(self, draft: Manifest, *, guard: Callable[[Refs], None], actor: Actor) -> Manifest:
        """Registers a whole state beside the chain. It moves no ref, and conflicts with nobody."""
        if draft.full is None or draft.base is not None:
            raise InvalidInput(f"a base of state {draft.state} must hold the whole state")
        manifest = self.put_manifest(draft, self.refs())

        def register(refs: Refs) -> Refs:
            guard(refs)
            return msgspec.structs.replace(refs, bases=(*refs.bases, manifest.version))

        self.move(register, what=f"{manifest.kind} {manifest.version} beside the chain, of state {manifest.state}", actor=actor)
        return manifest

    def barrier(self, *, what: str, actor: Actor) -> Refs:
        """A move that changes nothing: what was marked expired before it cannot be committed after it."""
        return self.move(lambda refs: refs, what=what, actor=actor)


def _moved(ref: Ref, manifest: Manifest) -> Ref:
    """A rollback thaws: the positions at which a ref is frozen may lie beyond its cut."""
    frozen = None if manifest.rollback is not None else ref.frozen
    return msgspec.structs.replace(ref, version=manifest.version, frozen=frozen)
