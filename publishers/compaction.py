"""Compaction: a chain written as one whole state beside it. Bytes change, content does not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.catalog import leases
from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.errors import ChainBroken
from penstock.pipeline.core.history import table_layers
from penstock.pipeline.core.ids import Version
from penstock.pipeline.core.manifest import Manifest, RunInfo, TableFull
from penstock.pipeline.environment import Environment
from penstock.slicer.layers import Layers
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.slicing import slice_rows

from .commits import Written, data_prefix, draft_of
from .snapshot import as_checkpoint


def chain_length(env: Environment, version: Version | None = None) -> int:
    """How many versions a newcomer loads for `version`, by default the newest."""
    history = env.catalog.history()
    return len(history.chain(history.newest.version if version is None else version))


def compact(env: Environment, version: Version | None = None, *, why: str = "") -> Manifest:
    """Writes the state of `version` (by default the newest) as a whole, and registers it beside the chain. A state that is there
    as a whole already is returned as it is. `ChainBroken` when the chain does not have the digests that it states."""
    history = env.catalog.history()
    of = history.newest if version is None else history.version(version)
    chain = history.chain(of.version)
    if len(chain) == 1 and chain[0].full is not None:
        return chain[0]
    stated = of.state_digests(env.schema.buckets)
    upload = leases.open_upload(env.catalog, purpose=f"compaction of version {of.version}", actor=env.actor(why))
    full = {}
    for name in env.schema.tables:
        layout = TableLayout.of(env.schema, name)
        with Layers.open(env.catalog.store, layout, table_layers(chain, name)) as layers:
            runs, digests = _merged_runs(env, layers, layout, data_prefix(env, upload))
        if stated is not None and not np.array_equal(stated.get(name, np.zeros_like(digests)), digests):
            raise ChainBroken(f"version {of.version}, table {name}: its chain does not have the digests that it states")
        full[name] = TableFull(runs=runs, state=DigestVector.of(digests))
    draft = draft_of(
        env, as_checkpoint(of), None, Written(full=full, dense=of.dense), kind="compaction", source="whole", upload=upload
    )
    return env.catalog.add_base(draft, guard=lambda refs: leases.check_upload(env.catalog, upload.id), actor=env.actor(why))


def _merged_runs(
    env: Environment, layers: Layers, layout: TableLayout, prefix: str
) -> tuple[tuple[RunInfo, ...], NDArray[np.uint64]]:
    """The rows that count, a run for each stretch that fits the memory budget, and the digests of all."""
    digests = np.zeros(layout.buckets, np.uint64)
    runs: list[RunInfo] = []
    for number, (keys, rows) in enumerate(layers.merged()):
        part = slice_rows(keys, rows, np.empty(0, np.int64), layout, env.catalog.store, prefix, number=number)
        digests += part.interval
        runs += part.runs
    return tuple(runs), digests
