"""What goes wrong, and at which call: drawn from a seed, spelled out, so that single faults can be left out."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

KINDS = {
    "crash": 4, "crash after": 5, "lost": 5, "unsent": 4, "late": 4, "unreachable": 2, "full": 2, "slow": 3, "outage": 1,
    "stall": 2, "duplicate": 2, "zombie": 2, "damaged": 1, "foreign": 1, "cut off": 1, "emptied": 1, "unclean": 1,
}  # fmt: skip
"""How often each kind is, in parts. `crash` before the call takes effect, `crash after` behind it; of a write, `lost` loses the
reply, `unsent` the request, and `late` lets it arrive when nobody waits for it; `stall` holds a record back; `zombie`: another
trainer is started while this one goes on."""
RECORD = ("damaged", "foreign")
"""What meets the record that is sent next: nobody can read it, or another one before it."""
BROKER = ("cut off", "emptied", "unclean")
"""What meets the log itself: its own retention takes what newcomers do not need, or all; or its newest records are lost."""


@dataclass(frozen=True)
class Fault:
    kind: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind} {self.seconds}"


def drawn(seed: int, *, calls: int) -> dict[int, Fault]:
    """Some faults among the first `calls` calls of a run; none in a few runs."""
    chance = random.Random(f"{seed} faults")
    count = min(calls, chance.choice((0, 1, 2, 3, 5, 8, 13, 21)))
    kinds = chance.sample(sorted(KINDS), chance.randint(2, len(KINDS)))
    found = {}
    for number in chance.sample(range(calls), count):
        kind = chance.choices(kinds, [KINDS[kind] for kind in kinds])[0]
        found[number] = Fault(kind, chance.choice((0.5, 2.0, 8.0, 25.0)))
    return dict(sorted(found.items()))


def spelling(faults: Mapping[int, Fault]) -> str:
    """All of a run: which faults a seed draws depends on how long its run is."""
    return ", ".join(f"{number} {fault}" for number, fault in faults.items()) or "none"


def spelled(text: str) -> dict[int, Fault]:
    """What `spelling` has written."""
    parts = [] if text == "none" else [part.split() for part in text.split(",")]
    return {int(number): Fault(" ".join(kind), float(seconds)) for number, *kind, seconds in parts}


def without(faults: Mapping[int, Fault], numbers: set[int]) -> dict[int, Fault]:
    return {number: fault for number, fault in faults.items() if number not in numbers}
