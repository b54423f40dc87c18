"""What every publish of a checkpoint shares: what it needs to be committed, and the commit itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.pipeline.catalog import keys, leases
from penstock.pipeline.catalog.checkpoints import marked_checkpoint
from penstock.pipeline.core.checkpoint import Checkpoint
from penstock.pipeline.core.coordination import Upload
from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.errors import NotResumable, Refused
from penstock.pipeline.core.history import History
from penstock.pipeline.core.ids import PublisherId, Term, Version
from penstock.pipeline.core.manifest import DenseInfo, Kind, Manifest, TableChange, TableFull
from penstock.pipeline.core.refs import LIVE, Refs
from penstock.pipeline.environment import Environment
from penstock.slicer.dense import write_dense

from .sources import Source

PROMOTE = (LIVE,)


@dataclass(slots=True)
class Written:
    """What a publish has written so far. `digests`: of the state, as far as it is known."""

    changes: dict[str, TableChange] = field(default_factory=dict)
    full: dict[str, TableFull] | None = None
    digests: dict[str, DigestVector] | None = None
    dense: DenseInfo | None = None


def check_current(checkpoint: Checkpoint, refs: Refs, history: History) -> None:
    """The checkpoint must be of the live timeline, and newer than the newest version."""
    if checkpoint.state.timeline != refs.timeline:
        raise NotResumable(
            f"checkpoint {checkpoint.state} was taken on timeline {checkpoint.state.timeline}; the model was rolled back and is on "
            f"timeline {refs.timeline}, at state {history.newest.state}"
        )
    if checkpoint.state.marker <= history.newest.state.marker:
        raise Refused(
            f"checkpoint {checkpoint.state} is older than version {history.newest.version} of state {history.newest.state}"
        )


def data_prefix(env: Environment, upload: Upload) -> str:
    return keys.data(env.catalog.model, upload.id)


def dense_of(env: Environment, source: Source, prefix: str, base: Manifest) -> DenseInfo | None:
    """The source's dense slice; the base's, where it is the same, or where the source has none."""
    if not source.dense:
        return base.dense
    found = write_dense(env.catalog.store, f"{prefix}/dense.safetensors", source.dense)
    return base.dense if base.dense is not None and base.dense.digest == found.digest else found


def commit_checkpoint(
    env: Environment,
    checkpoint: Checkpoint,
    base: Manifest,
    written: Written,
    *,
    kind: Kind,
    source: str,
    upload: Upload,
    promote: tuple[str, ...],
    why: str,
) -> Manifest:
    """One commit of a checkpoint's state, a difference to `base`, the newest version."""

    def guard(refs: Refs) -> None:
        leases.check_upload(env.catalog, upload.id)
        marked_checkpoint(env.catalog, checkpoint.state)
        check_current(checkpoint, refs, env.catalog.history(refs))

    draft = draft_of(env, checkpoint, base, written, kind=kind, source=source, upload=upload)
    return env.catalog.commit(draft, promote=promote, guard=guard, actor=env.actor(why))


def draft_of(
    env: Environment, checkpoint: Checkpoint, base: Manifest | None, written: Written, *, kind: Kind, source: str, upload: Upload
) -> Manifest:
    assert checkpoint.positions is not None
    publisher = next(iter(sorted(checkpoint.publishers)), PublisherId(""))
    return Manifest(
        model=env.catalog.model, version=Version(0), kind=kind, state=checkpoint.state,
        previous=None if base is None else base.version, base=None if base is None else base.version,
        positions=checkpoint.positions, trained_through=checkpoint.trained_through, created_at=env.clock(), publisher=publisher,
        term=checkpoint.publishers.get(publisher, Term(0)), upload=upload.id, changes=written.changes, full=written.full,
        digests=written.digests, dense=written.dense, source=source,  # type: ignore[arg-type]
    )  # fmt: skip
