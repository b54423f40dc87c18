"""Who publishes what a trainer saved, and the trainer that has no realtime tier and publishes by itself."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np

from penstock.pipeline.environment import Environment
from penstock.publishers.compaction import compact
from penstock.publishers.delta import publish_delta
from penstock.publishers.folding import publish_delta_from_log
from penstock.publishers.snapshot import publish_snapshot
from penstock.publishers.sources import Source, array_source

from .meeting import survived
from .scheduler import Process
from .states import MODEL, Rows, difference, ensure, event, number_of
from .trainer import exported
from .world import KEYS, Saved, World


def source_of(env: Environment, saved: Saved) -> Source:
    tables = {}
    for table in saved.shapes.tables:
        keys = sorted(key for name, key in saved.rows if name == table)
        rows = np.array([saved.rows[table, key] for key in keys], np.float32).reshape(-1, saved.shapes.dims[table])
        tables[table] = (np.array(keys, np.int64), rows)
    dense = {} if saved.dense is None else {"w": np.array(saved.dense, np.float32)}
    return array_source(tables, dense, env.config.models[MODEL])


def publisher(world: World, process: Process) -> None:
    """Publishes what the trainer saved, with the config of the day."""
    chance = random.Random(world.chance.random())
    while world.budget > 0:
        world.budget -= 1
        if world.saved:
            saved = world.saved[-1] if chance.random() < 0.85 else chance.choice(world.saved)
            what = chance.choices(["delta", "snapshot", "log", "compact"], [6, 1, 2, 1])[0]
            promote = ("live", "canary") if "canary" in world.features and chance.random() < 0.3 else ("live",)
            survived(world, f"publish {what}", partial(publish, world.environment(process), saved, what, promote))
        world.scheduler.sleep(chance.choice((0.1, 1.0, 3.0, 6.0)))


def publish(env: Environment, saved: Saved, what: str, promote: tuple[str, ...] = ("live",)) -> Any:
    if what == "compact":
        return compact(env)
    if what == "log":
        return publish_delta_from_log(env, promote=promote)
    run = publish_delta if what == "delta" else publish_snapshot
    return run(env, source_of(env, saved), sidecar=saved.sidecar, promote=promote)


def offline_trainer(world: World, process: Process) -> None:
    """Loads the newest version, learns, and publishes checkpoints without a sidecar."""
    chance = random.Random(world.chance.random())
    while world.budget > 0:
        world.budget -= 1
        survived(world, "offline", partial(_publish_offline, world, world.environment(process), chance))
        world.scheduler.sleep(chance.choice((0.2, 2.0, 5.0)))


def _publish_offline(world: World, env: Environment, chance: random.Random) -> Any:
    base = env.catalog.history().newest
    saved = exported(world, env, base)
    learned = max(saved.learned, int(number_of(env.clock())))
    shapes = world.shapes
    rows, touched = shapes.fit(saved.rows), dict[str, set[int]]()
    for _ in range(chance.randint(1, 6)):
        table, key = chance.choice(shapes.tables), chance.choice(KEYS)
        rows.pop((table, key), None)
        if chance.random() < 0.8:
            rows[table, key] = (float(learned), float(world.next_serial()), *[0.0] * (shapes.dims[table] - 2))
        touched.setdefault(table, set()).add(key)
    what = chance.choice(("touched", "touched", "partial", "compared", "snapshot"))
    if base.kind == "birth" or chance.random() < 0.1:
        what = "snapshot"
    if what == "partial":  # of the other tables it says nothing, whatever shape they have in the trainer
        others = {key: row for key, row in saved.rows.items() if key[0] in shapes.tables and key[0] not in touched}
        rows = {key: row for key, row in rows.items() if key[0] in touched} | others
    after = Saved(saved.sidecar, rows, learned, learned, saved.dense, shapes)
    told = {table: np.array(sorted(keys), np.int64) for table, keys in touched.items()}
    return _published(world, env, after, what, told, base)


def _published(world: World, env: Environment, after: Saved, what: str, told: dict[str, Any], base: Any) -> Any:
    """A list of touched keys is one of what differs from the version that was loaded: if another one is the newest by now, the
    list is wrong, and nobody can know."""
    through = event(after.through)
    if what in ("touched", "partial") and env.catalog.refs().trunk != base.version:
        return None
    if what == "partial":
        found = publish_delta(env, _partial(env, after, told), trained_through=through)  # type: ignore[arg-type]
    else:
        source, options = source_of(env, after), {"touched": told} if what == "touched" else {}
        run = publish_snapshot if what == "snapshot" else publish_delta
        found = run(env, source, trained_through=through, **options)  # type: ignore[arg-type, operator]
    if found.source == "touched" and base.version not in (found.base, found.version):
        world.invariants.unclear = "keys were told of another version"
    else:
        _is_published(world, found, after)
    return found


def _is_published(world: World, found: Any, after: Saved) -> None:
    """The version, or, where it stands beside the chain, the one of its state, has the rows that were given."""
    states = world.invariants.states
    version = states.catalog.history().of_state(found.state)
    if version is not None:
        rows = states.read(version, world.invariants.known.get(version.version, {}))
        ensure(rows == after.rows, f"version {version.version}, published offline: {difference(rows, after.rows)}")


def _partial(env: Environment, after: Saved, told: dict[str, Any]) -> Source:
    """A checkpoint of the rows that changed alone."""
    some = Rows({(table, key): row for (table, key), row in after.rows.items() if table in told and key in told[table]})
    whole = source_of(env, Saved(after.sidecar, some, after.learned, after.through, after.dense, after.shapes))
    there = {table: {key for name, key in some if name == table} for table in told}
    gone = {table: np.array([key for key in keys.tolist() if key not in there[table]], np.int64) for table, keys in told.items()}
    tables = {table: found for table, found in whole.tables.items() if table in told}
    return Source("what changed", tables, whole.dense, None, True, gone)
