"""The protocol holds on every walk that was tried, and each of its rules is needed."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from oracle.rules import RULES
from oracle.scenarios import SCENARIOS
from oracle.walks import exhaust, shrink, walk

SEEDS = {
    "open-then-scan": 31,
    "term-before-open": 4,
    "resume-before-cuts": 416,
    "dirty-on-resume": 1,
    "reserve-ahead": 589,
    "flush-sees-terms": 334,
    "cut-barrier": 0,
    "fold-needs-all-sent": 36,
    "dirty-is-unsent": 358,
    "cuts-after-fences": 282,
    "first-fence-counts": 10,
    "dead-by-table": 362,
    "dense-barrier": 530,
    "dense-in-all": 132,
    "dense-before-cuts": 258,
    "readers-in-positions": 230,
    "gaps-end": 7,
    "void-fences": 3324,
    "base-before-undo": 127,
    "older-undo-first": 44,
}
"""Walks that go wrong without a rule; to be found again, when the actions change, with `python -m oracle --without RULE`."""


def wander(seeds: range) -> Counter[str]:
    met: Counter[str] = Counter()
    for seed in seeds:
        outcome = walk(seed)
        assert outcome.violation is None, f"seed {seed}: {outcome.violation}"
        met += outcome.counts
        met.update(name for name, _ in outcome.taken)
    return met


@pytest.mark.parametrize("publishers", [1, 2])
def test_random_walks_keep_every_invariant(publishers: int) -> None:
    met = wander(range(publishers - 1, 700, 2))
    for event in ("rolled back, all", "rolled back, one table", "interval digests agreed", "deltas taken", "folded, rows"):
        assert met[event] > 0, f"no walk met: {event}"


@pytest.mark.slow
@pytest.mark.parametrize("first", range(10_000, 20_000, 1000))
def test_thousands_of_walks_keep_every_invariant(first: int) -> None:
    wander(range(first, first + 1000))


def test_every_rule_has_a_proof_that_it_is_needed() -> None:
    assert set(SEEDS) | set(SCENARIOS) == set(RULES)


@pytest.mark.parametrize("rule", SEEDS)
def test_without_the_rule_a_walk_goes_wrong(rule: str) -> None:
    assert walk(SEEDS[rule], (rule,)).violation is not None
    assert walk(SEEDS[rule]).violation is None


@pytest.mark.parametrize("rule", SCENARIOS)
def test_without_the_rule_a_scenario_goes_wrong(rule: str) -> None:
    assert SCENARIOS[rule].run((rule,)).violation is not None
    assert SCENARIOS[rule].run().violation is None


def explore(depth: int, without: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    levels = list(exhaust(depth, without))
    return sum(states for _, states, _ in levels), [found.violation for _, _, found in levels if found.violation]


def test_every_order_of_a_small_menu_keeps_every_invariant() -> None:
    states, violations = explore(3)
    assert not violations
    assert states > 300


@pytest.mark.slow
def test_every_order_of_a_small_menu_to_a_greater_depth() -> None:
    assert explore(6)[1] == []


def test_the_exhaustive_search_finds_what_is_broken() -> None:
    assert explore(3, ("cuts-after-fences",))[1] != []


def test_a_violation_shrinks_to_fewer_steps_that_still_show_it() -> None:
    rule = ("dense-before-cuts",)
    taken = walk(SEEDS["dense-before-cuts"], rule).taken
    shortest = shrink(SEEDS["dense-before-cuts"], rule, taken)
    assert shortest.violation is not None
    assert len(shortest.taken) < len(taken) // 2


@pytest.mark.parametrize(("options", "code"), [(["--seeds", "5"], 0), (["--seeds", "20", "--without", "gaps-end"], 1)])
def test_the_command_line_says_what_it_found(options: list[str], code: int) -> None:
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-m", "oracle", *options], cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert ("no violation" in done.stdout) == (code == 0)
