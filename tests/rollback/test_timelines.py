"""A rollback of a rollback: to a version of a timeline that was left, and to a moment on it."""

import pytest
from recoveries import check_recovery, roll_back
from worlds import World, at, undone

from penstock.pipeline.core.errors import InvalidInput
from penstock.pipeline.core.ids import State
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event, to_state, to_version


def left():
    """Timeline 1 with versions 1 (minute 5) and 2 (minute 10), more rows up to minute 14 on it; rolled back to before minute 9,
    and version 4 on timeline 2, with rows up to minute 22."""
    world = World()
    trainer = world.writer()
    trainer.put("item", 5, *range(10))
    trainer.put("user", 5, *range(10))
    world.commit(world.mark(trainer), snapshot=True)
    for event in (8, 9, 10):
        trainer.put("item", event, event, 0, 30 + event)
        trainer.put("user", event, 0, deleted=[event - 7])
    trainer.keep("item", 10, 7)
    world.commit(world.mark(trainer))
    for event in (12, 13, 14):
        trainer.put("item", event, 1, event, 30 + event)
    back = roll_back(world, before_event(at(9)))
    second = world.writer(resume=State(1, 1))
    second.put("item", 20, 2, 50)
    second.keep("user", 20, 9)
    world.commit(world.mark(second))
    second.put("item", 22, 3, 51)
    return world, trainer, second, back


def test_to_a_version_of_a_timeline_that_was_left():
    world, _, _, back = left()
    newest = world.catalog.history().newest
    lived = [world.delivered(version, world.ends()) for version in (back, newest)]
    manifest = roll_back(world, to_version(2))
    assert (manifest.timeline, manifest.base, manifest.previous) == (3, 2, newest.version)
    assert world.rows(manifest) == world.rows(world.catalog.manifest(2))
    assert [undone(world, rows, manifest) for rows in lived] == [world.rows(manifest)] * 2
    assert manifest.rollback.lost_rows == 4  # what timeline 2 sent; timeline 1 was lost already


def test_to_a_moment_of_a_timeline_that_was_left():
    world, _, _, _ = left()
    newest = world.catalog.history().newest
    lived = world.delivered(newest, world.ends())
    manifest = roll_back(world, before_event(at(13)), of=1)
    expected = world.delivered(world.catalog.manifest(2), manifest.rollback.cut)
    assert world.rows(manifest) == expected
    assert expected["item"][12][0] == 12
    assert 13 not in expected["item"]
    assert undone(world, lived, manifest) == expected


def test_a_moment_before_the_cut_is_the_same_on_both_timelines():
    found = []
    for of in (1, 2):
        world, _, _, _ = left()
        manifest = roll_back(world, before_event(at(8)), of=of)
        lived = world.delivered(world.catalog.manifest(4), manifest.rollback.fence)
        assert undone(world, lived, manifest) == world.rows(manifest)
        found.append(world.rows(manifest))
    assert found[0] == found[1]


def test_to_a_state_of_a_timeline_that_was_left():
    world, _, _, _ = left()
    manifest = roll_back(world, to_state(State(1, 2)))
    assert (manifest.base, world.rows(manifest)) == (2, world.rows(world.catalog.manifest(2)))


def test_on_the_live_timeline_the_dead_range_never_counts():
    """Version 3 is the rollback: what lies between its cut and its fence is not found again."""
    world, _, _, back = left()
    manifest = roll_back(world, before_event(at(22)))
    assert manifest.base == 4
    check_recovery(world, manifest, poison=22)
    manifest = roll_back(world, before_event(at(20)))
    assert manifest.base == back.version
    assert world.rows(manifest) == world.rows(back)


def test_three_times_there_and_back():
    world, trainer, heir, _ = left()
    first = roll_back(world, to_version(2))
    second = roll_back(world, to_version(4))
    assert world.rows(second) == world.rows(world.catalog.manifest(4))
    assert undone(world, world.rows(first), second) == world.rows(second)
    third = roll_back(world, before_event(at(22)), of=2)
    assert world.rows(third) == world.delivered(world.catalog.manifest(4), third.rollback.cut)
    assert undone(world, world.rows(second), third) == world.rows(third)
    for zombie in (trainer, heir):
        zombie.put("item", 40, *range(10))
    fourth = roll_back(world, before_event(at(6)), of=1)
    assert world.rows(fourth) == world.rows(world.catalog.manifest(1))


def test_one_table_goes_back_on_a_timeline_that_was_left():
    world, _, _, _ = left()
    newest = world.catalog.history().newest
    expected = world.delivered(newest, world.ends())
    manifest = roll_back(world, before_event(at(13)), of=1, tables=("item",))
    expected["item"] = world.delivered(world.catalog.manifest(2), manifest.rollback.cut)["item"]
    assert world.rows(manifest) == expected
    assert undone(world, world.delivered(newest, manifest.rollback.fence), manifest) == expected


def test_one_table_goes_back_further_than_the_last_rollback():
    world, _, _, back = left()
    newest = world.catalog.history().newest
    lived = [world.delivered(version, world.ends()) for version in (back, newest)]
    manifest = roll_back(world, before_event(at(6)), tables=("item",))
    expected = {"item": world.rows(world.catalog.manifest(1))["item"], "user": lived[1]["user"]}
    assert world.rows(manifest) == expected
    assert [undone(world, rows, manifest) for rows in lived] == [expected] * 2


def test_a_table_that_went_back_alone_stays_so():
    """A rollback of the whole model to after one of a single table: that table's dead rows stay dead, their numbers count."""
    world = World()
    trainer = world.writer()
    trainer.put("item", 5, *range(10))
    trainer.put("user", 5, *range(10))
    world.commit(world.mark(trainer), snapshot=True)
    trainer.put("item", 8, 0)
    trainer.put("user", 8, 0)
    alone = roll_back(world, before_event(at(8)), tables=("item",))
    check_recovery(world, alone)
    second = world.writer()
    second.put("user", 12, 1)
    second.put("item", 13, 1)
    whole = roll_back(world, before_event(at(13)))
    check_recovery(world, whole, poison=13)
    assert [world.rows(whole)[t][0][0] for t in ("item", "user")] == [5, 8]
    assert world.rows(whole)["user"][1][0] == 12
    once_more = roll_back(world, before_event(at(8)), of=1)
    assert [world.rows(once_more)[t][0][0] for t in ("item", "user")] == [5, 5]


def test_a_timeline_that_never_was_is_refused():
    world, _, _, _ = left()
    with pytest.raises(InvalidInput, match=r"no version of timeline 3 is retained \(the live one is 2\)"):
        plan_rollback(world.environment(), before_event(at(9)), of=3)
