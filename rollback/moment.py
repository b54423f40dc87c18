"""A model as it was at a moment: the state that a rollback to there would restore, without one. Reads only."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from penstock.pipeline.core.history import table_layers
from penstock.pipeline.core.ids import Offset, Timeline
from penstock.pipeline.core.manifest import Manifest, Target
from penstock.pipeline.environment import Environment
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.slicer.export import write_parquet
from penstock.slicer.layers import Layers
from penstock.slicer.names import Names
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.runs import Run
from penstock.slicer.slicing import slice_rows

from .gathering import Folded, ends_of, fold, locate


@dataclass(frozen=True, slots=True)
class Moment:
    """The `chain` of the version `base`, the oldest first, and what the log brought from there on to the moment."""

    base: Manifest
    chain: tuple[Manifest, ...]
    folded: Folded


def state_before(env: Environment, target: Target, of: Timeline | None = None) -> Moment:
    """The state at `target` on timeline `of`, by default the live one; errors as of `plan_rollback`. Memory: the rows that the
    log wrote between the base and the moment."""
    env.catalog.reload_schema()
    history = env.catalog.history()
    located = locate(env, history, target, of)
    ends = ends_of(env, history, located.history.newest.timeline)
    cuts = [end if cut is None else Offset(min(cut, end)) for cut, end in zip(located.cuts, ends, strict=True)]
    chain = tuple(history.chain(located.base.version))
    return Moment(located.base, chain, fold(env, located.history, located.base, cuts))


def export_moment(env: Environment, moment: Moment, table: str, output: Path) -> int:
    """Writes one table as parquet, in the order of the buckets; returns the rows."""
    layout, scratch = TableLayout.of(env.schema, moment.base.generation(table)), MemoryStore()
    found = [(env.catalog.store, layer) for layer in table_layers(moment.chain, layout.table)]
    if (written := moment.folded.written.get(layout.table)) is not None:
        sliced = slice_rows(written.keys, written.rows, written.tombstones, layout, scratch, "folded")
        found.append((scratch, sliced.runs))
    with ExitStack() as opened:
        runs = [
            [opened.enter_context(Run.open(store, info, buckets=layout.buckets, layout=layout)) for info in layer]
            for store, layer in found
        ]
        layers = Layers(layout, runs)
        names_of = Names(layers).of_keys if env.schema.table(layout.table).keys == "string" else None
        return write_parquet(output, layout, layers.merged(), names_of=names_of)
