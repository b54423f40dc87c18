"""Publishes a snapshot: a whole state. The first one of a model starts its chain; a later one stands beside it.

A later snapshot comes with the delta of its state, so that what was touched since the version before can always be told; the
whole state is then an alternate base, which may take its time, moves no ref and conflicts with nobody.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.pipeline.catalog import leases
from penstock.pipeline.core.checkpoint import Checkpoint, Sidecar
from penstock.pipeline.core.coordination import Upload
from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.history import History, table_layers
from penstock.pipeline.core.manifest import Archive, DenseInfo, Manifest, TableChange, TableFull
from penstock.pipeline.core.times import EventTime
from penstock.pipeline.environment import Environment
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.slicing import slice_table

from .commits import (
    PROMOTE,
    Written,
    archived,
    check_current,
    commit_checkpoint,
    data_prefix,
    dense_of,
    register_whole,
    whole_state,
)
from .compaction import merged_table
from .delta import commit_compared
from .offline import committed_as, learned, place
from .schema_change import arranged, check_shapes, plan_source, tell
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
    """Slices the whole checkpoint and commits it; returns the version that holds the whole state, the earlier one if this run was
    made before. A table may have another dim or codec than before. Other errors as of `publish_delta`; `ChainBroken` when another
    state than the source's was committed by its name."""
    source.check_whole()
    history = env.catalog.history()
    committed = committed_as(history, learned(env, sidecar, trained_through)[0])
    plan = plan_source(env, source, committed or history.newest)
    if committed is not None:
        check_shapes(plan)
    source = arranged(source, plan)
    of = committed or place(env, history, sidecar, trained_through)
    if isinstance(of, Checkpoint):
        check_current(of, history)
        tell(plan, history.newest)
        env.catalog.add_tables(plan.found)
        if history.newest.kind == "birth" and not plan.others:
            upload = leases.open_upload(env.catalog, purpose=f"snapshot of state {of.state}", actor=env.actor(why))
            dense = dense_of(env, source, data_prefix(env, upload), history.newest, of)
            full, archive = sliced(env, source, upload), archived(env, source, data_prefix(env, upload))
            return commit_first(env, of, full, dense, history, upload, archive=archive, promote=promote, why=why)
        of = commit_compared(env, source, of, history, plan, promote=promote, why=why)
    if (whole := whole_state(env.catalog.history(), of)) is not None:
        return whole
    upload = leases.open_upload(env.catalog, purpose=f"snapshot of state {of.state}", actor=env.actor(why))
    full, archive = sliced(env, source, upload), archived(env, source, data_prefix(env, upload))
    full |= merged_others(env, of, full, upload)
    return register_whole(env, of, full, upload, kind="snapshot", why=why, archive=archive)


def sliced(env: Environment, source: Source, upload: Upload) -> dict[str, TableFull]:
    """Every table of the source as runs."""
    full = {}
    for name, table in source.tables.items():
        found = slice_table(table, TableLayout.of(env.schema, name), env.catalog.store, data_prefix(env, upload))
        full[name] = TableFull(runs=found.runs, state=DigestVector.of(found.digests))
    return full


def merged_others(env: Environment, of: Manifest, full: Mapping[str, TableFull], upload: Upload) -> dict[str, TableFull]:
    """The generations that the source has no rows of, as the chain of `of` has them."""
    history = env.catalog.history()
    buckets = env.catalog.reload_schema().buckets
    # A run of several processes may be joined again after a crash, in the same folder.
    prefix = f"{data_prefix(env, upload)}/others-{env.catalog.new_id()}"
    stated, chain, found = history.stated_digests(of, buckets) or {}, history.chain(of.version), {}
    for name in env.schema.tables:
        if name in full or not (name in stated or table_layers(chain, name)):
            continue
        if name in stated and not stated[name].any():
            found[name] = TableFull(runs=(), state=DigestVector.of(stated[name]))
        else:
            found[name] = merged_table(env, chain, name, prefix)
    return found


def commit_first(
    env: Environment,
    checkpoint: Checkpoint,
    full: dict[str, TableFull],
    dense: DenseInfo | None,
    history: History,
    upload: Upload,
    *,
    archive: Archive | None = None,
    promote: tuple[str, ...],
    why: str,
) -> Manifest:
    """The first version after the birth: its difference to the empty state is the whole of it, in the same runs."""
    changes = {name: TableChange(runs=found.runs, interval=found.state) for name, found in full.items()}
    written = Written(changes, dense, "whole", {}, (), full=full, checkpoint=archive)
    return commit_checkpoint(env, checkpoint, history.newest, written, kind="snapshot", upload=upload, promote=promote, why=why)
