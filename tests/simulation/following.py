"""Replicas: some hold all, some a part; some follow the log, some a ref that follows versions, and some serve one for ever."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from penstock.serving.replica import Replica

from .meeting import EXPECTED, survived
from .operating import PIN
from .scheduler import Process
from .states import Violated
from .world import World


def appoint(world: World) -> None:
    """The replicas of a run, by its features."""
    found = world.followers
    found["r0"] = dict
    if "shards" in world.features:
        # Not at the borders of partitions.
        found["s0"], found["s1"] = partial(dict, buckets=range(3)), partial(dict, buckets=range(3, 8))
    else:
        found["r1"] = dict
    if "canary" in world.features:
        found["canary"] = lambda: {"ref": "canary"} if "canary" in world.invariants.catalog.refs().refs else None
    if "pins" in world.features:
        found["fixed"] = lambda: {"at": world.invariants.pinned[PIN]} if PIN in world.invariants.pinned else None


def follower(world: World, name: str, process: Process) -> None:
    """Follows in threads of its own; one that fails is started again, as a supervisor would."""
    env, made = world.environment(process), world.followers[name]
    while True:
        world.scheduler.wait(lambda: made() is not None)
        options = made()
        found = survived(world, f"{name} begins", partial(_begun, env, name, options or {}))
        if found is not None:
            world.replicas[name] = found
            found.start()
            world.scheduler.wait(partial(_ended, found, made, options))
            failure = found.failure
            if failure is not None and not isinstance(failure, EXPECTED):
                raise Violated(f"{name} failed: {type(failure).__name__}: {failure}") from failure
            world.count(f"{name} failed: {type(failure).__name__}")
            world.tell(f"{name} failed: {failure}")
            del world.replicas[name]
            found.close()
        world.scheduler.sleep(0.5)


def _begun(env: Any, name: str, options: dict[str, Any]) -> Replica:
    return Replica(env, name=name, **options)


def _ended(replica: Replica, made: Callable[[], dict[str, Any] | None], options: dict[str, Any] | None) -> bool:
    """An operator starts those again that say that the log does not have their positions any more, or should serve something
    else."""
    return (
        replica.failure is not None
        or made() != options
        or any("neither" in state.alarm for state in replica.follower.partitions.values())
    )


def behind(world: World) -> list[str]:
    """Which replicas are not where they should be, and why."""
    catalog, log = world.invariants.catalog, world.log
    refs = catalog.refs()
    found = []
    for name, made in world.followers.items():
        if (options := made()) is None:
            continue
        if (replica := world.replicas.get(name)) is None:
            found.append(f"{name} does not run")
            continue
        wanted = options.get("at", refs.refs[options.get("ref", "live")].version)
        for p, state in replica.follower.partitions.items():
            follows = replica.follower.follows_log
            if state.version != wanted or (follows and state.offset != log.end(p)):
                found.append(
                    f"{name} partition {p}: version {state.version} of {wanted}, offset {state.offset} of {log.end(p)}, "
                    f"{state.alarm or state.gap}, {replica.failure} {replica.trouble}"
                )
    return found
