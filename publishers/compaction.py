"""Compaction: a chain written as one whole state beside it. Bytes change, content does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.pipeline.catalog import leases
from penstock.pipeline.core.history import table_layers
from penstock.pipeline.core.ids import Version
from penstock.pipeline.core.manifest import Manifest, TableFull
from penstock.pipeline.environment import Environment
from penstock.slicer.layers import Layers
from penstock.slicer.names import Names
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.slicing import slice_rows

from .commits import Collected, data_prefix, register_whole, whole_state


def chain_length(env: Environment, version: Version | None = None) -> int:
    """How many versions a newcomer loads for `version`, by default the newest."""
    history = env.catalog.history()
    return len(history.chain(history.newest.version if version is None else version))


def compact(env: Environment, version: Version | None = None, *, why: str = "") -> Manifest:
    """Writes the state of `version` (by default the newest) as a whole, and registers it beside the chain. A state that is there
    as a whole already is returned as it is. `ChainBroken` when the chain does not have the digests that it states."""
    history = env.catalog.history()
    of = history.newest if version is None else history.version(version)
    if of in history.bases.values() or of.kind == "birth":
        return of
    if (whole := whole_state(history, of)) is not None:
        return whole
    schema, chain = env.catalog.reload_schema(), history.chain(of.version)  # tables may have been born since it was read
    upload = leases.open_upload(env.catalog, purpose=f"compaction of version {of.version}", actor=env.actor(why))
    full = {}
    for name in schema.tables:
        if table_layers(chain, name):
            full[name] = merged_table(env, chain, name, data_prefix(env, upload))
    return register_whole(env, of, full, upload, kind="compaction", why=why)


def merged_table(env: Environment, chain: Sequence[Manifest], name: str, prefix: str) -> TableFull:
    """A table as a chain has it, written anew under `prefix`."""
    layout = TableLayout.of(env.schema, name)
    with Layers.open(env.catalog.store, layout, table_layers(chain, name)) as layers:
        return _merged(env, layers, layout, prefix).full()


def _merged(env: Environment, layers: Layers, layout: TableLayout, prefix: str) -> Collected:
    """The rows that count, in a run for each stretch that fits the memory budget, with the names that are known."""
    found, none, names = Collected(layout.buckets), np.empty(0, np.int64), Names.among(layers)
    for number, (keys, rows) in enumerate(layers.merged()):
        known = None if names is None else names.of_keys(keys)
        part = slice_rows(keys, rows, none, layout, env.catalog.store, prefix, number=number, names=known)
        found.add(part.runs, part.interval)
    return found
