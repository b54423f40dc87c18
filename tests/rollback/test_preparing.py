"""What is computed before the fences: it is completed after them, and thrown away where it does not hold any more."""

import dataclasses

import pytest
from faulty import Steps
from hypothesis import given, settings
from hypothesis import strategies as st
from recoveries import begun, check_recovery
from worlds import at

from penstock.pipeline.core.ids import Offset, Partition
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.core.schema import TableSchema
from penstock.pipeline.core.skips import Skips
from penstock.rollback import execution
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.preparing import prepare
from penstock.rollback.target import before_event


def poisoned(**options):
    world, trainer = begun(**options)
    for key in (*world.keys_in(0, 2), *world.keys_in(1, 2)):
        trainer.put("item", 10, key)
    return world, trainer


def planned(world, **options):
    return plan_rollback(world.environment(), before_event(at(10)), **options)


def prepared(world, **options):
    return prepare(world.environment(), planned(world, **options), why="poison")


def when_fencing(world, action):
    """An environment in which something happens before the first fence is sent."""
    return world.environment(log=Steps(world.log, "append", 0, action))


@pytest.fixture
def recovered(monkeypatch):
    """How often everything was computed after the fences."""
    calls, recover = [], execution.recover
    monkeypatch.setattr(execution, "recover", lambda *a, **options: calls.append(options) or recover(*a, **options))
    return calls


def test_what_is_written_until_the_last_fence_is_undone_as_well(recovered):
    world, trainer = poisoned()

    def late():
        trainer.put("item", 11, *world.keys_in(0, 2), 20, 21, deleted=[22])
        trainer.put("user", 11, 2, 31)

    manifest = execute(when_fencing(world, late), planned(world), why="poison")
    check_recovery(world, manifest, poison=10)
    assert recovered == []
    assert {change.rows + change.tombstones for change in manifest.rollback.undo.values()} == {2, 4 + 3}
    assert manifest.rollback.lost_rows == 4 + 5 + 2


@pytest.mark.parametrize("when", ["before it is prepared", "before the first fence"])
def test_a_table_that_is_born_meanwhile_goes_back_as_well(when):
    world, trainer = poisoned()
    env = world.environment()

    def born():
        world.catalog.add_tables({"shop": TableSchema(dim=2, codec="float32", width=8)})
        trainer.touched["shop"], world.model["shop"] = set(), {}
        trainer.put("shop", 11, *range(20))

    plan = plan_rollback(env, before_event(at(10)))
    if when == "before it is prepared":
        born()
    else:
        env = dataclasses.replace(env, log=Steps(world.log, "append", 0, born))
    manifest = execute(env, plan, why="poison")
    undo = manifest.rollback.undo["shop"]
    assert (undo.rows, undo.tombstones) == (0, 20)


def test_another_version_meanwhile_makes_it_void(recovered):
    world, trainer = poisoned()
    env = when_fencing(world, lambda: world.commit(world.mark(trainer)))
    manifest = execute(env, planned(world), why="poison")
    check_recovery(world, manifest, poison=10)
    assert len(recovered) == 1


def test_it_holds_for_the_same_trunk_and_skips_and_for_later_fences():
    world, trainer = poisoned()
    found, refs, ends = prepared(world), world.catalog.refs(), world.ends()
    assert found.holds(refs, found.skips, ends)
    assert found.holds(refs, found.skips, [Offset(end + 1) for end in ends])
    assert not found.holds(refs, found.skips, [Offset(end - 1) for end in ends])
    assert not found.holds(refs, Skips.of([(Partition(0), Offset(0))]), ends)
    world.commit(world.mark(trainer))
    assert not found.holds(world.catalog.refs(), found.skips, ends)


def test_a_partition_that_has_not_reached_the_target_waits_for_the_fences(recovered):
    world, trainer = begun()
    trainer.put("item", 10, *world.keys_in(0, 3))
    assert prepared(world) is None
    late = [lambda: trainer.put("item", 9, *world.keys_in(1, 3)), lambda: trainer.put("item", 12, *world.keys_in(1, 2))]
    manifest = execute(when_fencing(world, lambda: [each() for each in late]), planned(world), why="poison")
    assert len(recovered) == 1
    check_recovery(world, manifest, poison=10)


def test_tables_that_stay_wait_for_the_fences():
    world, _ = poisoned()
    assert prepared(world) is not None
    assert prepared(world, tables=("item",)) is None


def test_what_is_prepared_changes_nothing_that_anybody_sees():
    world, _ = poisoned()
    refs, ends = world.catalog.refs(), world.ends()
    assert prepared(world).begun.ends == tuple(ends)
    assert (world.catalog.refs(), world.ends()) == (refs, ends)
    assert not [record for p in (0, 1) for _, record in world.records(p) if record.kind == RecordKind.FENCE]


@settings(max_examples=40, deadline=None)
@given(
    before=st.lists(st.tuples(st.integers(6, 14), st.sets(st.integers(0, 25), min_size=1), st.booleans()), max_size=6),
    after=st.lists(st.tuples(st.integers(6, 14), st.sets(st.integers(0, 25), min_size=1), st.booleans()), max_size=4),
)
def test_invariant_7_holds_wherever_the_fences_fall(before, after):
    world, trainer = poisoned()

    def put(event, keys, deleted):
        trainer.put("item", event, *(() if deleted else keys), deleted=keys if deleted else ())

    for each in before:
        put(*each)
    env = when_fencing(world, lambda: [put(*each) for each in after])
    check_recovery(world, execute(env, planned(world), why="poison"), poison=10)
