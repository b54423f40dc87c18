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
from penstock.publishers.verification import verify
from penstock.rollback.execution import abandon
from penstock.rollback.execution import resume as finish_rollback
from penstock.rollback.freezing import thaw
from penstock.serving.replica import Replica

from . import actors
from .faults import Fault, drawn
from .invariants import TABLES, difference, ensure
from .scheduler import Scheduler
from .threads import installed
from .world import REPLICAS, World

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
            for name in REPLICAS:
                world.keep_up(name, partial(actors.replica, world), again=lambda: True)
            for _ in range(ROUNDS):
                _round(world, steps)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failure = f"{type(error).__name__}: {error}\n" + "".join(traceback.format_exception(error))
        scheduler.broken = None
        scheduler.shut_down()
    network = world.network
    return Outcome(seed, failure, network.fingerprint.hexdigest(), network.calls, tuple(network.met), world.counts)


def _round(world: World, steps: int) -> None:
    world.budget, world.network.quiet = steps, False
    goes_on = lambda: world.budget > 0  # noqa: E731
    world.start_trainer = partial(world.keep_up, "trainer", partial(actors.trainer, world), again=goes_on)
    world.start_trainer()
    for number in range(world.chance.choice((1, 2))):
        world.keep_up(f"publisher{number}", partial(actors.publisher, world), again=goes_on)
    for number in range(world.chance.choice((0, 1, 2))):
        world.keep_up(f"operator{number}", partial(actors.operator, world), again=goes_on)
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
    if leases.open_claim(env.catalog, env.catalog.refs()) is not None:
        decide = finish_rollback if world.chance.random() < 0.7 else partial(abandon, why="rest")
        actors.survived(world, "decide", lambda: decide(env))
        if leases.open_claim(env.catalog, env.catalog.refs()) is not None:
            abandon(env, why="it cannot be finished")
    thaw(env, "live", why="rest")
    _caught_up(world)
    promises = world.invariants.promises
    if promises is not None and promises.timeline == env.catalog.refs().timeline:
        for found in world.replicas.values():
            promises.check(world.invariants.served(found))
    job = actors.Job(world, env, world.chance)
    job.learn()
    for _ in range(2):
        job.put()
    job.flush()
    if world.chance.random() < 0.5:
        _caught_up(world)
        job.promises.check(world.invariants.served(next(iter(world.replicas.values()))))
    saved = job.mark()
    actors.publish(world, env, saved, "delta")
    _caught_up(world)
    _compare(world, env, dict(saved.rows))
    if world.chance.random() < 0.5:
        actors.operate(world, env, world.chance, "retain")
        _compare(world, env, dict(saved.rows))
    job.close()


def _caught_up(world: World) -> None:
    """Waits until every replica has read all and adopted the newest version."""
    catalog, log = world.invariants.catalog, world.log

    def behind() -> list[str]:
        trunk = catalog.refs().trunk
        found = [f"{name} does not run" for name in REPLICAS if name not in world.replicas]
        for name, replica in world.replicas.items():
            for p, state in replica.follower.partitions.items():
                if state.version != trunk or state.offset != log.end(p):
                    found.append(
                        f"{name} partition {p}: version {state.version} of {trunk}, offset {state.offset} of {log.end(p)}, "
                        f"{state.alarm or state.gap}, {replica.failure} {replica.trouble}"
                    )
        return found

    until = world.scheduler.now + PATIENCE_S
    while behind() and world.scheduler.now < until:
        world.scheduler.sleep(1.0)
    ensure(not behind(), "; ".join(behind()))


def _compare(world: World, env: Any, expected: dict[Any, Any]) -> None:
    """Replicas, and a newcomer, serve what the trainer has, bit by bit, with the digests that the version states."""
    newcomer = Replica(env, name="newcomer")
    newcomer.refresh()
    newcomer.step(0.0)
    digests, dense = [], set()
    for name, replica in (*sorted(world.replicas.items()), ("newcomer", newcomer)):
        served = world.invariants.served(replica)
        ensure(served == expected, f"{name}: {difference(served, expected)}")
        tables = replica.follower.tables
        digests.append({table: tables[table].digests.tolist() for table in TABLES if table in tables})
        ensure(digests[-1] == digests[0], f"{name} has other digests than r0")
        world.invariants.look_at(replica)
        alarms = [state.alarm for state in replica.follower.partitions.values() if state.alarm]
        ensure(not alarms, f"{name}: {alarms}")
    for replica in (*world.replicas.values(), newcomer):
        world.scheduler.wait(partial(_has_dense, replica), 20.0)
        dense.add(None if replica.dense is None else tuple(replica.dense.tensors["w"].tolist()))
    ensure(len(dense) == 1, f"dense slices differ: {dense}")
    found = verify(env)
    ensure(found.ok, f"version {found.version}: {found.findings}")


def _has_dense(replica: Replica) -> bool:
    return replica._wanted == replica._served.info


gc.freeze()
