"""A snapshot sliced by several processes: each takes a range of the rows of every table, and one commits what all have written.

What a part has written stands in a document beside its data, in the upload that the run's name stands for. Until the commit
nothing refers to it, and retention gives it up like that of any other publish.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.pipeline.catalog import keys, leases
from penstock.pipeline.catalog.checkpoints import marked_checkpoint
from penstock.pipeline.core.checkpoint import Checkpoint, Sidecar
from penstock.pipeline.core.coordination import Upload
from penstock.pipeline.core.documents import FORMAT, DigestVector, Document, decode, encode
from penstock.pipeline.core.errors import CommitConflict, InvalidInput, NotFound, Refused
from penstock.pipeline.core.history import History, table_layers
from penstock.pipeline.core.ids import State
from penstock.pipeline.core.manifest import DenseInfo, Manifest, RunInfo, TableChange, TableFull
from penstock.pipeline.core.schema import TableSchema
from penstock.pipeline.core.schema_change import TablePlan
from penstock.pipeline.core.times import EventTime
from penstock.pipeline.environment import Environment
from penstock.pipeline.ports.settling import put_settled
from penstock.pipeline.ports.store import Create
from penstock.slicer.layers import Layers
from penstock.slicer.row_source import RowSource
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.slicing import check_distinct, slice_table

from .carrying import carry
from .commits import (
    PROMOTE,
    Collected,
    Written,
    check_current,
    commit_checkpoint,
    data_prefix,
    dense_of,
    register_whole,
    whole_state,
)
from .delta import touched_since
from .differing import difference
from .offline import committed_as, learned, place
from .schema_change import arranged, plan_found, plan_source, tell
from .snapshot import commit_first, merged_others
from .sources import Source


class TablePart(Document, frozen=True, kw_only=True):
    """Rows [start, stop) of a table of `total` rows, as runs. `numbered`: their numbers are their keys."""

    schema: TableSchema
    total: int
    start: int
    stop: int
    numbered: bool
    runs: tuple[RunInfo, ...]
    digests: DigestVector


class PartDocument(Document, frozen=True, kw_only=True):
    """`data/<run>/parts/<part>.json`: part `part` of `of`, of the checkpoint of `state` ("" where it has no place in the log yet)
    that has learned up to `trained_through`. The dense slice is in part 1."""

    format: int = FORMAT
    run: str
    part: int
    of: int
    state: str
    trained_through: EventTime | None
    tables: dict[str, TablePart]
    dense: DenseInfo | None = None

    @property
    def rows(self) -> int:
        return sum(table.stop - table.start for table in self.tables.values())

    @property
    def checkpoint(self) -> tuple[object, ...]:
        """Equal for all parts of one run over one checkpoint."""
        shapes = {name: (table.schema, table.total, table.numbered) for name, table in self.tables.items()}
        return self.run, self.of, self.state, self.trained_through, shapes


def publish_part(
    env: Environment,
    source: Source,
    *,
    run: str,
    part: int,
    of: int,
    sidecar: Sidecar | None = None,
    trained_through: EventTime | None = None,
) -> PartDocument:
    """Slices part `part` of `of` (from 1) for the run `run`; returns what an earlier call has sliced, if one did. `Refused` when
    that was of another checkpoint; `Expired` when retention gave the run up; other errors as of `publish_snapshot`."""
    if not 1 <= part <= of:
        raise InvalidInput(f"part {part} of {of}")
    source.check_whole()
    state, through = learned(env, sidecar, trained_through)
    history = env.catalog.history()
    committed = None if state is None else history.of_state(state)
    plan = plan_source(env, source, committed or history.newest)
    source = arranged(source, plan)
    if state is not None and committed is None:
        check_current(marked_checkpoint(env.catalog, state), history)
    env.catalog.add_tables(plan.found)
    upload = leases.join_upload(env.catalog, run, purpose=f"parts of run {run}", actor=env.actor(f"part {part} of {of}"))
    planned = PartDocument(
        run=run, part=part, of=of, state="" if state is None else str(state), trained_through=through,
        tables={name: _planned(table, plan.found[name], part, of, env.schema.buckets) for name, table in source.tables.items()},
    )  # fmt: skip
    if (found := _read(env, upload, part)) is not None:
        return _same(found, planned)
    # Two processes may slice the same part at once: none writes where the other does.
    prefix = f"{data_prefix(env, upload)}/part-{part}-{env.catalog.new_id()}"
    tables = {name: _sliced(env, source.tables[name], name, piece, prefix) for name, piece in planned.tables.items()}
    dense = dense_of(env, source, prefix, history.newest, None) if part == 1 else None
    written = PartDocument(run=run, part=part, of=of, state=planned.state, trained_through=through, tables=tables, dense=dense)
    try:
        put_settled(env.catalog.store, _key(env, upload, part), encode(written), Create())
    except CommitConflict:
        return _same(decode(PartDocument, env.catalog.store.get(_key(env, upload, part)).data, run), planned)
    return written


def commit_parts(env: Environment, *, run: str, promote: tuple[str, ...] = PROMOTE, why: str = "") -> Manifest:
    """Joins the parts of a run into one snapshot and commits it as `publish_snapshot` does; returns the version that an earlier
    call has made. `NotFound`: no such run. `Refused`: parts are missing, of different checkpoints, or have a key in common."""
    history = env.catalog.history()
    for version in (*history.bases.values(), *history.trunk):
        if version.upload == run and version.full is not None:
            return version
    upload = _upload(env, run)
    joined = _joined(env, upload)
    committed = next((m for m in history.trunk if m.upload == run), None) or committed_as(history, joined.state)
    plan = plan_found(env, f"run {run}", committed or history.newest, joined.schemas)
    of = committed or joined.place(env, history)
    if isinstance(of, Checkpoint):
        check_current(of, history)
        tell(plan, history.newest)
        if history.newest.kind == "birth" and not plan.others:
            return commit_first(env, of, joined.full, joined.dense, history, upload, promote=promote, why=why)
        of = _commit_difference(env, of, joined, history, plan, upload, promote=promote, why=why)
    if (whole := whole_state(env.catalog.history(), of)) is not None:
        return whole
    full = joined.full | merged_others(env, of, joined.full, upload)
    return register_whole(env, of, full, upload, kind="snapshot", why=why)


@dataclass(frozen=True, slots=True)
class _Joined:
    """All parts of a run."""

    first: PartDocument
    full: dict[str, TableFull]

    @property
    def dense(self) -> DenseInfo | None:
        return self.first.dense

    @property
    def schemas(self) -> dict[str, TableSchema]:
        """By the names of the tables, whatever their generations."""
        return {part.schema.generation_of or name: part.schema for name, part in self.first.tables.items()}

    @property
    def state(self) -> State | None:
        return State.parse(self.first.state) if self.first.state else None

    def place(self, env: Environment, history: History) -> Checkpoint | Manifest:
        return place(env, history, Sidecar(state=self.first.state), self.first.trained_through)


def _planned(table: RowSource, schema: TableSchema, part: int, of: int, buckets: int) -> TablePart:
    start, stop = table.rows * (part - 1) // of, table.rows * part // of
    return TablePart(
        schema=schema, total=table.rows, start=start, stop=stop, numbered=table.keys(0, 0) is None, runs=(),
        digests=DigestVector.of(np.zeros(buckets, np.uint64)),
    )  # fmt: skip


def _sliced(env: Environment, table: RowSource, name: str, planned: TablePart, prefix: str) -> TablePart:
    if planned.start == planned.stop:
        return planned
    layout = TableLayout.of(env.schema, name)
    found = slice_table(table, layout, env.catalog.store, prefix, start=planned.start, stop=planned.stop)
    return TablePart(
        schema=planned.schema, total=planned.total, start=planned.start, stop=planned.stop, numbered=planned.numbered,
        runs=found.runs, digests=DigestVector.of(found.digests),
    )  # fmt: skip


def _same(found: PartDocument, planned: PartDocument) -> PartDocument:
    if found.checkpoint != planned.checkpoint:
        raise Refused(
            f"part {found.part} of run {found.run} was sliced of another checkpoint, or as one of {found.of}",
            hint="give each checkpoint a run of its own",
        )
    return found


def _key(env: Environment, upload: Upload, part: int) -> str:
    return f"{data_prefix(env, upload)}/parts/{part:06d}.json"


def _read(env: Environment, upload: Upload, part: int) -> PartDocument | None:
    key = _key(env, upload, part)
    try:
        return decode(PartDocument, env.catalog.store.get(key).data, key)
    except NotFound:
        return None


def _upload(env: Environment, run: str) -> Upload:
    try:
        found = env.catalog.store.get(keys.upload(env.catalog.model, run))
    except NotFound:
        raise NotFound(f"model {env.catalog.model} has no run {run!r}", hint="publish its parts first") from None
    leases.check_upload(env.catalog, run)
    return decode(Upload, found.data, run)


def _joined(env: Environment, upload: Upload) -> _Joined:
    first = _read(env, upload, 1)
    if first is None:
        raise Refused(f"run {upload.id}: part 1 is missing")
    parts = [first, *(_read(env, upload, part) for part in range(2, first.of + 1))]
    if missing := [str(number) for number, part in enumerate(parts, 1) if part is None]:
        raise Refused(f"run {upload.id}: parts {', '.join(missing)} of {first.of} are missing")
    found = [_same(part, first) for part in parts if part is not None]
    full = {}
    for name, table in first.tables.items():
        layout = TableLayout.of(env.schema, name)
        collected = Collected(layout.buckets)
        for part in found:
            collected.add(part.tables[name].runs, part.tables[name].digests.array(layout.buckets))
        if not table.numbered:
            check_distinct(env.catalog.store, collected.runs, layout)
        full[name] = collected.full()
    return _Joined(first, full)


def _commit_difference(
    env: Environment,
    checkpoint: Checkpoint,
    joined: _Joined,
    history: History,
    plan: TablePlan,
    upload: Upload,
    *,
    promote: tuple[str, ...],
    why: str,
) -> Manifest:
    base, changes = history.newest, {}
    for name, full in joined.full.items():
        changes[name] = _difference(env, TableLayout.of(env.schema, name), history, full, data_prefix(env, upload))
    digests = {name: full.state for name, full in joined.full.items()}
    prefix = f"{data_prefix(env, upload)}/others-{env.catalog.new_id()}"
    carried = carry(env, history, checkpoint, plan, touched_since(env, base, checkpoint).tables, prefix)
    # Another version may have brought the same slice since part 1 was written.
    same = joined.dense is None or (base.dense is not None and joined.dense.digest == base.dense.digest)
    dense = base.dense if same else joined.dense
    changes, digests = changes | carried.changes, digests | carried.digests
    written = Written(changes, dense, "compared", plan.shapes, plan.retired, digests=digests)
    return commit_checkpoint(env, checkpoint, base, written, kind="delta", upload=upload, promote=promote, why=plan.reason(why))


def _difference(env: Environment, layout: TableLayout, history: History, full: TableFull, prefix: str) -> TableChange:
    store, chain = env.catalog.store, history.chain(history.newest.version)
    with (
        Layers.open(store, layout, table_layers(chain, layout.table)) as base,
        Layers.open(store, layout, [full.runs]) as new,
    ):
        return difference(base, new, store, f"{prefix}/delta-{env.catalog.new_id()}").change()
