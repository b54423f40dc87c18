"""One run: rounds of whatever may happen, each of which ends at rest, where everything is compared."""

from __future__ import annotations

import gc
import random
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from penstock.pipeline.catalog import leases
from penstock.pipeline.core.errors import PositionGone
from penstock.publishers.verification import verify
from penstock.rollback.execution import abandon
from penstock.rollback.execution import resume as finish_rollback
from penstock.rollback.freezing import thaw
from penstock.serving.replica import Replica

from .faults import Fault, drawn
from .following import appoint, behind, follower
from .invariants import Promises
from .meeting import survived
from .operating import operate, operator, skip_all
from .publishing import offline_trainer, publish, publisher
from .scheduler import Scheduler
from .states import difference, ensure
from .threads import installed
from .trainer import Job, trainer
from .watching import held_by
from .world import Saved, World

ROUNDS, CALLS_A_STEP = 2, 16
PATIENCE_S = 240.0
"""How long the end of a round may take."""


@dataclass(frozen=True)
class Outcome:
    """`failure`: what did not hold, in its first line; "" if all did. `fingerprint`: of every call, in order. `met`: the calls
    that a fault met."""

    seed: int
    failure: str
    fingerprint: str
    calls: int
    met: tuple[int, ...]
    counts: Mapping[str, int]


def faults_of(seed: int, steps: int) -> dict[int, Fault]:
    return drawn(seed, calls=ROUNDS * steps * CALLS_A_STEP)


def run(
    seed: int, *, steps: int, faults: Mapping[int, Fault] | None = None, trace: Callable[[str], None] | None = None
) -> Outcome:
    """The run of a seed, with its own faults or with those given."""
    chance = random.Random(f"{seed} world")
    scheduler = Scheduler(seed, switching=chance.choice((0.05, 0.3, 1.0)))
    failure = ""
    with installed(scheduler):
        world = World(scheduler, chance, faults_of(seed, steps) if faults is None else faults, trace)
        try:
            appoint(world)
            for name in world.followers:
                world.keep_up(name, partial(follower, world, name), again=lambda: True)
            for _ in range(ROUNDS):
                _round(world, steps)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failure = f"{type(error).__name__}: {error}\n" + "".join(traceback.format_exception(error))
        scheduler.broken = None
        scheduler.shut_down()
    network = world.network
    for feature in sorted(world.features):
        world.count(f"with {feature}")
    world.counts["lookups of a version"] = world.watch.exact
    return Outcome(seed, failure, network.fingerprint.hexdigest(), network.calls, tuple(network.met), world.counts)


def _round(world: World, steps: int) -> None:
    world.budget, world.network.quiet = steps, False
    goes_on = lambda: world.budget > 0  # noqa: E731
    is_offline = "offline" in world.features and world.chance.random() < 0.6
    job = partial(offline_trainer if is_offline else trainer, world)
    if is_offline:
        world.invariants.promises = None  # of a realtime tier that has ended
    world.start_trainer = partial(world.keep_up, "trainer", job, again=goes_on)
    world.start_trainer()
    for number in range(world.chance.choice((1, 2))):
        world.keep_up(f"publisher{number}", partial(publisher, world), again=goes_on)
    for number in range(world.chance.choice((0, 1, 2))):
        world.keep_up(f"operator{number}", partial(operator, world), again=goes_on)
    ensure(world.scheduler.wait(world.at_rest, 4 * PATIENCE_S), "somebody does not come to an end")
    _rest(world)


def _rest(world: World) -> None:
    """Nothing fails any more; what was left half done is finished, and everything is compared."""
    network, scheduler = world.network, world.scheduler
    network.quiet = True
    world.tell("rest")
    scheduler.sleep(25)
    ensure(scheduler.wait(world.at_rest, PATIENCE_S), "somebody does not come to an end")
    env = world.environment(scheduler.director.process)
    skip_all(world, env)
    if leases.open_claim(env.catalog, env.catalog.refs()) is not None:
        decide = finish_rollback if world.chance.random() < 0.7 else partial(abandon, why="rest")
        survived(world, "decide", lambda: decide(env))
        if leases.open_claim(env.catalog, env.catalog.refs()) is not None:
            abandon(env, why="it cannot be finished")
    thaw(env, "live", why="rest")
    if not _cut_short(world):
        _caught_up(world)
        _keep_promises(world, world.invariants.promises)
    job = Job(world, env, world.chance)
    job.learn()
    for _ in range(2):
        job.put()
    job.flush()
    if world.chance.random() < 0.5 and not _cut_short(world):
        _caught_up(world)
        _keep_promises(world, job.promises)
    saved = job.mark()
    _publish(world, env, saved)
    _caught_up(world)
    _compare(world, env, saved)
    if world.chance.random() < 0.5:
        operate(world, env, world.chance, "retain")
        _compare(world, env, saved)
    job.close()


def _cut_short(world: World) -> bool:
    """Whether the log does not have what follows the newest version any more, or the newest records: then only another version
    brings everybody together."""
    newest = world.invariants.catalog.manifest(world.invariants.catalog.refs().trunk)
    gone = any(position.offset < world.log.begin(p) for p, position in enumerate(newest.positions.partitions))  # type: ignore[arg-type]
    return gone or world.log.lost > 0


def _keep_promises(world: World, promises: Promises | None) -> None:
    refs, states = world.invariants.catalog.refs(), world.invariants.states
    if promises is not None and promises.timeline == refs.timeline:
        promises.check(world.watch.served(world.replicas["r0"]), states.dims(states.catalog.manifest(refs.trunk)))


def _publish(world: World, env: Any, saved: Saved) -> None:
    """Another shape, and what only a comparison can tell, comes with a snapshot."""
    had = world.invariants.states.dims(env.catalog.history().newest)
    same = all(had[table] == saved.shapes.dims[table] for table in saved.shapes.tables if table in had)
    what = "delta" if same and not world.invariants.unclear else "snapshot"
    try:
        found = publish(env, saved, what)
    except PositionGone:  # a delta that takes rows of a table from the log, which was cut off
        what = "snapshot"
        found = publish(env, saved, what)
    ensure(str(found.state) == saved.sidecar.state, f"{found.version} is of state {found.state}, not {saved.sidecar.state}")
    if what == "snapshot":
        world.invariants.unclear = ""


def _caught_up(world: World) -> None:
    """Waits until every replica has read all and adopted its version."""
    until = world.scheduler.now + PATIENCE_S
    while behind(world) and world.scheduler.now < until:
        world.scheduler.sleep(1.0)
    ensure(not behind(world), "; ".join(behind(world)))


def _compare(world: World, env: Any, saved: Saved) -> None:
    """Replicas, and a newcomer, serve what the trainer has, bit by bit, with the digests that the version states."""
    newcomer = Replica(env, name="newcomer")
    newcomer.refresh()
    newcomer.step(0.0)
    live = [found for _, found in sorted(world.replicas.items()) if found.follower.follows_log]
    dense, digests = set(), {}
    for replica in (newcomer, *live):
        served, expected = world.watch.served(replica), held_by(replica, saved.rows)
        ensure(served == expected, f"{replica.name}: {difference(served, expected)}")
        held = slice(replica.buckets.start, replica.buckets.stop)
        for table, found in replica.follower.tables.items():
            known = digests.setdefault(table, found.digests.tolist())
            ensure(found.digests.tolist()[held] == known[held], f"{replica.name} has other digests of {table} than a newcomer")
        world.watch.look_at(replica)
        alarms = [state.alarm for state in replica.follower.partitions.values() if state.alarm]
        ensure(not alarms, f"{replica.name}: {alarms}")
    for replica in (*live, newcomer):
        world.scheduler.wait(partial(_has_dense, replica), 20.0)
        dense.add(None if replica.dense is None else tuple(replica.dense.tensors["w"].tolist()))
    ensure(len(dense) == 1 and saved.dense in (None, *dense), f"dense slices are {dense}, the trainer has {saved.dense}")
    found = verify(env)
    ensure(found.ok, f"version {found.version}: {found.findings}")


def _has_dense(replica: Replica) -> bool:
    return replica._wanted == replica._served.info


gc.freeze()
