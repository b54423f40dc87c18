"""A rollback whose every call of store and log fails once, and rollbacks that meet others, or publishers, on their way."""

import threading

import msgspec
import pytest
from faulty import Crash, Faults, Faulty, Steps, every_failure
from recoveries import check_recovery
from worlds import TABLES, World, at

from penstock.pipeline.core.errors import CommitConflict, NotFound, OutcomeUnknown, Refused
from penstock.pipeline.core.records import Record, RecordKind
from penstock.rollback.execution import abandon, execute, resume
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event


def poisoned():
    world = World()
    trainer = world.writer()
    for table in TABLES:
        trainer.put(table, 5, *range(6))
    world.commit(world.mark(trainer), snapshot=True)
    trainer.put("item", 8, 0)
    trainer.put("item", 10, 1, 20)
    trainer.keep("user", 10, 3)
    world.commit(world.mark(trainer))
    trainer.put("user", 12, 2)
    return world, trainer


def back(env, *, tables=None):
    return execute(env, plan_rollback(env, before_event(at(10)), tables=tables), why="poison")


def again(env, **options):
    """What an operator does after a run died: finish what was claimed, else begin."""
    try:
        return resume(env)
    except NotFound:
        rollbacks = env.catalog.history().rollbacks()
        return rollbacks[-1] if rollbacks else back(env, **options)


@pytest.mark.parametrize("tables", [None, ("item",)])
def test_invariant_2_a_run_that_dies_at_any_call_is_finished_by_the_next(tables):
    first, _ = poisoned()
    there, _ = poisoned()
    expected = there.rows(back(there.environment(), tables=tables))
    worlds = []

    def run(faults: Faults) -> None:
        worlds.append(world := first.copy())
        back(world.environment(store=Faulty(world.store, faults), log=Faulty(world.log, faults)), tables=tables)

    failures = 0
    for failure in every_failure(run):
        world, failures = worlds.pop(), failures + 1
        manifest = again(world.environment(), tables=tables)
        history = world.catalog.history()
        assert [m.version for m in history.rollbacks()] == [manifest.version], failure
        assert world.rows(manifest) == expected, failure
        refs = world.catalog.refs()
        assert (refs.trunk, refs.refs["live"].version, refs.timeline) == (manifest.version, manifest.version, 2), failure
    assert failures > 100


def test_a_run_that_dies_at_any_call_may_be_abandoned():
    """Nothing of it counts then: the trainer goes on, and another rollback finds its way past the void fences."""
    first, trainer = poisoned()
    worlds = []

    def run(faults: Faults) -> None:
        worlds.append(world := first.copy())
        back(world.environment(store=Faulty(world.store, faults), log=Faulty(world.log, faults)))

    for failure in every_failure(run, modes=("before", "after")):
        world = worlds.pop()
        env = world.environment()
        try:
            abandon(env, why="no need")
        except NotFound:
            continue  # not claimed yet, or done already
        assert world.catalog.refs().timeline == 1, failure
        trainer.world = world
        trainer.put("item", 13, 4)
        manifest = execute(env, plan_rollback(env, before_event(at(13))), why="after all")
        assert manifest.timeline == 3
        check_recovery(world, manifest, poison=13)
        trainer.seqs, trainer.world = list(trainer.seqs), first


def test_a_second_fence_is_void():
    world, trainer = poisoned()
    fence = Record(kind=RecordKind.FENCE, timeline=2, partition=0)

    def behind():
        world.append(fence)  # by a run that was thought dead
        trainer.put("item", 14, *range(6))

    env = world.environment(log=Steps(world.log, "append", 1, behind))
    manifest = back(env)
    check_recovery(world, manifest, poison=10)
    assert [r.kind for o, r in world.records(0) if o > manifest.rollback.fence[0]].count(RecordKind.FENCE) == 1
    world.append(fence)
    second = world.writer()
    second.put("item", 9, 1)
    once_more = execute(env, plan_rollback(env, before_event(at(12))), why="")
    check_recovery(world, once_more)
    assert world.rows(once_more)["item"][1][0] == 9


@pytest.mark.parametrize("call", range(3))
def test_a_delta_that_comes_between_fence_and_commit_is_taken_back_as_well(call):
    """Its marker was before the claim; it is committed while the undo is computed."""
    world, trainer = poisoned()
    state = world.mark(trainer)
    other = world.copy()
    late = []

    class Late:
        def __getattr__(self, name):
            return getattr(world.store, name)

        def upload(self, *arguments, **options):
            if len(late) == call and not world.catalog.history().of_state(state):
                world.commit(state)
            late.append(1)
            return world.store.upload(*arguments, **options)

    manifest = back(world.environment(store=Late()))
    check_recovery(world, manifest, poison=10)
    assert manifest.previous == 3
    assert world.rows(manifest) == other.rows(back(other.environment()))


def test_a_ref_that_is_promoted_meanwhile_moves_as_well():
    from penstock.publishers.promotion import promote

    world, _ = poisoned()
    done = []

    class Meanwhile:
        def __getattr__(self, name):
            return getattr(world.store, name)

        def upload(self, *arguments, **options):
            if not done:
                done.append(promote(world.environment(), 2, ref="canary", why="too early"))
            return world.store.upload(*arguments, **options)

    manifest = back(world.environment(store=Meanwhile()))
    assert world.catalog.refs().refs["canary"].version == manifest.version


@pytest.mark.parametrize("call", range(0, 60, 4))
def test_whoever_finishes_first_wins(call):
    """One run stops at some call, another one finishes the claim; the first goes on and comes to the same version."""
    world, _ = poisoned()
    found, left = [], [call]

    class Overtaken:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            method = getattr(self.inner, name)
            if not callable(method):
                return method

            def called(*arguments, **options):
                left[0] -= 1
                if left[0] < 0 and not found:
                    try:
                        found.append(resume(world.environment(who="other")))
                    except NotFound:
                        left[0] = 1  # not claimed yet
                return method(*arguments, **options)

            return called

    manifest = back(world.environment(store=Overtaken(world.store), log=Overtaken(world.log)))
    assert found in ([manifest], [])
    assert len(world.catalog.history().rollbacks()) == 1
    check_recovery(world, manifest, poison=10)


def test_two_runs_at_the_same_time():
    world, _ = poisoned()
    plan = plan_rollback(world.environment(), before_event(at(10)))
    outcomes, barrier = [], threading.Barrier(2)

    def run():
        barrier.wait()
        try:
            outcomes.append(execute(world.environment(), plan, why="both"))
        except CommitConflict:
            outcomes.append(None)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcome is None for outcome in outcomes) == [False, True]
    assert len(world.catalog.history().rollbacks()) == 1


@pytest.mark.parametrize("call", range(0, 60, 3))
def test_abandon_and_commit_exclude_each_other(call):
    world, _ = poisoned()
    outcome, left = [], [call]

    class Given:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            method = getattr(self.inner, name)
            if not callable(method):
                return method

            def called(*arguments, **options):
                left[0] -= 1
                if left[0] < 0 and not outcome:
                    try:
                        outcome.append(abandon(world.environment(who="other"), why="no").timeline)
                    except NotFound:
                        left[0] = 1
                return method(*arguments, **options)

            return called

    env = world.environment(store=Given(world.store), log=Given(world.log))
    try:
        manifest = back(env)
    except Refused as refused:
        manifest, message = None, str(refused)
    refs = world.catalog.refs()
    if manifest is None:
        assert message == "the rollback to timeline 2 was abandoned"
        assert (refs.timeline, refs.abandoned, refs.trunk) == (1, (2,), 2)
        assert not world.catalog.history().rollbacks()
    else:
        assert not outcome
        assert refs.abandoned == ()
        check_recovery(world, manifest, poison=10)


def test_abandoning_what_is_committed():
    world, _ = poisoned()
    back(world.environment())
    with pytest.raises(NotFound, match="no rollback is under way"):
        abandon(world.environment(), why="too late")


def test_a_log_that_never_answers_is_reported_and_nothing_has_moved():
    world, _ = poisoned()

    class Silent:
        def done(self):
            return True

        def result(self, timeout_s):
            raise OutcomeUnknown("no answer")

    class Mute:
        def __getattr__(self, name):
            return getattr(world.log, name)

        def append(self, partition, payload):
            return Silent()

    with pytest.raises(OutcomeUnknown, match="fences of timeline 2 in partitions 0, 1 were not acknowledged 16 times"):
        back(world.environment(log=Mute()))
    assert world.catalog.refs().timeline == 1
    check_recovery(world, resume(world.environment()), poison=10)


def test_a_dead_process_makes_no_further_call():
    world, _ = poisoned()
    with pytest.raises(Crash):
        back(world.environment(store=Faulty(world.store, Faults(30, "after"))))
    refs = world.catalog.refs()
    assert msgspec.structs.asdict(refs)["timeline"] == 1
