"""What a rollback refuses, and says why."""

import msgspec
import pytest
from recoveries import begun, roll_back
from worlds import at, undone

from penstock.pipeline.catalog.checkpoints import open_checkpoint
from penstock.pipeline.core.errors import InvalidInput, NotFound, Refused
from penstock.pipeline.core.ids import State
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event, to_state, to_version


def test_refusals_name_what_is_wrong():
    world, trainer = begun()
    trainer.put("item", 8, 0)
    for target, of, error, message in (
        (to_version(7), None, NotFound, "version 7 is not among those retained"),
        (to_state(State(1, 9)), None, NotFound, "no checkpoint with marker 9"),
        (to_state(State(2, 1)), None, NotFound, "no finished checkpoint has the state 2-1"),
        (before_event(at(8)), 4, InvalidInput, "no version of timeline 4 is retained"),
    ):
        with pytest.raises(error, match=message):
            plan_rollback(world.environment(), target, of=of)
    with pytest.raises(NotFound, match="no table 'shop'"):
        plan_rollback(world.environment(), before_event(at(8)), tables=("shop",))
    opened = open_checkpoint(world.catalog, timeline=1, publishers={}, now=world.now)
    with pytest.raises(NotFound, match="no finished checkpoint has the state 1-2"):
        plan_rollback(world.environment(), to_state(opened.state))


def test_what_is_older_than_everything_retained_is_refused():
    world, trainer = begun()
    trainer.put("item", 20, 0)
    world.commit(world.mark(trainer))
    world.catalog.move(lambda refs: msgspec.structs.replace(refs, oldest=2), what="", actor=world.actor())
    with pytest.raises(Refused, match="no version that is retained is old enough to go back to before event time") as refused:
        plan_rollback(world.environment(), before_event(at(20)))
    assert "the oldest, 2," in str(refused.value)
    assert "recovery.window" in refused.value.hint


def test_a_log_that_was_cut_off_is_refused_where_it_is_needed():
    world, trainer = begun()
    for event in (8, 9, 10):
        trainer.put("item", event, *range(10))
        world.commit(world.mark(trainer))
    trainer.put("item", 11, 0)
    held = [position.offset for position in world.catalog.manifest(3).positions.partitions]
    for p, offset in enumerate(held):
        world.log.truncate(p, offset)
    with pytest.raises(Refused, match="partition 0 of the log begins at .* a cut before event time .* looked for"):
        plan_rollback(world.environment(), before_event(at(8.5)))
    manifest = roll_back(world, to_version(1))  # the deltas name the keys that the log does not hold any more
    assert world.rows(manifest) == world.rows(world.catalog.manifest(1))
    newest = world.catalog.manifest(4)
    ends = manifest.rollback.fence
    assert undone(world, world.delivered(newest, ends), manifest) == world.rows(manifest)


def test_what_no_version_covers_is_refused_when_the_log_was_cut_off():
    world, trainer = begun()
    for event in (8, 9):
        trainer.put("item", event, *range(10))
    for p in range(2):
        world.log.truncate(p, world.log.end(p))
    with pytest.raises(Refused, match="what was written behind version 1 has to be read"):
        plan_rollback(world.environment(), to_version(1))
