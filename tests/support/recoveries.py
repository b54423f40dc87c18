"""What must hold of every rollback, computed by brute force from the log and the versions before it."""

from __future__ import annotations

import itertools

import numpy as np
from worlds import TABLES, World, undone

from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback


def begun(**options):
    """A world with one version (rows 0..9 of both tables, learned up to minute 5), and its trainer."""
    world = World(**options)
    trainer = world.writer()
    for table in TABLES:
        trainer.put(table, 5, *range(10))
    world.commit(world.mark(trainer), snapshot=True)
    return world, trainer


def roll_back(world, target, *, of=None, tables=None):
    env = world.environment()
    return execute(env, plan_rollback(env, target, of=of, tables=tables), why="poison")


def check_recovery(world: World, manifest, *, poison=None) -> None:
    """A newcomer serves what had been delivered before the cuts, nothing that learned from event `poison` on, and those who
    lived through any part of what is taken back serve the same after the undo."""
    taken, history = manifest.rollback, world.catalog.history()
    served, before = world.rows(manifest), history.version(manifest.previous)
    expected = world.delivered(history.version(manifest.base), taken.cut)
    if taken.tables is not None:
        on = world.delivered(before, taken.fence)
        expected = {table: (expected if taken.covers(table) else on)[table] for table in TABLES}
    assert served == expected
    if poison is not None:
        assert not [row for table in TABLES if taken.covers(table) for row in served[table].values() if row[0] >= poison]
    for version in history.lineage(before.version):
        if version.version >= manifest.base and version.timeline == before.timeline:
            for offsets in standing_at(version, taken):
                assert undone(world, world.delivered(version, offsets), manifest) == served, (version.version, offsets)
    stated = manifest.state_digests(world.buckets)
    if stated is not None:
        found = world.digests(manifest)
        assert all(np.array_equal(stated[table], found[table]) for table in TABLES)


def standing_at(version, taken):
    """The offsets at which a reader that has adopted `version` may be when it applies the undo. Of a rollback of some tables it
    has read up to the fences."""
    ranges = []
    for p, position in enumerate(version.positions.partitions):
        first = max(position.offset, taken.cut[p] if taken.tables is None else taken.fence[p])
        ranges.append(sorted({first, (first + taken.fence[p]) // 2, taken.fence[p]}))
    return itertools.product(*ranges)
