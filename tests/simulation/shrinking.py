"""Makes a failing run smaller while it still fails: fewer faults, then fewer steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .faults import Fault, without
from .run import Outcome, faults_of, run


@dataclass(frozen=True)
class Small:
    steps: int
    faults: Mapping[int, Fault]
    outcome: Outcome


def shrunk(seed: int, *, steps: int) -> Small:
    """Of a seed that fails. Faults belong to the calls that they meet, so a run without one of them is another run; it counts if
    it fails as well, in whatever way."""
    best = _tried(seed, steps, faults_of(seed, steps))
    assert best.outcome.failure, f"seed {seed} does not fail"
    best = _fewer_faults(seed, best)
    while best.steps > 2:
        following = next((found for found in _shorter(seed, best) if found.outcome.failure), None)
        if following is None:
            break
        best = _fewer_faults(seed, following)
    return best


def _shorter(seed: int, best: Small) -> list[Small]:
    fewer = sorted({best.steps // 2, best.steps * 3 // 4, best.steps - 2, best.steps - 1})
    return [_tried(seed, steps, best.faults) for steps in fewer if 0 < steps < best.steps]


def _fewer_faults(seed: int, best: Small) -> Small:
    best = Small(best.steps, {n: best.faults[n] for n in best.faults if n in best.outcome.met}, best.outcome)
    at = 0
    while at < len(best.faults):
        found = _tried(seed, best.steps, without(best.faults, {list(best.faults)[at]}))
        if found.outcome.failure:
            best = found
        else:
            at += 1
    return best


def _tried(seed: int, steps: int, faults: Mapping[int, Fault]) -> Small:
    return Small(steps, faults, run(seed, steps=steps, faults=faults))
