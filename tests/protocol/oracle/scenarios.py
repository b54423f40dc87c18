"""Short sequences of steps that show why a rule is needed: taken without the rule something goes wrong, with it nothing does.

They are here for the rules that a random walk seldom needs. A step that is not possible is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from .values import KEYS, PARTITIONS, State, Tables
from .walks import Outcome, Step, replay
from .world import World


@dataclass(frozen=True)
class Scenario:
    publishers: int
    steps: tuple[Step, ...]

    def run(self, without: tuple[str, ...] = ()) -> Outcome:
        return replay(World(self.publishers, without, KEYS[:3]), lambda _: self.steps)


def scenario(*phases: list[Step], publishers: int = 1) -> Scenario:
    return Scenario(publishers, tuple(step for phase in phases for step in phase))


def write(key: str, outcome: str = "acknowledged", who: str = "live") -> Step:
    return "write", ((who, 0), key, "put", outcome)


def train(who: str = "live") -> Step:
    return "train", ((who, 0),)


def reserve(who: str = "live") -> list[Step]:
    return [("reserve", ((who, 0), p)) for p in PARTITIONS]


def checkpoint() -> list[Step]:
    marks = [("mark", p) for p in PARTITIONS]
    return [("cut", step) for step in (("start", "live"), *marks, ("look", ""), ("finish", ""))]


def resume(name: State | int) -> list[Step]:
    opens: list[Step] = [("resume", ("open", 0, p, "")) for p in PARTITIONS]
    return [("resume", ("begin", 0, name, "keep")), *opens, ("resume", ("finish", 0, "", ""))]


def claim(timeline: int, target: int | None, base: int, tables: Tables = ()) -> list[Step]:
    return [("claim", (target, base, tables)), *(("append_fence", (p, timeline)) for p in PARTITIONS)]


def poll(times: int) -> list[Step]:
    return [("poll", (0, p)) for p in PARTITIONS for _ in range(times)]


def roll_back(timeline: int, target: int | None, base: int, tables: Tables = ()) -> list[Step]:
    return [*claim(timeline, target, base, tables), PREPARE, DECIDE]


PREPARE: Step = ("prepare", (0,))
DECIDE: Step = ("decide", (0,))
LEARN: Step = ("learn", (0,))
COMMIT: Step = ("commit", ((1, 1),))
UNAWARE: list[Step] = [("share", (("live", 1), ("live", 0))), ("write", (("live", 1), "a1y", "put", "acknowledged"))]
OF_ZOMBIE: list[Step] = [("share", (("live", 1), ("zombie", 0))), UNAWARE[1]]
ADOPT: list[Step] = [*poll(3), ("adopt", (0, "a")), ("adopt", (0, "b"))]

SCENARIOS: dict[str, Scenario] = {
    # what was finished before the resume is committed after it, and the resumed trainer knows nothing of it
    "resume-expires": scenario([write("b0y", "shed"), *checkpoint()], [*resume((1, 0)), COMMIT]),
    # a fence out of nowhere: whoever cuts a checkpoint reads in the store that all is well
    "claim-before-fence": scenario([("append_fence", ("a", 2)), *checkpoint()]),
    # a row that only a delta delivered
    "dirty-from-versions": scenario([write("b0y", "shed"), *checkpoint(), COMMIT], resume((1, 0))),
    # a row that nothing delivered, in a checkpoint that a rollback left uncommitted
    "dirty-before-checkpoint": scenario(
        [write("b0y", "shed"), *checkpoint(), train(), write("a0x")], roll_back(2, 1, 0), resume((1, 1))
    ),
    # a replica jumps over the fence with a delta, and reads past what the new timeline writes
    "flush-sees-fences": scenario(
        [train(), write("a0x"), *claim(2, 1, 0)],
        [*checkpoint(), COMMIT, LEARN, ("jump", (0, "a")), PREPARE, DECIDE],
        [*resume((1, 0)), write("a0x"), *poll(4)],
    ),
    # the reservation stands before the base; what was learned under it comes after, unknown to the one who writes it
    "reserved-in-versions": scenario(
        [*reserve(), *checkpoint(), COMMIT, train(), train()], [*UNAWARE, *roll_back(2, 2, 1)], publishers=2
    ),
    # the same of a reservation that readers drop, because a zombie made it
    "cuts-count-dropped": scenario(
        [*resume((1, 0)), *reserve("zombie"), train("zombie"), train("zombie"), *OF_ZOMBIE],
        [*reserve(), train(), train(), *roll_back(2, 2, 0)],
        publishers=2,
    ),
    # a row that only a delta delivered is taken back
    "undo-later-deltas": scenario([train(), write("b0y", "shed"), *checkpoint(), COMMIT, LEARN, *ADOPT], roll_back(2, 1, 0)),
    # back to version 1, then by an old reservation further back, to a base before what the first rollback took back
    "skip-dead-ranges": scenario(
        [reserve()[0], *checkpoint(), COMMIT, write("b0y"), *roll_back(2, None, 1)], [train(), train(), *roll_back(3, 2, 0)]
    ),
    # a row that only a delta delivered, of a table that is left alone
    "others-from-live": scenario([train(), write("b0y", "shed"), *checkpoint(), COMMIT], roll_back(2, 1, 0, ("x",))),
    # a delta is committed, and adopted, after the undo was computed
    "rollback-by-swap": scenario(
        [write("b0y", "shed"), *checkpoint(), train(), write("a0x")],
        [*claim(2, 1, 0), PREPARE, COMMIT, LEARN, *ADOPT, DECIDE],
    ),
    # a replica goes on over a fence that was given up, and then it counts after all
    "abandon-moves-ref": scenario(
        [train(), write("a0x"), *claim(2, 1, 0), PREPARE, ("abandon", ()), LEARN, *poll(4), DECIDE],
        [*resume((1, 0)), write("a0x"), *poll(4)],
    ),
    # a record lands late, behind a newer one of its writer that a rollback of one table takes back: readers dropped it
    "dead-rows-in-sequence": scenario(
        [write("a1y", "in flight"), train(), write("a0x"), ("land", (0,))],
        [*roll_back(2, 1, 0, ("x",)), *roll_back(3, 1, 0)],
    ),
}
