"""Runs seeds: `python -m simulation --seeds N [--from S] [--steps K]`, or one of them: `--seed S [--trace]`.

A run that fails is made smaller (fewer faults, fewer steps) and told with the command that replays it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter

if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets of names is part of a run
    os.execve(sys.executable, [sys.executable, "-m", "simulation", *sys.argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})

from .faults import spelled, spelling
from .run import faults_of, run
from .shrinking import shrunk

STEPS = 40


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--steps", type=int, default=STEPS, help="actions a round")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--faults", help='these faults in place of the seed\'s: "12 crash 0.5, 80 late 2.0", or "none"')
    parser.add_argument("--trace", action="store_true", help="tell every call")
    parser.add_argument("--keep-going", action="store_true", help="count the seeds that fail, and shrink none")
    asked = parser.parse_args()
    if asked.seed is not None:
        faults = faults_of(asked.seed, asked.steps) if asked.faults is None else spelled(asked.faults)
        outcome = run(asked.seed, steps=asked.steps, faults=faults, trace=print if asked.trace else None)
        print(outcome.failure or f"seed {asked.seed}: all invariants hold; {outcome.calls} calls, {outcome.fingerprint}")
        return 1 if outcome.failure else 0
    began, failed, counts = time.monotonic(), 0, Counter[str]()
    for seed in range(asked.first, asked.first + asked.seeds):
        outcome = run(seed, steps=asked.steps)
        counts.update(outcome.counts)
        if outcome.failure:
            failed += 1
            if not asked.keep_going:
                return _report(seed, asked.steps)
            print(f"seed {seed} fails: {outcome.failure.splitlines()[0][:400]}", flush=True)
    print(f"{asked.seeds} seeds from {asked.first}, {failed} failed, {time.monotonic() - began:.0f} s")
    for what, count in counts.most_common():
        print(f"{count:8} {what}")
    return 1 if failed else 0


def _report(seed: int, steps: int) -> int:
    small = shrunk(seed, steps=steps)
    print(small.outcome.failure)
    print(f"seed {seed} fails with {len(small.faults)} faults, {small.steps} steps a round:")
    print(f'replay: python -m simulation --seed {seed} --steps {small.steps} --faults "{spelling(small.faults)}" --trace')
    return 1


sys.exit(main())
