"""Who wrote a row."""

import pytest
from worlds import World, at

from penstock.pipeline.core.errors import NotFound
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event
from penstock.rollback.trace import trace


def test_every_write_is_named_oldest_first():
    world = World()
    trainer = world.writer()
    trainer.put("item", 5, 1, 2)
    world.now = at(5.5)
    world.commit(world.mark(trainer), snapshot=True)
    trainer.put("item", 7, 1)
    again = list(trainer.seqs)
    trainer.put("item", 8, deleted=[1])
    trainer.seqs = again
    trainer.learned = 8
    trainer.put("item", 9, 2, 1)  # with a number that was taken: readers drop it
    world.now = at(9.5)
    world.commit(world.mark(trainer))
    world.base(world.catalog.history().newest)
    world.now = at(9.7)
    env = world.environment()
    manifest = execute(env, plan_rollback(env, before_event(at(8))), why="")
    world.now = at(10)
    world.writer().put("item", 11, 1)
    found = trace(env, "item", 1)
    assert [(e.origin, e.op, e.live) for e in found] == [
        ("log", "put", True), ("version 1 changes", "put", True), ("log", "put", True), ("log", "delete", False),
        ("log", "put", False), ("version 2 changes", "put", False), ("version 3 whole", "put", False),
        (f"version {manifest.version} changes", "put", True), (f"version {manifest.version} undo", "put", True),
        ("log", "put", True),
    ]  # fmt: skip
    assert [(e.publisher, e.term, e.trained_through) for e in found if e.origin == "log"] == [
        ("trainer", 1, at(event)) for event in (5, 7, 8, 9)
    ] + [("trainer", 2, at(11))]
    assert [e.at for e in found] == sorted(e.at for e in found)
    assert {e.partition for e in found} == {None, world.partition_of(1)}


def test_rows_that_the_rollback_of_their_table_took_back_are_dead():
    world = World()
    trainer = world.writer()
    trainer.put("item", 5, 1)
    trainer.put("user", 5, 1)
    env = world.environment()
    execute(env, plan_rollback(env, before_event(at(5)), tables=("item",)), why="")
    for table, live in (("item", False), ("user", True)):
        assert [e.live for e in trace(env, table, 1) if e.origin == "log"] == [live]


def test_a_key_that_nobody_wrote():
    world = World()
    assert trace(world.environment(), "item", 77) == []
    with pytest.raises(NotFound, match="no table 'shop'"):
        trace(world.environment(), "shop", 1)
