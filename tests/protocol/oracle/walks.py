"""Walks through the world: random, replayed, shrunk, and every one of a small menu. It knows the actions by name only."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from .ground import ACTIONS, Arguments
from .values import KEYS, PARTITIONS, ViolationError
from .world import World

Step = tuple[str, Arguments]
Steps = Callable[[World], Iterable[Step]]

WEIGHTS = {
    "write": 10, "train": 5, "reserve": 4, "share": 2, "announce": 5, "resend": 3, "land": 1, "duplicate": 1, "crash": 0.5,
    "resume": 2, "cut": 20, "commit": 9, "fold_delta": 5, "snapshot": 0.5, "claim": 12, "append_fence": 25, "prepare": 15,
    "decide": 25, "abandon": 1, "freeze": 0.4, "learn": 6, "poll": 20, "adopt": 10, "jump": 1, "forget": 0.5, "restart": 0.7,
}  # fmt: skip
NEEDED = ("write", "train", "cut", "commit", "append_fence", "prepare", "decide", "learn", "poll", "adopt")
MISHAPS = ("shed", "unknown", "in flight", "delete", "zombie", "undo")
THEMES: dict[str, dict[str, float]] = {
    "everything": {},
    "restarts": {"resume": 12, "crash": 2, "claim": 0.5, "append_fence": 1},
    "deltas": {"commit": 20, "fold_delta": 20, "claim": 0.3, "append_fence": 0.5, "write": 25},
    "rollbacks": {"prepare": 40, "abandon": 6, "freeze": 0.1, "commit": 20},
    "events": {"train": 15, "reserve": 8, "share": 6, "duplicate": 4, "resume": 3},
}


@dataclass
class Outcome:
    violation: str | None
    taken: list[Step]
    counts: Counter[str] = field(default_factory=Counter)


def world_of(seed: int, without: tuple[str, ...] = ()) -> World:
    """Every other seed has two publishers; the fewer keys, the more often they meet."""
    return World(1 + seed % 2, without, KEYS[: 3 + seed // 2 % 4])


def replay(world: World, steps: Steps) -> Outcome:
    """Takes the steps that are possible, then comes to rest."""
    outcome = Outcome(None, [], world.counts)
    try:
        for name, arguments in steps(world):
            if arguments in ACTIONS[name].possible(world):
                outcome.taken.append((name, arguments))
                ACTIONS[name].step(world, *arguments)
        world.come_to_rest()
    except ViolationError as violation:
        outcome.violation = str(violation)
    return outcome


def random_steps(seed: int, count: int) -> Steps:
    """Every seed leaves out some kinds of steps, favours others and knows only some of the mishaps, so that what is rare
    meets."""
    chance = random.Random(seed)
    theme = chance.choice(list(THEMES.values()))
    weights = {
        name: theme.get(name, weight) * chance.choice((0.3, 1, 3)) * (name in NEEDED or name in theme or chance.random() < 0.65)
        for name, weight in WEIGHTS.items()
    }
    spared = {mishap for mishap in MISHAPS if chance.random() < 0.5}

    def steps(world: World) -> Iterator[Step]:
        left = count
        for name in chance.choices(list(weights), list(weights.values()), k=20 * count):
            possible = [found for found in ACTIONS[name].possible(world) if not spared.intersection(found)]
            if possible:
                left -= 1
                yield name, chance.choice(possible)
            if not left:
                return

    return steps


def walk(seed: int, without: tuple[str, ...] = (), count: int = 60) -> Outcome:
    return replay(world_of(seed, without), random_steps(seed, count))


def shrink(seed: int, without: tuple[str, ...], taken: list[Step]) -> Outcome:
    """Leaves out whatever the violation does not need."""
    found = replay(world_of(seed, without), lambda _: taken)
    size = len(taken)
    while size := size // 2:
        for at in range(len(taken), -1, -size):
            left = found.taken[:at] + found.taken[at + size :]
            fewer = replay(world_of(seed, without), lambda _, left=left: left)  # type: ignore[misc]
            if fewer.violation and len(fewer.taken) < len(found.taken):
                found = fewer
    return found


# ---- every order of a smaller menu ---------------------------------------------------------------------------------------

LIVE = ("live", 0)
BEGINNING: list[Step] = [
    ("write", (LIVE, "a0x", "put", "shed")),
    *(("cut", step) for step in (("start", "live"), ("mark", "a"), ("mark", "b"), ("look", ""), ("finish", ""))),
    ("commit", ((1, 1),)),
    ("train", (LIVE,)),
]
MENU: dict[str, list[Arguments] | None] = {
    "write": [(LIVE, "a0x", "put", "acknowledged"), (LIVE, "b0y", "delete", "shed")],
    "announce": [(LIVE, p, "acknowledged") for p in PARTITIONS],
    "claim": [(1, 1, ()), (1, 1, ("x",))],
    "append_fence": [(p, 2) for p in PARTITIONS],
    "prepare": [(0,)],
    "learn": [(0,)],
    "poll": [(0, p) for p in PARTITIONS],
    "adopt": [(0, p) for p in PARTITIONS],
    **dict.fromkeys(("cut", "commit", "fold_delta", "decide", "abandon")),
}


def offered(world: World) -> list[Step]:
    """The steps of the menu that are possible: a fence once, the markers in one order."""
    found = []
    for name, allowed in MENU.items():
        for arguments in dict.fromkeys(ACTIONS[name].possible(world)):
            if allowed is not None and arguments not in allowed:
                continue
            if name == "append_fence" and world.fence_of(*arguments) is not None:
                continue
            if name == "cut" and arguments[1] == "b" and world.cutting and "a" not in world.cutting.positions:
                continue
            found.append((name, arguments))
    return found


def exhaust(depth: int, without: tuple[str, ...] = ()) -> Iterator[tuple[int, int, Outcome]]:
    """Level by level: (its depth, its new states, the violation met). A world with one delta committed and one more event
    learned; every order, each state visited once."""
    world = World(1, without, KEYS[:4])
    for name, arguments in BEGINNING:
        ACTIONS[name].step(world, *arguments)
    level, seen = [(pickle.dumps(world), list[Step]())], set[int]()
    for reached in range(1, depth + 1):
        following = []
        for image, trace in level:
            for name, arguments in offered(pickle.loads(image)):
                there, taken = pickle.loads(image), [*trace, (name, arguments)]
                try:
                    ACTIONS[name].step(there, *arguments)
                    key = hash(repr(sorted(vars(there).items(), key=lambda item: item[0])))
                    if key in seen:
                        continue
                    seen.add(key)
                    following.append((pickle.dumps(there), taken))
                    there.come_to_rest()
                except ViolationError as violation:
                    yield reached, len(following), Outcome(str(violation), taken)
                    return
        level = following
        yield reached, len(level), Outcome(None, [])
