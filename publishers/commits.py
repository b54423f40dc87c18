"""What every publish shares: what it needs to be committed, the commit itself, and whole states beside the chain."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.catalog import keys, leases
from penstock.pipeline.catalog.checkpoints import checkpoints_between, marked_checkpoint
from penstock.pipeline.core.checkpoint import Checkpoint, newest_dense
from penstock.pipeline.core.coordination import Upload
from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.errors import ChainBroken, NotResumable, Refused
from penstock.pipeline.core.history import History, table_layers
from penstock.pipeline.core.ids import PublisherId, Term, Version, checked_name
from penstock.pipeline.core.manifest import Archive, DenseInfo, Kind, Manifest, RunInfo, TableChange, TableFull
from penstock.pipeline.core.refs import LIVE, Refs
from penstock.pipeline.environment import Environment
from penstock.slicer.dense import dense_digest, write_dense
from penstock.slicer.layers import Layers
from penstock.slicer.run_layout import TableLayout

from .archive import archive_checkpoint
from .marking import OFFLINE
from .sources import Source

PROMOTE = (LIVE,)
Digests = NDArray[np.uint64]


@dataclass(slots=True)
class Written:
    """What a publish has written; `shapes` and `retired` as of the plan of its tables. `digests`: of the state, where all of it
    was held."""

    changes: dict[str, TableChange]
    dense: DenseInfo | None
    source: str
    shapes: dict[str, str]
    retired: tuple[str, ...]
    full: dict[str, TableFull] | None = None
    digests: dict[str, DigestVector] | None = None
    checkpoint: Archive | None = None

    def repeats(self, base: Manifest, checkpoint: Checkpoint) -> bool:
        """Whether nothing was written that `base` does not have."""
        rows = sum(change.rows + change.tombstones for change in self.changes.values())
        learned = checkpoint.trained_through > base.trained_through
        shapes = (self.shapes, self.retired) == (base.shapes, base.retired)
        return base.kind != "birth" and not rows and not learned and shapes and self.dense == base.dense


@dataclass(slots=True)
class Collected:
    """Runs of one table and the digests (uint64[buckets]) of what they write, as they come together."""

    buckets: int
    runs: list[RunInfo] = field(default_factory=list)
    digests: Digests = field(init=False)

    def __post_init__(self) -> None:
        self.digests = np.zeros(self.buckets, np.uint64)

    def add(self, runs: Iterable[RunInfo], digests: Digests) -> None:
        self.runs += runs
        self.digests += digests

    def change(self) -> TableChange:
        return TableChange(runs=tuple(self.runs), interval=DigestVector.of(self.digests))

    def full(self) -> TableFull:
        return TableFull(runs=tuple(self.runs), state=DigestVector.of(self.digests))


def check_current(checkpoint: Checkpoint, history: History) -> None:
    """The checkpoint must be of the live timeline, and newer than the newest version."""
    newest = history.newest
    if checkpoint.state.timeline != newest.timeline:
        raise NotResumable(
            f"checkpoint {checkpoint.state} was taken on timeline {checkpoint.state.timeline}; the model was rolled back and is "
            f"on timeline {newest.timeline}, at state {newest.state}"
        )
    if checkpoint.state.marker <= newest.state.marker:
        raise Refused(f"checkpoint {checkpoint.state} is older than version {newest.version} of state {newest.state}")


def data_prefix(env: Environment, upload: Upload) -> str:
    return keys.data(env.catalog.model, upload.id)


def dense_of(env: Environment, source: Source, prefix: str, base: Manifest, checkpoint: Checkpoint | None) -> DenseInfo | None:
    """The source's dense slice, or the base's where it is the same. Where the source has none, the newest that was announced on
    the log since the base; replicas have it already, and must not go back to the base's."""
    if not source.dense:
        return (None if checkpoint is None else announced_since(env, base, checkpoint)) or base.dense
    if base.dense is not None and dense_digest(source.dense) == base.dense.digest:
        return base.dense
    return write_dense(env.catalog.store, f"{prefix}/dense.safetensors", source.dense)


def announced_since(env: Environment, base: Manifest, checkpoint: Checkpoint) -> DenseInfo | None:
    """The newest dense slice that a checkpoint after the base has brought."""
    return newest_dense(checkpoints_between(env.catalog, base.state, checkpoint.state), checkpoint.state.timeline)


def archived(env: Environment, source: Source, prefix: str) -> Archive | None:
    """The source's own files, where the config wants them kept for trainers."""
    if env.model.optimizer != "archive" or source.path is None:
        return None
    return archive_checkpoint(env.catalog.store, source.path, prefix)


def commit_checkpoint(
    env: Environment,
    checkpoint: Checkpoint,
    base: Manifest,
    written: Written,
    *,
    kind: Kind,
    upload: Upload,
    promote: tuple[str, ...],
    why: str,
) -> Manifest:
    """Commits the state of a checkpoint as a difference to `base`; returns the version.

    `CommitConflict` when `base` is not the newest version any more, `NotResumable` when that is because of a rollback, `Expired`
    when checkpoint or upload were given up meanwhile."""
    assert checkpoint.positions is not None
    for ref in promote:
        checked_name(ref, "ref")
    if OFFLINE in checkpoint.publishers and written.repeats(base, checkpoint):
        # Such a checkpoint has a new state each time that it is published: that it was before only its content tells.
        return base
    publisher = min(checkpoint.publishers, default=PublisherId(""))
    through = checkpoint.trained_through
    if written.dense is not None and written.dense == base.dense:
        # A trainer that began again from before it has not unlearned what it does not bring anew.
        through = max(through, base.trained_through)
    draft = Manifest(
        model=env.catalog.model, version=Version(0), kind=kind, state=checkpoint.state, previous=base.version, base=base.version,
        positions=checkpoint.positions, trained_through=through, created_at=env.clock(), publisher=publisher,
        term=checkpoint.publishers.get(publisher, Term(0)), upload=upload.id, changes=written.changes, full=written.full,
        digests=written.digests, dense=written.dense, checkpoint=written.checkpoint, source=written.source,  # type: ignore[arg-type]
        shapes=written.shapes, retired=written.retired,
    )  # fmt: skip

    def guard(refs: Refs) -> None:
        leases.check_upload(env.catalog, upload.id)
        marked_checkpoint(env.catalog, checkpoint.state)
        if refs.timeline != checkpoint.state.timeline:
            # Before the trunk is looked at: after a rollback the same checkpoint must not be tried again.
            check_current(checkpoint, env.catalog.history(refs))

    return env.catalog.commit(draft, promote=promote, guard=guard, actor=env.actor(why))


def whole_state(history: History, of: Manifest) -> Manifest | None:
    """The version that holds the state of trunk version `of` as a whole, if any."""
    return history.bases.get(of.state) or (of if of.full is not None and of.kind != "birth" else None)


def register_whole(
    env: Environment,
    of: Manifest,
    full: dict[str, TableFull],
    upload: Upload,
    *,
    kind: Kind,
    why: str,
    archive: Archive | None = None,
) -> Manifest:
    """Registers a whole state as a base beside the chain of trunk version `of`. `ChainBroken` when it is another state than the
    chain's: newcomers would not serve what those serve who followed."""
    history = env.catalog.history()
    buckets = env.catalog.reload_schema().buckets
    stated, chain = history.stated_digests(of, buckets) or {}, history.chain(of.version)
    for table in sorted(env.schema.tables):
        expected = stated[table] if table in stated else _chain_digests(env, chain, table)
        found = full[table].state.array(buckets) if table in full else np.zeros(buckets, np.uint64)
        if (different := np.flatnonzero(found != expected)).size:
            raise ChainBroken(
                f"table {table}: not the state that version {of.version} has, the digests of {len(different)} buckets differ",
                hint="was the checkpoint changed, or a key touched that is in no list? Publish a snapshot of a newer checkpoint",
            )
    draft = msgspec.structs.replace(
        of, version=Version(0), kind=kind, previous=None, base=None, created_at=env.clock(), upload=upload.id, changes={},
        full=full, digests=None, source="whole", rollback=None, checkpoint=archive,
    )  # fmt: skip
    return env.catalog.add_base(draft, guard=lambda refs: leases.check_upload(env.catalog, upload.id), actor=env.actor(why))


def _chain_digests(env: Environment, chain: list[Manifest], table: str) -> Digests:
    with Layers.open(env.catalog.store, TableLayout.of(env.schema, table), table_layers(chain, table)) as layers:
        return layers.digests()
