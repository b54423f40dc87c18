"""python -m oracle [--seeds N] [--first N] [--steps N] [--without RULE] [--replay SEED] [--exhaustive DEPTH] [--rules]"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from .rules import RULES
from .walks import Outcome, exhaust, shrink, walk


def show(outcome: Outcome) -> None:
    for n, (name, arguments) in enumerate(outcome.taken, 1):
        print(f"  {n:2} {name} {' '.join(map(str, arguments))}")


def explore(depth: int, without: tuple[str, ...]) -> int:
    for reached, states, outcome in exhaust(depth, without):
        print(f"depth {reached}: {states} new states; {outcome.violation or 'no violation'}")
        show(outcome)
        if outcome.violation:
            return 1
    return 0


def wander(seeds: range, steps: int, without: tuple[str, ...]) -> int:
    done, counts = Counter[str](), Counter[str]()
    for n, seed in enumerate(seeds, 1):
        outcome = walk(seed, without, steps)
        done.update(name for name, _ in outcome.taken)
        counts += outcome.counts
        if outcome.violation:
            shortest = shrink(seed, without, outcome.taken)
            print(f"seed {seed}: {outcome.violation}\nshortest: {shortest.violation}")
            show(shortest)
            print(f"a violation after {n} walks")
            return 1
    print(f"{len(seeds)} walks, {done.total()} steps, no violation; {dict(counts)}")
    print(", ".join(f"{name} {count}" for name, count in done.most_common()))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="oracle", description=__doc__)
    for option, default in {"--seeds": 1000, "--first": 0, "--steps": 60, "--replay": None, "--exhaustive": 0}.items():
        parser.add_argument(option, type=int, default=default)
    parser.add_argument("--without", action="append", default=[], choices=list(RULES), metavar="RULE")
    parser.add_argument("--rules", action="store_true", help="list the rules")
    options = parser.parse_args()
    without = tuple(options.without)
    if options.rules:
        for n, (name, text) in enumerate(RULES.items(), 1):
            print(f"{n:2} {name}: {text}")
        return 0
    if options.exhaustive:
        return explore(options.exhaustive, without)
    first, count = (options.first, options.seeds) if options.replay is None else (options.replay, 1)
    return wander(range(first, first + count), options.steps, without)


if __name__ == "__main__":
    sys.exit(main())
