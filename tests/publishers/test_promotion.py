"""Moving a ref to a version that is committed."""

import pytest
from worlds import World, at

from penstock.pipeline.core.errors import InvalidInput, NotFound, Refused
from penstock.publishers.promotion import promote
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event


def grown():
    world = World()
    trainer = world.writer()
    for event in (5, 6, 7):
        trainer.put("item", event, event)
        world.commit(world.mark(trainer), promote=() if event == 7 else ("live",))
    return world, world.environment()


def test_a_new_ref_follows_versions_and_moves_both_ways():
    _, env = grown()
    for version in (2, 1, 3):
        found = promote(env, version, ref="canary", why="gate passed").refs["canary"]
        assert (found.version, found.follow) == (version, "versions")
    move = env.catalog.refs().move
    assert (move.what, move.why) == ("promoted version 3 to canary", "gate passed")


def test_a_ref_that_follows_the_log_only_goes_forward():
    _, env = grown()
    assert promote(env, 3, ref="live", why="").refs["live"].version == 3
    with pytest.raises(Refused, match="ref live follows the log and is at version 3, past 2") as refused:
        promote(env, 2, ref="live", why="")
    assert "rollback --to-version 2" in refused.value.hint
    assert env.catalog.refs().refs["live"].version == 3


def test_what_was_taken_back_cannot_be_promoted():
    _, env = grown()
    execute(env, plan_rollback(env, before_event(at(7))), why="")
    with pytest.raises(Refused, match="version 3 was taken back by a rollback"):
        promote(env, 3, ref="canary", why="")
    with pytest.raises(NotFound, match="version 9 is not a retained version"):
        promote(env, 9, ref="canary", why="")
    with pytest.raises(InvalidInput, match="ref 'a/b'"):
        promote(env, 2, ref="a/b", why="")


def test_a_frozen_ref_stays_frozen():
    from penstock.rollback.freezing import freeze

    _, env = grown()
    frozen = freeze(env, "live", why="").refs["live"].frozen
    assert promote(env, 3, ref="live", why="").refs["live"].frozen == frozen
