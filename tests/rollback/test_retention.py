"""Retention: what is kept and why; nothing that is needed goes, whatever happens meanwhile, and a run may end anywhere."""

import pytest
from aged import check_whole, clean, grown, keys_of
from worlds import MINUTE, MODEL, at

from penstock.pipeline.catalog import leases
from penstock.pipeline.catalog.checkpoints import read_checkpoint
from penstock.pipeline.core.documents import decode, encode
from penstock.pipeline.core.errors import NotFound
from penstock.pipeline.core.ids import State
from penstock.pipeline.ports.store import Overwrite
from penstock.publishers.promotion import promote
from penstock.rollback.execution import execute, resume
from penstock.rollback.inventory import take_inventory
from penstock.rollback.keeping import RetentionPlan
from penstock.rollback.plan import claim_of
from penstock.rollback.planning import plan_rollback
from penstock.rollback.retention import plan_retention
from penstock.rollback.target import before_event, to_version


def test_without_a_whole_state_everything_hangs_together():
    world, _ = grown()
    before = dict(world.store._objects)
    plan = plan_retention(world.environment())
    assert world.store._objects == before
    assert (plan.oldest, plan.expired_versions) == (1, (0,))  # version 1 is a snapshot, all else is a difference to it
    reasons = {kept.version: kept.reasons for kept in plan.kept}
    assert "chain of version 7" in reasons[1]
    assert {"ref live", "ref trunk", "recovery window"} <= set(reasons[7])
    assert decode(RetentionPlan, encode(plan), "plan") == plan


def test_what_is_older_than_the_window_and_its_chain_goes():
    world, _ = grown(8, base_at=(4,))
    done = clean(world)
    # Of the versions, made every hour (numbers 1 to 4 and 6 to 10; 5 stands beside 4), number 8 was made an hour and two skews
    # before now. Its chain begins beside version 4.
    assert done.oldest == 4
    reasons = {kept.version: kept.reasons for kept in done.kept}
    refs = world.catalog.refs()
    assert (refs.oldest, refs.bases) == (4, (5,))
    assert "recovery window" in reasons[8]
    assert "recovery window" not in reasons[7]
    assert "chain of version 8" in reasons[5]
    assert [m.version for m in world.catalog.history().trunk] == [v for v in reasons if v != 5]
    assert keys_of(world, "versions") == [f"{MODEL}/versions/{v:010d}.json" for v in reasons]
    assert world.log.begin(0) > 0
    check_whole(world)
    plan = plan_rollback(world.environment(), before_event(at(60 * 7 + 30)))
    execute(world.environment(), plan, why="")


def test_invariant_10_every_moment_of_the_window_can_be_recovered():
    world, _ = grown(8, base_at=(4, 8))
    expected = {}
    for minute in (450, 470, 475, 479):
        there = world.copy()
        manifest = execute(there.environment(), plan_rollback(there.environment(), before_event(at(minute))), why="")
        expected[minute] = there.rows(manifest)
    clean(world)
    for minute, rows in expected.items():
        there = world.copy()
        manifest = execute(there.environment(), plan_rollback(there.environment(), before_event(at(minute))), why="")
        assert there.rows(manifest) == rows


def test_the_window_of_a_timeline_that_was_left_inside_it():
    world, _ = grown(6, base_at=(3, 6))
    env = world.environment()
    world.now = at(60 * 6 + 30)
    execute(env, plan_rollback(env, to_version(2)), why="")
    there = world.copy()
    expected = there.rows(execute(there.environment(), plan_rollback(there.environment(), before_event(at(355)), of=1), why=""))
    done = clean(world)
    assert done.oldest == 1  # version 2, which the model went back to, is a difference to it
    found = execute(env, plan_rollback(env, before_event(at(355)), of=1), why="")
    assert world.rows(found) == expected


def test_refs_pins_and_claims_keep_what_they_need():
    for keep in ("pin", "lease", "canary", "claim", "replica"):
        world, _ = grown(8, base_at=(2, 7))
        env = world.environment()
        version = 4  # version 3 is the base beside version 2
        if keep == "pin":
            leases.put_pin(world.catalog, "audit", version, actor=world.actor())
        elif keep == "lease":
            leases.put_pin(world.catalog, "bootstrap", version, actor=world.actor(), until=world.now + MINUTE)
        elif keep == "canary":
            promote(env, version, ref="canary", why="")
        elif keep == "claim":
            plan = plan_rollback(env, to_version(version))
            leases.create_claim(world.catalog, claim_of(plan, claim_id="c", who="they", at=world.now, why=""))
        else:
            world.presence("r1", world.catalog.manifest(version), world.ends())
        rows = world.rows(world.catalog.manifest(version))
        planned = None if keep == "claim" else plan_rollback(env, to_version(version))
        done = clean(world)
        assert done.oldest == (version if keep == "replica" else 2), keep
        kept = {k.version: k.reasons for k in done.kept}
        word = {"pin": "pin audit", "lease": "lease bootstrap", "canary": "ref canary", "replica": "replica r1"}
        assert word.get(keep, "rollback to timeline 2 under way") in kept[version]
        if keep != "replica":
            assert world.rows(world.catalog.manifest(version)) == rows
        if keep == "claim":
            assert world.rows(resume(env)) == rows
        if keep == "replica":
            gone = f"version {version} cannot be restored any more: version {version} is a difference"
            with pytest.raises(NotFound, match=gone):
                leases.put_pin(world.catalog, "late", version, actor=world.actor())
            with pytest.raises(NotFound, match=gone):
                promote(env, version, ref="canary", why="")
            with pytest.raises(NotFound, match=gone):
                plan_rollback(env, to_version(version))
            with pytest.raises(NotFound, match=gone):
                execute(env, planned, why="it was planned before")
            assert leases.open_claim(world.catalog, world.catalog.refs()) is None


def test_an_undo_stays_until_every_replica_has_passed_it():
    world, _ = grown(2)
    env = world.environment()
    execute(env, plan_rollback(env, before_event(at(120))), why="")
    second = world.writer(resume=State(1, 2))
    for hour in range(3, 9):
        second.put("item", 60 * hour, hour)
        found = world.commit(world.mark(second))
        if hour == 4:
            world.base(found)
    world.presence("slow", world.catalog.manifest(3), world.ends())
    assert clean(world).oldest == 3
    assert [m.version for m in world.catalog.history().rollbacks()] == [4]
    leases.remove_presence(world.catalog, "slow")
    clean(world)
    assert world.catalog.history().rollbacks() == []


def test_the_log_is_cut_off_below_what_is_needed():
    world, _ = grown(8, base_at=(4, 8))
    plan = plan_retention(world.environment())
    floor = next(k.version for k in plan.kept if "recovery window" in k.reasons)
    expected = [position.offset for position in world.catalog.manifest(floor).positions.partitions]
    assert list(plan.truncate) == expected
    clean(world)
    assert [world.log.begin(p) for p in range(2)] == expected
    world.presence("slow", world.catalog.manifest(floor), [expected[0] - 2, expected[1]])
    assert list(plan_retention(world.environment()).truncate) == expected  # what is gone stays gone


def test_a_replica_that_lags_holds_the_log():
    world, _ = grown(8, base_at=(4, 8))
    lagging = [1, 2]
    world.presence("slow", world.catalog.manifest(10), lagging)
    assert list(plan_retention(world.environment()).truncate) == lagging


def test_the_room_that_is_left_in_the_log_is_reported():
    world, trainer = grown(2)
    assert not plan_retention(world.environment()).delta_due
    trainer.put("item", 130, *range(10))
    room = plan_retention(world.environment()).log[0]
    newest = world.catalog.manifest(3).positions.partitions[0].offset
    assert room.behind == round((world.log.end(0) - newest) / world.log.end(0), 4)
    for event in range(131, 160):
        trainer.put("item", event, *range(10))
    assert plan_retention(world.environment()).delta_due


def test_checkpoints_and_touched_keys_of_the_past_go_with_it():
    world, _ = grown(8, base_at=(4, 8))
    done = clean(world)
    oldest = world.catalog.history().trunk[0].state.marker
    assert done.expired_checkpoints == tuple(range(1, oldest))
    with pytest.raises(NotFound):
        read_checkpoint(world.catalog, 1)
    assert [int(key.split("/")[2]) for key in keys_of(world, "touched")] == list(range(oldest, 10))


def test_an_upload_that_was_never_committed_goes_when_it_is_overdue():
    world, _ = grown(2)
    fresh = leases.open_upload(world.catalog, purpose="stuck", actor=world.actor())
    world.change(fresh, "item", {1: (1, 1)}, [])
    world.store.put(f"{MODEL}/data/nobody/item.arrow", b"left behind", Overwrite())
    before = set(world.store._objects)
    done = clean(world)
    assert fresh.id not in done.expired_uploads
    world.now += 61 * MINUTE
    done = clean(world)
    assert done.expired_uploads == (fresh.id,)
    assert {f"{MODEL}/data/{fresh.id}/item-000000000000.rows.arrow", f"{MODEL}/uploads/{fresh.id}.json"} <= before - set(
        world.store._objects
    )
    assert not [key for key in world.store._objects if "nobody" in key]
    assert done.freed_bytes > 0


def test_announced_slices_go_when_nothing_names_them_any_more():
    world, trainer = grown(2)
    for name in ("one", "two"):
        for announce in trainer.put_dense(130, name):
            announce()
    world.commit(world.mark(trainer))
    (one, two) = keys_of(world, "announced")
    clean(world)
    world.now += 61 * MINUTE
    assert one not in clean(world).expired_objects  # it still stands in the log
    for hour in (4, 5, 6, 7):
        trainer.put("item", 60 * hour, hour)
        found = world.commit(world.mark(trainer))
    world.base(found)
    clean(world)  # cuts off the log; what it announced is not looked for before the next run
    clean(world)
    assert world.log.begin(0) > 4
    assert keys_of(world, "announced") == [two]  # the versions' own


def test_dense_slices_and_runs_that_a_later_version_carries_on_stay():
    """A delta whose dense slice is the one before it names an object of another upload."""
    world, _ = grown(8, base_at=(8,))
    named = {
        path for kept in plan_retention(world.environment()).kept for path in world.catalog.manifest(kept.version).data_paths()
    }
    clean(world)
    assert named <= set(world.store._objects)


def test_nothing_to_do_moves_no_ref():
    world, _ = grown(8, base_at=(4, 8))
    clean(world)
    generation, objects = world.catalog.refs().generation, dict(world.store._objects)
    clean(world)
    assert world.catalog.refs().generation == generation
    assert world.store._objects == objects


def test_who_and_why_stand_in_the_history():
    world, _ = grown(8, base_at=(4, 8))
    clean(world)
    move = world.catalog.refs().move
    assert (move.who, move.why) == ("me", "daily")
    assert move.what.startswith("retention: the oldest version is")


def test_the_inventory_writes_nothing():
    world, _ = grown(3)
    before = dict(world.store._objects)
    take_inventory(world.environment())
    assert world.store._objects == before
