"""Publishes a snapshot: a whole state. The first one of a model starts its chain; a later one stands beside it.

A later snapshot comes with the delta of its state, so that what was touched since the version before can always be told; the
whole state is then an alternate base, which may take its time, moves no ref and conflicts with nobody.
"""

from __future__ import annotations

from penstock.pipeline.catalog import leases
from penstock.pipeline.core.checkpoint import Checkpoint, Sidecar
from penstock.pipeline.core.coordination import Upload
from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.manifest import Manifest, TableChange, TableFull
from penstock.pipeline.core.times import EventTime
from penstock.pipeline.environment import Environment
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.slicing import slice_table

from .commits import PROMOTE, Written, check_current, commit_checkpoint, data_prefix, dense_of, draft_of
from .delta import check_tables, commit_delta
from .offline import place
from .sources import Source


def publish_snapshot(
    env: Environment,
    source: Source,
    *,
    sidecar: Sidecar | None = None,
    trained_through: EventTime | None = None,
    promote: tuple[str, ...] = PROMOTE,
    why: str = "",
) -> Manifest:
    """Slices the whole checkpoint and commits it; errors as of `publish_delta`. Returns the version that holds the whole state."""
    check_tables(env, source)
    env.catalog.add_tables(source.schemas())
    placed = place(env, sidecar, trained_through, None)
    history = env.catalog.history()
    state = placed.state
    if (whole := _whole(env, placed)) is not None:
        return whole
    upload = leases.open_upload(env.catalog, purpose=f"snapshot of state {state}", actor=env.actor(why))
    if isinstance(placed, Checkpoint) and history.newest.kind == "birth":
        return commit_first(env, placed, sliced(env, source, upload), source, upload, promote=promote, why=why)
    delta = placed if isinstance(placed, Manifest) else commit_delta(env, source, placed, promote=promote, why=why)
    return add_snapshot(env, delta, sliced(env, source, upload), upload, why=why)


def sliced(env: Environment, source: Source, upload: Upload) -> dict[str, TableFull]:
    """Every table of the source as runs."""
    full = {}
    for name, table in source.tables.items():
        found = slice_table(table, TableLayout.of(env.schema, name), env.catalog.store, data_prefix(env, upload))
        full[name] = TableFull(runs=found.runs, state=DigestVector.of(found.digests))
    return full


def commit_first(
    env: Environment,
    checkpoint: Checkpoint,
    full: dict[str, TableFull],
    source: Source,
    upload: Upload,
    *,
    promote: tuple[str, ...],
    why: str,
) -> Manifest:
    """The first version after the birth: its difference to the empty state is the whole of it, in the same runs."""
    refs = env.catalog.refs()
    history = env.catalog.history(refs)
    check_current(checkpoint, refs, history)
    changes = {name: TableChange(runs=found.runs, interval=found.state) for name, found in full.items()}
    dense = dense_of(env, source, data_prefix(env, upload), history.newest)
    written = Written(changes=changes, full=full, dense=dense)
    return commit_checkpoint(
        env, checkpoint, history.newest, written, kind="snapshot", source="whole", upload=upload, promote=promote, why=why
    )


def add_snapshot(env: Environment, of: Manifest, full: dict[str, TableFull], upload: Upload, *, why: str) -> Manifest:
    """Registers a whole state as a base of the committed version `of`, which has the same state."""
    draft = draft_of(
        env, as_checkpoint(of), None, Written(full=full, dense=of.dense), kind="snapshot", source="whole", upload=upload
    )
    return env.catalog.add_base(draft, guard=lambda refs: leases.check_upload(env.catalog, upload.id), actor=env.actor(why))


def as_checkpoint(version: Manifest) -> Checkpoint:
    """A committed version, as what it was committed from."""
    return Checkpoint(
        id="", state=version.state, status="marked", created_at=version.created_at, publishers={version.publisher: version.term},
        positions=version.positions, trained_through=version.trained_through, touched={},
    )  # fmt: skip


def _whole(env: Environment, placed: Checkpoint | Manifest) -> Manifest | None:
    """The version that holds this state as a whole already, if any: the run was made before."""
    history = env.catalog.history()
    committed = history.of_state(placed.state)
    if committed is not None and committed.full is not None and committed.kind != "birth":
        return committed
    beside = history.bases.get(placed.state)
    return beside if beside is not None and committed is not None else None
