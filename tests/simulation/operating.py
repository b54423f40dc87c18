"""Operators: freeze, roll back, skip, pin, promote, retain."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

from penstock.pipeline.catalog import leases
from penstock.pipeline.catalog.skipping import read_skips, skip_record
from penstock.pipeline.core.ids import Offset, Partition, State
from penstock.pipeline.environment import Environment
from penstock.publishers.promotion import promote
from penstock.publishers.verification import verify
from penstock.rollback.execution import abandon, execute
from penstock.rollback.execution import resume as finish_rollback
from penstock.rollback.freezing import freeze, thaw
from penstock.rollback.planning import plan_rollback
from penstock.rollback.retention import apply_retention, plan_retention
from penstock.rollback.target import before_append, before_event, to_state, to_version

from .meeting import survived
from .scheduler import Process
from .states import event, number_of
from .world import World

PIN = "kept"
ACTS = {
    "freeze": 1, "thaw": 1.5, "roll back": 1.5, "finish": 1, "abandon": 0.6, "retain": 3, "verify": 0.5, "skip": 1,
    "promote": 1, "pin": 3, "unpin": 0.5,
}  # fmt: skip
OF_FEATURE = {"promote": "canary", "pin": "pins", "unpin": "pins"}


def operator(world: World, process: Process) -> None:
    chance = random.Random(world.chance.random())
    acts = {what: often for what, often in ACTS.items() if OF_FEATURE.get(what) in (None, *world.features)}
    while world.budget > 0:
        world.budget -= 1
        what = chance.choices(list(acts), list(acts.values()))[0]
        survived(world, what, partial(operate, world, world.environment(process), chance, what))
        world.scheduler.sleep(chance.choice((0.5, 3.0, 8.0)))


def operate(world: World, env: Environment, chance: random.Random, what: str) -> Any:
    if what == "freeze":
        return freeze(env, "live", why="look")
    if what == "thaw":
        return thaw(env, "live", why="go on")
    if what == "finish":
        return finish_rollback(env)
    if what == "abandon":
        return abandon(env, why="no")
    if what == "retain":
        return apply_retention(env, plan_retention(env), why="daily")
    if what == "verify":
        return verify(env)
    if what == "skip":
        return skip_alarms(world, env)
    if what == "promote":
        return promote(env, chance.choice(env.catalog.history().trunk).version, ref="canary", why="try it")
    if what in ("pin", "unpin"):
        return keep(world, env, chance, what)
    return roll_back(world, env, chance)


def skip_alarms(world: World, env: Environment) -> None:
    """What replicas stand before."""
    places = {(p, state.unread) for found in world.replicas.values() for p, state in found.follower.partitions.items()}
    for partition, offset in sorted((p, at) for p, at in places if at is not None):
        skip_record(env.catalog, env.log, partition, offset, actor=env.actor("it cannot be read"))


def skip_all(world: World, env: Environment) -> None:
    """Whatever cannot be read."""
    skips = read_skips(env.catalog)
    for p, offset in sorted(world.log.harmed):
        if offset >= world.log.begin(Partition(p)) and not skips.has(Partition(p), Offset(offset)):
            skip_record(env.catalog, env.log, Partition(p), Offset(offset), actor=env.actor("it cannot be read"))


def keep(world: World, env: Environment, chance: random.Random, what: str) -> Any:
    # Until it is known that it holds, nobody may count on it; one of the same name is replaced.
    world.invariants.pinned.pop(PIN, None)
    if what == "unpin":
        return leases.remove_pin(env.catalog, PIN)
    version = chance.choice(env.catalog.history().trunk).version
    found = leases.put_pin(env.catalog, PIN, version, actor=env.actor("an experiment"))
    world.invariants.on_pin(PIN, version)
    return found


def roll_back(world: World, env: Environment, chance: random.Random) -> Any:
    kind, back = chance.choice(("event", "event", "event", "append", "version", "state")), chance.choice((0, 1, 3, 8, 20))
    now = int(number_of(env.clock()))
    if kind == "event":
        target = before_event(event(max(1, now - back)))  # type: ignore[arg-type]
    elif kind == "append":
        target = before_append(event(max(1, now - back)))  # type: ignore[arg-type]
    elif kind == "version":
        target = to_version(chance.choice(env.catalog.history().trunk).version)
    elif world.saved:
        target = to_state(State.parse(chance.choice(world.saved[-3:]).sidecar.state))
        if all(m.timeline != target.state.timeline for m in env.catalog.history().trunk):
            return None  # retention has removed what it could be recovered from
    else:
        return None
    table = chance.choice(env.catalog.reload_schema().names() or ["a"])
    tables = (table,) if table in env.schema.tables and chance.random() < 0.25 else None
    plan = plan_rollback(env, target, tables=tables)
    if plan.base == 0:
        return None  # nothing that was published lies before it
    return execute(env, plan, why="poison")
