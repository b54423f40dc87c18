"""Short runs of the simulation; `make simulate SEEDS=20000` has the long ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.publishers.driving import Driver
from penstock.rollback import undo
from simulation.faults import Fault
from simulation.run import run
from simulation.shrinking import shrunk

TESTS = Path(__file__).parent.parent
STEPS = 30


def simulated(*arguments):
    """In a process of its own, in which sets have the order that a replay has."""
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "0"}
    found = subprocess.run(
        [sys.executable, "-m", "simulation", *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )
    return found.returncode, found.stdout + found.stderr


@pytest.mark.parametrize("first", range(0, 160, 40))
def test_invariants_hold(first):
    code, said = simulated("--from", first, "--seeds", 40, "--steps", STEPS)
    assert not code, said


@pytest.mark.slow
def test_invariants_hold_in_many_longer_runs():
    code, said = simulated("--from", 100_000, "--seeds", 500, "--steps", 60)
    assert not code, said


def test_a_seed_is_the_same_run_every_time():
    first, again = simulated("--seed", 3, "--trace"), simulated("--seed", 3, "--trace")
    assert first == again
    assert first[1].count("\n") > 1000


def failing(seeds):
    return next((seed for seed in seeds if run(seed, steps=STEPS).failure), None)


def test_an_undo_that_misses_what_was_taken_back_is_found(monkeypatch):
    monkeypatch.setattr(undo, "_undone", lambda *_: ({}, 0))
    assert failing(range(60)) is not None


def test_a_flush_that_does_not_wait_is_found_and_made_small(monkeypatch):
    monkeypatch.setattr(Driver, "drain", lambda self: None)
    monkeypatch.setattr(Driver, "judge", lambda self, others: None)
    seed = failing(range(60))
    assert seed is not None
    small = shrunk(seed, steps=STEPS)
    assert small.outcome.failure
    again = run(seed, steps=small.steps, faults=small.faults)
    assert (again.failure.splitlines()[0], again.fingerprint) == (
        small.outcome.failure.splitlines()[0], small.outcome.fingerprint,
    )  # fmt: skip


def test_faults_are_met():
    outcome = run(0, steps=STEPS, faults={100: Fault("crash after", 0.0), 200: Fault("outage", 2.0)})
    assert outcome.met == (100, 200)
