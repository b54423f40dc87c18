"""Short runs of the simulation; `make simulate SEEDS=20000` has the long ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.pipeline.catalog.replay import Unreadable, decoded
from penstock.pipeline.core.checkpoint import Touched
from penstock.pipeline.core.dense import DenseFold
from penstock.pipeline.core.history import Entry
from penstock.pipeline.core.records import skipped_record
from penstock.publishers import offline
from penstock.publishers.driving import Driver
from penstock.rollback import gathering, keeping, undo
from penstock.serving import replica
from penstock.serving.markers import Markers
from simulation import features
from simulation.faults import Fault, spelled, spelling
from simulation.run import faults_of, run
from simulation.shrinking import shrunk
from simulation.threads import REPLACED

TESTS = Path(__file__).parent.parent
STEPS = 30


def simulated(*arguments):
    return in_a_process_of_its_own("-m", "simulation", *map(str, arguments))


def in_a_process_of_its_own(*arguments):
    """In which sets have the order that a replay has."""
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "0"}
    found = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    return found.returncode, found.stdout + found.stderr


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_invariants_hold(first):
    code, said = simulated("--from", first, "--seeds", 25, "--steps", STEPS)
    assert not code, said


@pytest.mark.slow
def test_invariants_hold_in_many_longer_runs():
    code, said = simulated("--from", 1500, "--seeds", 300, "--steps", 40)
    assert not code, said


def test_a_seed_is_the_same_run_every_time():
    first, again = simulated("--seed", 3, "--trace"), simulated("--seed", 3, "--trace")
    assert first == again
    assert first[1].count("\n") > 1000


def test_a_seed_is_the_same_run_whatever_ran_before():
    first = run(5, steps=STEPS)
    run(6, steps=STEPS)
    again = run(5, steps=STEPS)
    assert (first.fingerprint, first.failure, first.calls) == (again.fingerprint, again.failure, again.calls)


def test_faults_can_be_spelled_out():
    faults = faults_of(11, 40)
    assert spelled(spelling(faults)) == faults
    assert spelled(spelling({})) == {}


def test_every_thread_and_clock_of_the_product_is_the_simulations():
    """A module that starts threads or reads a clock by itself makes runs differ."""
    patched = {(module.__name__, name) for name, modules in REPLACED.items() for module in modules}
    # The locks of a stream are replaced where it is made.
    code, said = in_a_process_of_its_own("-c", LOOK)
    assert not code, said
    found = {tuple(line.split()) for line in said.splitlines() if not line.startswith("penstock.pipeline.ports")}
    # Pages are served to people and Prometheus, and nobody asks for one here.
    assert found - {("penstock.publishers.stream", "threading"), ("penstock.pipeline.plain_http", "threading")} == patched


LOOK = f"""
import simulation.run, sys
for name, module in list(sys.modules.items()):
    for used in {[*REPLACED]} if name.startswith("penstock.") else ():
        if hasattr(module, used):
            print(name, used)
"""


# ---- each invariant can fail -------------------------------------------------------------------------------------------------


def failing(seeds, faults=None):
    """The first seed that fails, and how."""
    for seed in seeds:
        if failure := run(seed, steps=STEPS, faults=faults).failure:
            return seed, failure.splitlines()[0]
    return None, ""


def blind(entry, partition, skipped, model_id, name):
    """Passes over whatever it cannot read."""
    try:
        return decoded(entry, partition, skipped, model_id, name)
    except Unreadable:
        return Entry(entry.offset, skipped_record(partition, entry.appended_at), entry.appended_at)


def nothing(*_, **__):
    return None


def without_pins(found):
    return ((version, reason) for version, reason in needs(found) if not reason.startswith("pin"))


needs = keeping._needs
DAMAGED = {number: Fault("damaged", 0.0) for number in range(60, 300, 20)}
BROKEN = {
    "an undo that misses what was taken back": ([(undo, "_undone", lambda *_: ({}, 0))], "", 0, None),
    "what cannot be read is passed over": ([(replica, "decoded", blind)], "which nobody can read", 0, DAMAGED),
    "a dense slice counts before it has passed everywhere": (
        [(DenseFold, "_complete", lambda self, key: bool(self._seen.get(key)))], "which was not announced", 0, None,
    ),
    "a rollback forgets the dense slices that were announced": (
        [(gathering.DenseFold, "newest", nothing)], "its dense slice is", 0, None,
    ),
    "what was shed is forgotten": ([(Driver, "_shed", nothing)], "", 6, None),
    "rows that were corrected are not doubted": ([(Markers, "doubt_older", nothing)], "asked for version", 0, None),
    "touched keys that were told are not listed": (
        [(offline, "_touched", lambda *_: Touched(keys={}))], "published offline", 1, None,
    ),
    "pins keep nothing": ([(keeping, "_needs", without_pins), (features, "drawn", lambda _: {"pins"})], "", 19, None),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_each_invariant_can_fail(monkeypatch, what):
    patches, said, first, faults = BROKEN[what]
    for patch in patches:
        monkeypatch.setattr(*patch)
    seed, failure = failing(range(first, first + 60), faults)
    assert seed is not None
    assert said in failure


def test_a_flush_that_does_not_wait_is_found_and_made_small(monkeypatch):
    monkeypatch.setattr(Driver, "drain", lambda self: None)
    monkeypatch.setattr(Driver, "judge", lambda self, others: None)
    seed, _ = failing(range(60))
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
