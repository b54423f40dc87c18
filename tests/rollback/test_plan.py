"""What the plan says before anything moves; it changes nothing."""

import pytest
from worlds import MINUTE, TABLES, World, at

from penstock.pipeline.catalog import leases
from penstock.pipeline.core.documents import decode, encode
from penstock.pipeline.core.errors import CommitConflict, NotFound
from penstock.pipeline.core.ids import State
from penstock.publishers.promotion import promote
from penstock.rollback.confirmation import confirmation
from penstock.rollback.execution import abandon, execute, resume
from penstock.rollback.plan import RollbackPlan, claim_of
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event


def poisoned():
    """Minute 5 in version 1, 8 in version 2, poison from minute 10 on: in version 3, in two checkpoints, in the log."""
    world = World()
    trainer = world.writer()
    for table in TABLES:
        trainer.put(table, 5, *range(10))
    world.commit(world.mark(trainer), snapshot=True)
    trainer.put("item", 8, 0)
    world.commit(world.mark(trainer))
    trainer.put("item", 9, 1)
    trainer.keep("item", 9, 2)
    world.mark(trainer)
    trainer.put("item", 10, 3, 4, deleted=[5])
    trainer.put("user", 11, 6)
    for announce in trainer.put_dense(11, "poison"):
        announce()
    world.commit(world.mark(trainer))
    trainer.put("item", 12, 3)
    return world, trainer


def test_the_plan_says_what_will_be_lost():
    world, _ = poisoned()
    world.presence("r1", world.catalog.manifest(3), world.ends())
    world.presence("r0", world.catalog.manifest(2), [0, 0])
    world.presence("gone", world.catalog.manifest(2), [0, 0], until=world.now)
    before = dict(world.store._objects), world.ends()
    plan = plan_rollback(world.environment(), before_event(at(10)))
    assert (dict(world.store._objects), world.ends()) == before
    assert (plan.base, plan.base_state, plan.timeline, plan.parent, plan.of) == (2, "1-2", 2, 1, 1)
    assert [(r.table, r.rows, r.tombstones, r.first, r.last) for r in plan.lost.rows] == [
        ("item", 3, 1, "2023-11-14T22:23:20Z", "2023-11-14T22:25:20Z"),
        ("user", 1, 0, "2023-11-14T22:24:20Z", "2023-11-14T22:24:20Z"),
    ]  # fmt: skip
    assert plan.lost.versions == (3,)
    assert plan.lost.checkpoints == ("1-4",)
    assert (plan.lost.dense_updates, plan.lost.unsent) == (1, 1)
    assert plan.refs == ("live",)
    assert plan.restart_from == "1-3"
    assert [(h.replica, h.version, h.partitions_beyond_cut) for h in plan.holders] == [("r0", 2, 0), ("r1", 3, 2)]
    assert plan.learned_too == ()
    assert decode(RollbackPlan, encode(plan), "plan") == plan


def test_the_plan_for_one_table_names_the_others_that_have_learned_too():
    world, _ = poisoned()
    plan = plan_rollback(world.environment(), before_event(at(10)), tables=("item",))
    assert plan.learned_too == ("user",)
    assert [(r.table, r.rows) for r in plan.lost.rows] == [("item", 3)]
    assert plan.lost.dense_updates == 0  # the dense slice stays as it is


def test_the_plan_and_what_is_done_agree_in_the_rows_that_are_lost():
    world, _ = poisoned()
    env = world.environment()
    plan = plan_rollback(env, before_event(at(10)))
    manifest = execute(env, plan, why="")
    assert manifest.rollback.lost_rows == plan.lost.row_count
    assert manifest.rollback.cut == plan.cuts
    assert manifest.rollback.fence == plan.ends


def test_what_is_dead_already_is_not_lost_again():
    world, trainer = poisoned()
    env = world.environment()
    execute(env, plan_rollback(env, before_event(at(10))), why="")
    trainer.put("item", 13, 3)
    second = world.writer(resume=State(1, 3))
    second.put("item", 11, 3)
    plan = plan_rollback(env, before_event(at(8)), of=1)
    assert [(r.table, r.rows, r.tombstones) for r in plan.lost.rows] == [("item", 3, 0)]
    assert plan.restart_from == "1-1"


def test_one_rollback_at_a_time():
    world, _ = poisoned()
    env = world.environment()
    plan = plan_rollback(env, before_event(at(10)))
    other = plan_rollback(env, before_event(at(11)))
    leases.create_claim(world.catalog, claim_of(plan, claim_id="c", who="they", at=world.now, why=""))
    with pytest.raises(CommitConflict, match="they has claimed timeline 2 for a rollback to before event time"):
        plan_rollback(env, before_event(at(10)))
    with pytest.raises(CommitConflict, match="timeline 2 is claimed by another rollback"):
        execute(env, other, why="")
    abandon(env, why="no")
    assert plan_rollback(env, before_event(at(10))).timeline == 3
    with pytest.raises(CommitConflict):
        execute(env, other, why="the plan is stale")


def test_a_rollback_is_complete_when_every_replica_that_lives_has_confirmed():
    world, _ = poisoned()
    env = world.environment()
    before = world.catalog.manifest(2)
    for name, ref in (("r1", "live"), ("r2", "live"), ("r3", "live"), ("r4", "nowhere")):
        world.presence(name, before, [0, 0], ref=ref, until=world.now + 10 * MINUTE)
    world.base(before)
    manifest = execute(env, plan_rollback(env, before_event(at(10))), why="")
    assert confirmation(env, manifest).missing == ("r1", "r2", "r3")
    world.presence("r1", manifest, world.ends(), digests=manifest.digests)
    world.presence("r2", manifest, world.ends(), digests={"item": manifest.digests["item"]})
    found = confirmation(env, manifest)
    assert (found.confirmed, found.missing, found.differing) == ({"r1": "d"}, ("r3",), ("r2",))
    world.presence("r2", manifest, world.ends(), digests=manifest.digests)
    assert not confirmation(env, manifest).complete
    world.presence("r3", before, [0, 0], until=world.now)
    assert confirmation(env, manifest).complete


def test_a_replica_of_a_ref_that_stays_has_nothing_to_confirm():
    world, _ = poisoned()
    env = world.environment()
    promote(env, 2, ref="canary", why="")
    world.presence("c1", world.catalog.manifest(2), [0, 0], ref="canary")
    manifest = execute(env, plan_rollback(env, before_event(at(10))), why="")
    assert confirmation(env, manifest).complete


def test_nothing_to_resume():
    world, _ = poisoned()
    with pytest.raises(NotFound, match="no rollback is under way"):
        resume(world.environment())
