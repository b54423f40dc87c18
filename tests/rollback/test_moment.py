"""A table as it was at a moment, written out without a rollback."""

import pyarrow.parquet as pq
import pytest
from worlds import TABLES, World, at

from penstock.pipeline.core.errors import NotFound, Refused
from penstock.rollback.execution import execute
from penstock.rollback.moment import export_moment, state_before
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_append, before_event, to_version


def grown():
    world = World()
    trainer = world.writer()
    for table in TABLES:
        trainer.put(table, 5, *range(30))
    world.commit(world.mark(trainer), snapshot=True)
    for event in range(6, 12):
        trainer.put("item", event, event, 40 + event, deleted=[event + 10])
        trainer.keep("item", event, 1)
        if event % 3 == 0:
            world.commit(world.mark(trainer))
    return world, trainer


def exported(world, target, path, *, table="item", of=None):
    env = world.environment()
    count = export_moment(env, state_before(env, target, of), table, path)
    found = pq.read_table(path)
    keys, rows = found["key"].to_pylist(), found["row"].to_pylist()
    assert len(keys) == count
    return {key: tuple(row) for key, row in zip(keys, rows, strict=True)}


@pytest.mark.parametrize("event", range(5, 14))
def test_it_is_what_a_rollback_would_restore(event, tmp_path):
    world, _ = grown()
    if event == 5:
        assert exported(world, before_event(at(event)), tmp_path / "item.parquet") == {}
        return
    before = dict(world.store._objects), world.ends()
    found = exported(world, before_event(at(event)), tmp_path / "item.parquet")
    assert (dict(world.store._objects), world.ends()) == before
    env = world.environment()
    assert found == world.rows(execute(env, plan_rollback(env, before_event(at(event))), why=""))["item"]


def test_other_targets(tmp_path):
    world, _ = grown()
    assert exported(world, to_version(2), tmp_path / "a.parquet") == world.rows(world.catalog.manifest(2))["item"]
    found = exported(world, before_append(at(8)), tmp_path / "a.parquet")
    assert found == exported(world, before_event(at(8)), tmp_path / "b.parquet")


def test_a_timeline_that_was_left(tmp_path):
    world, _ = grown()
    expected = exported(world, before_event(at(11)), tmp_path / "a.parquet")
    env = world.environment()
    execute(env, plan_rollback(env, before_event(at(7))), why="")
    assert exported(world, before_event(at(11)), tmp_path / "a.parquet", of=1) == expected
    assert exported(world, before_event(at(11)), tmp_path / "a.parquet") != expected


def test_a_table_that_has_no_rows_yet(tmp_path):
    world = World()
    world.writer().put("item", 5, 1)
    assert exported(world, before_event(at(9)), tmp_path / "user.parquet", table="user") == {}


def test_refusals(tmp_path):
    world, _ = grown()
    with pytest.raises(NotFound, match="no table 'shop'"):
        exported(world, before_event(at(9)), tmp_path / "x.parquet", table="shop")
    for p in range(2):
        world.log.truncate(p, world.log.end(p))
    with pytest.raises(Refused, match="partition 0 of the log begins at"):
        exported(world, before_event(at(8)), tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []
