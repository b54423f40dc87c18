"""Reading a stretch of the log again: bounded, in order, and without what was taken back."""

import msgspec
import pytest
from worlds import World, at

from penstock.pipeline.catalog import replay as replaying
from penstock.pipeline.catalog.replay import replay, replay_live
from penstock.pipeline.core.errors import Corrupt, PositionGone, Unreachable
from penstock.pipeline.core.records import Record, RecordKind
from penstock.pipeline.core.skips import Skips
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event


def written(count=40):
    world = World()
    trainer = world.writer()
    for event in range(count):
        trainer.put("item", event, *world.keys_in(0, 2))
    return world


def offsets(entries):
    return [entry.offset for entry in entries]


@pytest.mark.parametrize("chunk", [1, 300, 8 << 20])
def test_a_stretch_is_read_in_order_however_small_the_parts_are(chunk, monkeypatch):
    monkeypatch.setattr(replaying, "CHUNK_BYTES", chunk)
    world = written()
    assert offsets(replay(world.log, world.schema, 0, 3, 30, Skips())) == list(range(3, 30))
    assert offsets(replay(world.log, world.schema, 0, 30, 30, Skips())) == []
    entry = next(replay(world.log, world.schema, 0, 3, 30, Skips()))
    assert (entry.record.kind, entry.record.seq, entry.appended_at) == (RecordKind.ROWS, 3, at(2))


def test_what_was_cut_off_is_not_there():
    world = written()
    world.log.truncate(0, 10)
    with pytest.raises(PositionGone):
        list(replay(world.log, world.schema, 0, 9, 30, Skips()))


def test_a_log_that_stays_silent_is_reported(monkeypatch):
    monkeypatch.setattr(replaying, "POLL_S", 0.0)
    world = written()

    class Silent:
        url = "silent"

        def poll(self, wanted, **options):
            return {}

    with pytest.raises(Unreachable, match="silent partition 0: offset 5 was not delivered, its end is 30"):
        list(replay(Silent(), world.schema, 0, 5, 30, Skips()))


def test_disorder_and_foreign_records_are_refused():
    world = written()

    class Backwards:
        url = "backwards"

        def poll(self, wanted, **options):
            return {0: world.log.poll({0: wanted[0] - 1}, **options)[0]}

    with pytest.raises(Corrupt, match="backwards partition 0 offset 4: delivered though 5 was asked for"):
        list(replay(Backwards(), world.schema, 0, 5, 30, Skips()))
    other = msgspec.structs.replace(world.schema, id="0" * 32)
    with pytest.raises(Corrupt, match="partition 0 offset 5: belongs to model"):
        list(replay(world.log, other, 0, 5, 30, Skips()))


def test_dead_ranges_are_not_even_read():
    world = written()
    env = world.environment()
    manifest = execute(env, plan_rollback(env, before_event(at(20))), why="")
    second = world.writer()
    second.put("item", 50, *world.keys_in(0, 2))
    cut, fence, end = manifest.rollback.cut[0], manifest.rollback.fence[0], world.log.end(0)
    asked = []

    class Watched:
        url = "watched"

        def poll(self, wanted, **options):
            asked.append(wanted[0])
            return world.log.poll(wanted, timeout_s=0, max_bytes=1)

    live = offsets(replay_live(Watched(), world.schema, world.catalog.history(), 0, 0, 1, end, Skips()))
    assert live == [*range(cut), *range(fence + 1, end)]
    assert not [offset for offset in asked if cut < offset <= fence]
    world.append(Record(kind=RecordKind.FENCE, timeline=9, partition=0))
    assert offsets(replay_live(world.log, world.schema, world.catalog.history(), 0, 0, 1, end + 1, Skips())) == live
