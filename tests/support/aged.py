"""A model that has been published for hours, and its retention."""

from __future__ import annotations

import msgspec
from faulty import Faults
from worlds import CONFIG, MODEL, World

from penstock.pipeline.catalog.catalog import Catalog
from penstock.pipeline.config import RecoveryConfig
from penstock.rollback.retention import apply_retention, plan_retention

WINDOWED = msgspec.structs.replace(CONFIG, recovery=RecoveryConfig(window="60m"))
"""A window of one hour; a publish is overdue after one hour; clocks may differ by ten minutes."""


def grown(hours=6, *, base_at=(), config=WINDOWED):
    """A version every hour from minute 0 on, each with rows, a touched list, and a key that is its own; `base_at`: the versions
    beside which the whole state stands."""
    world = World(config=config)
    trainer = world.writer()
    trainer.put("item", 0, *range(10))
    trainer.put("user", 0, *range(10))
    world.commit(world.mark(trainer), snapshot=True)
    for hour in range(1, hours + 1):
        trainer.put("item", 60 * hour, hour % 10, 100 + hour)
        found = world.commit(world.mark(trainer))
        if found.version in base_at:
            world.base(found)
    return world, trainer


def clean(world, env=None):
    env = env or world.environment()
    return apply_retention(env, plan_retention(env), why="daily")


def keys_of(world, folder):
    return sorted(key for key in world.store._objects if key.startswith(f"{MODEL}/{folder}/"))


def check_whole(world):
    """Every version that a ref leads to can be loaded, and is what it was; nothing is left that nobody names."""
    history = Catalog(world.store, MODEL).history()
    for manifest in history.trunk:
        if manifest.state in world.states and manifest.version == history.newest.version:
            assert world.rows(manifest) == {t: floats(rows) for t, rows in world.states[manifest.state].model.items()}


def floats(rows):
    return {key: tuple(map(float, row)) for key, row in rows.items()}


class Meanwhile:
    """Calls `action` once, before the n-th call of the store."""

    def __init__(self, inner, number, action):
        self.inner, self.left, self.action = inner, number, action

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if not callable(found):
            return found

        def call(*arguments, **options):
            self.left -= 1
            if self.left == -1:
                self.action()
            return found(*arguments, **options)

        return call


def calls_of(run):
    faults = Faults()
    run(faults)
    return faults.calls
