"""Trainers: the job that has a realtime tier, and its incarnations. What it may meet it survives; anything else ends the run."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from penstock.pipeline.core.errors import CommitConflict, NotResumable, PenstockError, Refused, Superseded, Unreachable
from penstock.pipeline.core.ids import BIRTH, PublisherId, State
from penstock.pipeline.environment import Environment
from penstock.publishers.export import sidecar_of_version
from penstock.publishers.resuming import resume
from penstock.publishers.settings import RealtimeSettings
from penstock.publishers.updates import Updates

from .features import Shapes
from .invariants import Promises
from .meeting import may_be, survived
from .scheduler import Process
from .states import Key, Row, ensure, event, number_of
from .world import KEYS, Saved, World


class Job:
    """One incarnation of a trainer: one process with all its publishers. `learned` is the newest event behind its weights."""

    def __init__(self, world: World, env: Environment, chance: random.Random) -> None:
        self.world, self.env, self.chance = world, env, chance
        self.shapes = world.shapes
        self.settings = RealtimeSettings.of(env.config.realtime)
        self.updates: list[Updates] = []
        self.kept_back: set[Key] = set()
        """What was written last of these keys waits for a delta: no flush promises it."""
        saved = self._load()
        self.rows, self.learned, self.through, self.dense = self._fitted(saved), saved.learned, saved.through, saved.dense
        self.promises = Promises(int(self.updates[0].timeline))
        world.invariants.promises = self.promises

    # ---- coming to life --------------------------------------------------------------------------------------------------

    def _load(self) -> Saved:
        """Goes on from the newest checkpoint that the model lets it go on from, or from a version."""
        saved = list(reversed(self.world.saved))
        if saved and self.chance.random() < 0.2:
            saved = saved[1:]
        for found in saved:
            if self._opened(State.parse(found.sidecar.state)):
                return found
        newest = self.env.catalog.history().newest
        if newest.kind == "birth":
            for state in (None, BIRTH):
                if self._opened(state):
                    return Saved(sidecar_of_version(self.env, newest), {}, 0, 0, None, self.shapes)
        elif self._opened(newest.state):
            return exported(self.world, self.env, newest)
        raise CommitConflict("the newest version cannot be gone on from any more")

    def _opened(self, state: State | None) -> bool:
        # Whatever is acknowledged to the one before may be taken back from here on.
        self.world.invariants.promises = None
        try:
            for number in range(self.world.publishers):
                resumed = resume(self.env, PublisherId(f"trainer-{number}"), state, self.settings)
                self.updates.append(Updates(self.env, resumed, self.settings))
            if len({updates.timeline for updates in self.updates}) > 1:
                raise CommitConflict("the model was rolled back while its publishers resumed")
        except NotResumable:
            self.close()
            return False
        except BaseException:
            self.close()
            raise
        self.world.tell(f"resumed from {state}")
        return True

    def _fitted(self, saved: Saved) -> dict[Key, Row]:
        if saved.shapes.retired - self.shapes.retired:
            # It has no rows of a table that others may still have, and nobody has touched them.
            self.world.invariants.unclear = "a table came back from a checkpoint without it"
        return self.shapes.fit(saved.rows)

    def close(self) -> None:
        if any(updates.rows_shed for updates in self.updates):
            self.world.count("jobs that shed rows")
        for updates in self.updates:
            updates.close()
        self.updates = []

    # ---- what a trainer does ---------------------------------------------------------------------------------------------

    def act(self) -> None:
        acts = (self.learn, self.put, self.delete, self.touch, self.flush, self.mark, self.put_dense, self.undo, self.weigh)
        self.chance.choices(acts, (4, 9, 2, 1, 4, 3, 1, 0.5, 0.5))[0]()

    def learn(self) -> None:
        newest = int(number_of(self.env.clock())) + self.chance.choice((0, 0, 1))
        through = max(self.through, newest)
        for updates in self.updates:
            updates.advance(event(through))
        self.through = self.learned = through

    def _keys(self) -> tuple[str, dict[int, list[int]]]:
        keys = self.chance.sample(KEYS, self.chance.randint(1, 4))
        parts = {n: [key for key in keys if key % len(self.updates) == n] for n in range(len(self.updates))}
        return self.chance.choice(self.shapes.tables), {number: some for number, some in parts.items() if some}

    def new_row(self, table: str) -> Row:
        return (float(self.learned), float(self.world.next_serial()), *[0.0] * (self.shapes.dims[table] - 2))

    def put(self) -> None:
        table, parts = self._keys()
        for number, keys in parts.items():
            rows = {key: self.new_row(table) for key in keys}
            for key, row in rows.items():
                self._write((table, key), row)
            values = np.array(list(rows.values()), np.float32)
            updates, through = self.updates[number], event(self.through)
            try:
                self._again(partial(updates.put, table, keys, values, trained_through=through))
            except Refused as error:
                # The table does not have this shape yet: a snapshot brings it, or the delta after that.
                if type(error) is not Refused or "reshaping" not in self.world.features:
                    raise
                self.world.count("put: Refused")
                self._keep_back(number, table, keys)

    def delete(self) -> None:
        table, parts = self._keys()
        if table not in self.updates[0]._stream.schema.tables:
            return
        for number, keys in parts.items():
            for key in keys:
                self._write((table, key), None)
            self._again(partial(self.updates[number].delete, table, keys, trained_through=event(self.through)))
            if not self.updates[number]._generations.takes(table, dim=self.shapes.dims[table]):
                self._wait_for_delta(table, keys)

    def touch(self) -> None:
        table, parts = self._keys()
        if table not in self.updates[0]._stream.schema.tables:
            return
        for number, keys in parts.items():
            for key in keys:
                self._write((table, key), self.new_row(table))
            self._keep_back(number, table, keys)

    def _keep_back(self, number: int, table: str, keys: list[int]) -> None:
        """Only a delta brings them."""
        self._again(partial(self.updates[number].touch, table, keys))
        self._wait_for_delta(table, keys)

    def _wait_for_delta(self, table: str, keys: list[int]) -> None:
        for key in keys:
            self.promises.acknowledged.pop((table, key), None)
            self.kept_back.add((table, key))

    def weigh(self) -> None:
        table, parts = self._keys()
        if table in self.updates[0]._stream.schema.tables:
            for number, keys in parts.items():
                self.updates[number].traffic(table, keys, [float(key) for key in keys])

    def _again(self, work: Callable[[], None]) -> None:
        """Rows that could not be put are put again: the trainer has them."""
        for _ in range(3):
            try:
                return work()
            except Unreachable as error:
                last = error
        raise last

    def _write(self, key: Key, row: Row | None) -> None:
        self.promises.write(key, row)
        self.kept_back.discard(key)
        self.rows.pop(key, None)
        if row is not None:
            self.rows[key] = row

    def flush(self) -> None:
        counts = {key: len(found) for key, found in self.promises.written.items() if key not in self.kept_back}
        for updates in self.updates:
            updates.flush()
        if not any(updates.rows_shed for updates in self.updates):
            self.promises.flushed(counts)

    def mark(self) -> Saved:
        first, *others = self.updates
        held: list[Updates] = []
        sidecar = None
        try:
            receipts = []
            for updates in others:
                receipts.append(updates.hold())
                held.append(updates)
            sidecar = first.mark(others=receipts)
        finally:
            for updates in held:
                updates.release(sidecar)
        saved = Saved(sidecar, dict(self.rows), self.learned, self.through, self.dense, self.shapes)
        self.world.save(saved)
        return saved

    def put_dense(self) -> None:
        self.dense = float(self.learned), float(self.world.next_serial())
        self.updates[0].put_dense({"w": np.array(self.dense, np.float32)}, trained_through=event(self.through))

    def undo(self) -> None:
        def rows_of(table: str, keys: Any) -> Any:
            dim = self.shapes.dims[table]
            found = np.array([(table, int(key)) in self.rows for key in keys])
            rows = [self.rows.get((table, int(key)), (0.0,) * dim) for key in keys]
            return np.array(rows, np.float32).reshape(-1, dim), found

        for updates in self.updates:
            updates.undo(rows_of)


def exported(world: World, env: Environment, version: Any) -> Saved:
    """A version as `penstock export` gives it to a trainer."""
    states = world.invariants.states
    shapes = Shapes(retired=frozenset(version.retired))
    for table, dim in states.dims(version).items():
        shapes = shapes.with_dim(table, dim)
    learned = int(max(0, number_of(version.trained_through)))
    rows = states.read(version, states.rows(version))
    return Saved(sidecar_of_version(env, version), rows, learned, learned, states.dense(version.dense), shapes)


def trainer(world: World, process: Process) -> None:
    """Now and then a new program is rolled out: one with other shapes, where there is such."""
    chance = random.Random(world.chance.random())
    job = None
    while world.budget > 0:
        world.budget -= 1
        if job is not None and "reshaping" in world.features and chance.random() < 0.05:
            job.close()
            job = None
            world.shapes = reshaped(world, chance)
        if job is None:
            job = survived(world, "resume", lambda: Job(world, world.environment(process), chance))
        else:
            try:
                job.act()
            except PenstockError as error:
                ensure(may_be(world, error), f"trainer: {type(error).__name__}: {error}")
                world.count(f"trainer: {type(error).__name__}")
                world.tell(f"trainer: {type(error).__name__}: {error}")
                job.close()
                job = None
                if isinstance(error, Superseded):
                    return
        world.scheduler.sleep(chance.choice((0.0, 0.0, 0.2, 1.0, 3.0)))
    if job is not None:
        job.close()


def reshaped(world: World, chance: random.Random) -> Shapes:
    """A table gets another dim, goes, or, once it has gone everywhere, comes back."""
    shapes = world.shapes
    newest = world.invariants.catalog.manifest(world.invariants.catalog.refs().trunk)
    if chance.random() < 0.6:
        table = chance.choice(shapes.tables)
        return shapes.with_dim(table, 5 - shapes.dims[table])
    if "b" not in shapes.retired:
        return Shapes(shapes.sizes, frozenset("b"))
    return Shapes(shapes.sizes) if "b" in newest.retired else shapes
