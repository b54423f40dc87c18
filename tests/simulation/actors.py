"""Everybody who works on the model, on the product's own classes. What they may meet they survive; anything else ends the run."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from penstock.pipeline.core.errors import (
    CommitConflict,
    Expired,
    Fenced,
    NotFound,
    NotResumable,
    PenstockError,
    PositionGone,
    Refused,
    Superseded,
    Unreachable,
)
from penstock.pipeline.core.ids import BIRTH, PublisherId, State
from penstock.pipeline.environment import Environment
from penstock.publishers.compaction import compact
from penstock.publishers.delta import publish_delta
from penstock.publishers.export import sidecar_of_version
from penstock.publishers.folding import publish_delta_from_log
from penstock.publishers.resuming import resume
from penstock.publishers.settings import RealtimeSettings
from penstock.publishers.snapshot import publish_snapshot
from penstock.publishers.sources import Source, array_source
from penstock.publishers.updates import Updates
from penstock.publishers.verification import verify
from penstock.rollback.execution import abandon, execute
from penstock.rollback.execution import resume as finish_rollback
from penstock.rollback.freezing import freeze, thaw
from penstock.rollback.planning import plan_rollback
from penstock.rollback.retention import apply_retention, plan_retention
from penstock.rollback.target import before_append, before_event, to_state, to_version
from penstock.serving.replica import Replica
from penstock.slicer.dense import read_dense

from .invariants import MODEL, TABLES, Key, Promises, Row, Violated, ensure, event, number_of
from .scheduler import Process
from .world import KEYS, Saved, World

EXPECTED = (CommitConflict, Expired, Fenced, NotFound, NotResumable, PositionGone, Superseded, Unreachable)


def survived(world: World, what: str, work: Callable[[], Any]) -> Any:
    """What `work` returns, None when it met what may happen."""
    try:
        found = work()
    except EXPECTED as error:
        world.count(f"{what}: {type(error).__name__}")
        world.tell(f"{what}: {type(error).__name__}: {error}")
        return None
    except PenstockError as error:
        ensure(type(error) is Refused, f"{what}: {type(error).__name__}: {error}")
        world.count(f"{what}: Refused")
        world.tell(f"{what}: {error}")
        return None
    world.count(what)
    world.tell(what)
    return found


def source_of(world: World, saved: Saved) -> Source:
    tables = {}
    for table in TABLES:
        keys = sorted(key for name, key in saved.rows if name == table)
        rows = np.array([saved.rows[table, key] for key in keys], np.float32).reshape(-1, 2)
        tables[table] = (np.array(keys, np.int64), rows)
    dense = {} if saved.dense is None else {"w": np.array(saved.dense, np.float32)}
    return array_source(tables, dense, world.config.models[MODEL])


class Job:
    """One incarnation of a trainer: one process with all its publishers. `learned` is the newest event behind its weights."""

    def __init__(self, world: World, env: Environment, chance: random.Random) -> None:
        self.world, self.env, self.chance = world, env, chance
        self.settings = RealtimeSettings.of(world.config.realtime)
        self.updates: list[Updates] = []
        self.dirty = False
        saved = self._load()
        self.rows, self.learned, self.through, self.dense = dict(saved.rows), saved.learned, saved.through, saved.dense
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
                    return Saved(sidecar_of_version(self.env, newest), {}, 0, 0, None)
        elif self._opened(newest.state):
            learned = int(max(0, number_of(newest.trained_through)))
            dense = None
            if newest.dense is not None:
                dense = tuple(map(float, read_dense(self.env.catalog.store, newest.dense)["w"]))
            rows = self.world.invariants.rows(newest)
            return Saved(sidecar_of_version(self.env, newest), rows, learned, learned, dense)  # type: ignore[arg-type]
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

    def close(self) -> None:
        for updates in self.updates:
            updates.close()
        self.updates = []

    # ---- what a trainer does ---------------------------------------------------------------------------------------------

    def act(self) -> None:
        acts = (self.learn, self.put, self.delete, self.touch, self.flush, self.mark, self.put_dense, self.undo)
        self.chance.choices(acts, (4, 9, 2, 1, 4, 3, 1, 0.5))[0]()

    def learn(self) -> None:
        newest = int(number_of(self.env.clock())) + self.chance.choice((0, 0, 1))
        through = max(self.through, newest)
        for updates in self.updates:
            updates.advance(event(through))
        self.through = self.learned = through

    def _keys(self) -> tuple[str, dict[int, list[int]]]:
        keys = self.chance.sample(KEYS, self.chance.randint(1, 4))
        parts = {n: [key for key in keys if key % len(self.updates) == n] for n in range(len(self.updates))}
        return self.chance.choice(TABLES), {number: some for number, some in parts.items() if some}

    def put(self) -> None:
        table, parts = self._keys()
        for number, keys in parts.items():
            rows = {key: (float(self.learned), float(self.world.next_serial())) for key in keys}
            for key, row in rows.items():
                self._write((table, key), row)
            values = np.array(list(rows.values()), np.float32)
            updates, through = self.updates[number], event(self.through)
            self._again(partial(updates.put, table, keys, values, trained_through=through))

    def delete(self) -> None:
        table, parts = self._keys()
        if table not in self.updates[0]._stream.schema.tables:
            return
        for number, keys in parts.items():
            for key in keys:
                self._write((table, key), None)
            self._again(partial(self.updates[number].delete, table, keys, trained_through=event(self.through)))

    def touch(self) -> None:
        table, parts = self._keys()
        if table not in self.updates[0]._stream.schema.tables:
            return
        for number, keys in parts.items():
            for key in keys:
                self._write((table, key), (float(self.learned), float(self.world.next_serial())))
                # Only a delta brings it.
                self.promises.acknowledged.pop((table, key), None)
            self._again(partial(self.updates[number].touch, table, keys))
            self.dirty = True

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
        self.rows.pop(key, None)
        if row is not None:
            self.rows[key] = row

    def flush(self) -> None:
        counts = {key: len(found) for key, found in self.promises.written.items()}
        for updates in self.updates:
            updates.flush()
        if not self.dirty and not any(updates.rows_shed for updates in self.updates):
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
        saved = Saved(sidecar, dict(self.rows), self.learned, self.through, self.dense)
        self.world.saved.append(saved)
        self.world.tell(f"saved checkpoint {sidecar.state}")
        return saved

    def put_dense(self) -> None:
        self.dense = float(self.learned), float(self.world.next_serial())
        self.updates[0].put_dense({"w": np.array(self.dense, np.float32)}, trained_through=event(self.through))

    def undo(self) -> None:
        def rows_of(table: str, keys: Any) -> Any:
            found = np.array([(table, int(key)) in self.rows for key in keys])
            rows = [self.rows.get((table, int(key)), (0.0, 0.0)) for key in keys]
            return np.array(rows, np.float32).reshape(-1, 2), found

        for updates in self.updates:
            updates.undo(rows_of)


def trainer(world: World, process: Process) -> None:
    chance = random.Random(world.chance.random())
    env, job = world.environment(process), None
    while world.budget > 0:
        world.budget -= 1
        if job is None:
            job = survived(world, "resume", lambda: Job(world, env, chance))
        else:
            try:
                job.act()
            except PenstockError as error:
                ensure(isinstance(error, EXPECTED) or type(error) is Refused, f"trainer: {type(error).__name__}: {error}")
                world.count(f"trainer: {type(error).__name__}")
                world.tell(f"trainer: {type(error).__name__}: {error}")
                job.close()
                job = None
                if isinstance(error, Superseded):
                    return
        world.scheduler.sleep(chance.choice((0.0, 0.0, 0.2, 1.0, 3.0)))
    if job is not None:
        job.close()


def publisher(world: World, process: Process) -> None:
    """Publishes what the trainer saved."""
    chance, env = random.Random(world.chance.random()), world.environment(process)
    while world.budget > 0:
        world.budget -= 1
        if world.saved:
            saved = world.saved[-1] if chance.random() < 0.85 else chance.choice(world.saved)
            what = chance.choices(["delta", "snapshot", "log", "compact"], [6, 1, 2, 1])[0]
            survived(world, f"publish {what}", partial(publish, world, env, saved, what))
        world.scheduler.sleep(chance.choice((0.1, 1.0, 3.0, 6.0)))


def publish(world: World, env: Environment, saved: Saved, what: str) -> Any:
    if what == "compact":
        return compact(env)
    if what == "log":
        return publish_delta_from_log(env)
    run = publish_delta if what == "delta" else publish_snapshot
    return run(env, source_of(world, saved), sidecar=saved.sidecar)


def operator(world: World, process: Process) -> None:
    chance, env = random.Random(world.chance.random()), world.environment(process)
    while world.budget > 0:
        world.budget -= 1
        what = chance.choices(
            ["freeze", "thaw", "roll back", "finish", "abandon", "retain", "verify"], [1, 1.5, 1.5, 1, 0.6, 3, 0.5]
        )[0]
        survived(world, what, partial(operate, world, env, chance, what))
        world.scheduler.sleep(chance.choice((0.5, 3.0, 8.0)))


def operate(world: World, env: Environment, chance: random.Random, what: str) -> Any:
    if what == "freeze":
        return freeze(env, "live", why="look")
    if what == "thaw":
        return thaw(env, "live", why="go on")
    if what == "finish":
        return finish_rollback(env)
    if what == "abandon":
        return abandon(env, why="no")
    if what == "retain":
        return apply_retention(env, plan_retention(env), why="daily")
    if what == "verify":
        return verify(env)
    return roll_back(world, env, chance)


def roll_back(world: World, env: Environment, chance: random.Random) -> Any:
    kind, back = chance.choice(("event", "event", "event", "append", "version", "state")), chance.choice((0, 1, 3, 8, 20))
    now = int(number_of(env.clock()))
    if kind == "event":
        target = before_event(event(max(1, now - back)))
    elif kind == "append":
        target = before_append(event(max(1, now - back)))
    elif kind == "version":
        target = to_version(chance.choice(env.catalog.history().trunk).version)
    elif world.saved:
        target = to_state(State.parse(chance.choice(world.saved[-3:]).sidecar.state))
        if all(m.timeline != target.state.timeline for m in env.catalog.history().trunk):
            return None  # retention has removed what it could be recovered from
    else:
        return None
    tables = ("a",) if "a" in env.schema.tables and chance.random() < 0.25 else None
    plan = plan_rollback(env, target, tables=tables)
    if plan.base == 0:
        return None  # nothing that was published lies before it
    return execute(env, plan, why="poison")


def replica(world: World, process: Process) -> None:
    """Follows in threads of its own; one that fails is started again, as a supervisor would."""
    env = world.environment(process)
    while True:
        found = survived(world, f"{process.name} begins", lambda: Replica(env, name=process.name))
        if found is not None:
            world.replicas[process.name] = found
            found.start()
            world.scheduler.wait(partial(_ended, found))
            failure = found.failure
            if failure is not None and not isinstance(failure, EXPECTED):
                raise Violated(f"{process.name} failed: {type(failure).__name__}: {failure}") from failure
            world.count(f"{process.name} failed: {type(failure).__name__}")
            world.tell(f"{process.name} failed: {failure}")
            del world.replicas[process.name]
            found.close()
        world.scheduler.sleep(0.5)


def _ended(replica: Replica) -> bool:
    """An operator starts those again that say that the log does not have their positions any more."""
    return replica.failure is not None or any("neither" in state.alarm for state in replica.follower.partitions.values())
