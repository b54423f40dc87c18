"""Retention whose every call fails once, and what comes in between any two of its calls."""

import contextlib
import dataclasses

from aged import Meanwhile, calls_of, check_whole, clean, floats, grown
from faulty import Crash, Faults, Faulty, every_failure
from worlds import MINUTE, MODEL

from penstock.pipeline.catalog import keys, leases
from penstock.pipeline.catalog.catalog import Catalog
from penstock.pipeline.core.errors import CommitConflict, Expired, NotFound
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.retention import apply_retention, plan_retention
from penstock.rollback.target import to_version


def test_a_run_that_dies_at_any_call_is_finished_by_the_next():
    first, _ = grown(5, base_at=(2, 4))
    stuck = leases.open_upload(first.catalog, purpose="stuck", actor=first.actor())
    first.change(stuck, "item", {1: (1, 1)}, [])
    first.now += 61 * MINUTE
    there = first.copy()
    clean(there)
    expected = {key for key in there.store._objects if "/history/" not in key}
    worlds = []

    def run(faults: Faults) -> None:
        worlds.append(world := first.copy())
        clean(world, world.environment(store=Faulty(world.store, faults), log=Faulty(world.log, faults)))

    for failure in every_failure(run):
        world = worlds.pop()
        newest = world.catalog.history().newest
        assert world.rows(newest) == first.rows(newest), failure
        clean(world)
        assert {key for key in world.store._objects if "/history/" not in key} == expected, failure
        assert [world.log.begin(p) for p in range(2)] == [there.log.begin(p) for p in range(2)], failure
        check_whole(world)


def test_a_lease_that_is_taken_at_any_moment_holds_or_is_refused():
    first, _ = grown(5, base_at=(2, 4))
    version = 2
    rows = first.rows(first.catalog.manifest(version))
    there = first.copy()
    calls = calls_of(lambda faults: clean(there, there.environment(store=Faulty(there.store, faults))))
    assert version not in [m.version for m in there.catalog.history().trunk]
    outcomes = set()
    for call in range(calls):
        world = first.copy()
        outcome = []

        def lease(world=world, outcome=outcome):
            try:
                leases.put_pin(Catalog(world.store, MODEL), "late", version, actor=world.actor())
                outcome.append(True)
            except NotFound:
                outcome.append(False)

        clean(world, world.environment(store=Meanwhile(world.store, call, lease)))
        outcomes |= set(outcome)
        if outcome == [True]:
            assert world.rows(Catalog(world.store, MODEL).history().version(version)) == rows, call
            clean(world)
            assert world.rows(Catalog(world.store, MODEL).history().version(version)) == rows, call
        else:
            assert not leases.pins(world.catalog, now=world.now)
    assert outcomes == {True, False}


def test_a_lease_that_is_taken_before_a_run_dies_holds():
    """The pin comes between looking and moving; the run dies right after; the next one finds what was let go of."""
    first, _ = grown(5, base_at=(2, 4))
    version = 2
    rows = first.rows(first.catalog.manifest(version))
    there = first.copy()
    calls = calls_of(lambda faults: clean(there, there.environment(store=Faulty(there.store, faults))))
    held = 0
    for call in range(0, calls, 2):
        for dies in range(call, min(call + 24, calls), 3):
            world = first.copy()
            outcome = []

            def lease(world=world, outcome=outcome):
                try:
                    leases.put_pin(Catalog(world.store, MODEL), "late", version, actor=world.actor())
                    outcome.append(True)
                except NotFound:
                    outcome.append(False)

            faulty = Faulty(Meanwhile(world.store, call, lease), Faults(dies, "after"))
            with contextlib.suppress(Crash):
                clean(world, world.environment(store=faulty))
            clean(world)
            if outcome == [True]:
                held += 1
                assert world.rows(Catalog(world.store, MODEL).history().version(version)) == rows, (call, dies)
    assert held


def test_two_runs_whose_clocks_differ_never_bring_back_what_one_deletes():
    """The window of the one whose clock is behind reaches down to a version that the other one has let go of."""
    first, _ = grown(6, base_at=range(100))

    def behind(world):
        return dataclasses.replace(world.environment(), clock=lambda: world.now - 9 * MINUTE)

    first.now += 25 * MINUTE
    assert plan_retention(behind(first)).oldest < plan_retention(first.environment()).oldest
    there = first.copy()
    calls = calls_of(lambda faults: clean(there, there.environment(store=Faulty(there.store, faults))))
    for call in range(calls):
        world = first.copy()
        plan = plan_retention(behind(world))
        meanwhile = Meanwhile(world.store, call, lambda world=world, plan=plan: apply_retention(behind(world), plan, why="too"))
        clean(world, world.environment(store=meanwhile))
        refs = world.catalog.refs()
        for version in (*range(refs.oldest, refs.trunk + 1), *refs.bases):
            assert keys.manifest(MODEL, version) in world.store._objects, (call, version)
        check_whole(world)
        clean(world)
        assert world.catalog.refs().oldest == there.catalog.refs().oldest


def test_a_commit_at_any_moment_keeps_what_it_names():
    first, trainer = grown(5, base_at=(2, 4))
    trainer.put("item", 302, 1)
    state = first.mark(trainer)
    stuck = first.copy()
    stuck.now += 61 * MINUTE
    there = stuck.copy()
    calls = calls_of(lambda faults: clean(there, there.environment(store=Faulty(there.store, faults))))
    for call in range(calls):
        world = stuck.copy()
        clean(world, world.environment(store=Meanwhile(world.store, call, lambda world=world: world.commit(state))))
        newest = Catalog(world.store, MODEL).history().newest
        assert newest.state == state
        assert world.rows(newest) == {t: floats(rows) for t, rows in world.states[state].model.items()}, call


def test_an_overdue_publish_is_either_committed_or_given_up():
    """All is written and nothing is committed; retention comes while it is, and it is committed while retention comes."""
    first, trainer = grown(3, base_at=(2,))
    trainer.put("item", 182, 1)
    state = first.mark(trainer)
    draft = first.drafted(state)
    first.now += 61 * MINUTE
    there = first.copy()
    calls = calls_of(lambda faults: clean(there, there.environment(store=Faulty(there.store, faults))))
    outcomes = set()
    for call in range(2 * calls):
        world, met = first.copy(), []

        def commit(world=world, met=met):
            try:
                met.append(world.committed(draft).version)
            except (Expired, CommitConflict) as error:
                met.append(type(error).__name__)

        store = world.store
        if call < calls:
            clean(world, world.environment(store=Meanwhile(store, call, commit)))
        else:
            env = world.environment(store=store)
            world.catalog = Catalog(Meanwhile(store, call - calls, lambda world=world, env=env: clean(world, env)), MODEL)
            commit()
            clean(world, env)
        outcomes |= {str(found) for found in met}
        newest = Catalog(store, MODEL).history().newest
        assert (newest.state == state) == (met[:1] == [newest.version]), call
        assert world.rows(newest) == {t: floats(rows) for t, rows in world.states[newest.state].model.items()}, call
        assert newest.data_paths() <= set(store._objects), call
    assert {"Expired"} < outcomes


def test_a_rollback_that_is_claimed_meanwhile_keeps_its_base():
    first, _ = grown(5, base_at=(2, 4))
    version = 2
    there = first.copy()
    calls = calls_of(lambda faults: clean(there, there.environment(store=Faulty(there.store, faults))))
    plan = plan_rollback(first.environment(), to_version(version))
    expected = first.rows(first.catalog.manifest(version))
    done = set()
    for call in range(calls):
        world = first.copy()

        def claim(world=world):
            try:
                execute(world.environment(), plan, why="")
                done.add("rolled back")
            except NotFound:
                done.add("too late")

        clean(world, world.environment(store=Meanwhile(world.store, call, claim)))
        assert leases.open_claim(world.catalog, world.catalog.refs()) is None
        newest = Catalog(world.store, MODEL).history().newest
        if newest.rollback is not None:
            assert world.rows(newest) == expected, call
    assert done == {"rolled back", "too late"}
