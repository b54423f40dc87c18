"""What the delta and the snapshot of an interval cover, late, repeated and cut off anywhere."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
from shop import DIM, SECOND, Shop, rows_of, survives_every_failure
from trainer_world import NOW

from penstock.pipeline.config import DeltaTensors, ModelConfig, ScheduleConfig, TableConfig
from penstock.pipeline.core.checkpoint import Sidecar
from penstock.pipeline.core.errors import Refused
from penstock.pipeline.core.times import format_time
from penstock.pipeline.runs.publishing import (
    choose_snapshot,
    commit_snapshot,
    committed,
    publish_newest_delta,
    slice_part,
)
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event

NAMES = ("item", "user")


class Yard(Shop):
    """A shop whose trainer leaves its checkpoints in a folder; one second of wall time is one of events."""

    def __init__(self, folder):
        tables = {
            name: TableConfig(keys=f"{name}/keys", rows=f"{name}/rows", delta=DeltaTensors(keys=f"{name}/dk", rows=f"{name}/dr"))
            for name in NAMES
        }
        super().__init__(model=ModelConfig(tables=tables, schedule=ScheduleConfig(checkpoints=f"{folder}/*.npz")))
        self.folder = folder

    def save(self, name, sidecar):
        path, arrays = self.folder / f"{name}.npz", {"top.weight": np.ones((3, 2), np.float32)}
        for table, rows in self.tables.items():
            arrays[f"{table}/keys"] = np.array(list(rows), np.int64)
            arrays[f"{table}/rows"] = np.repeat(np.array(list(rows.values()), np.float32), DIM).reshape(len(rows), DIM)
        np.savez(path, **arrays)
        path.with_name(f"{path.name}.penstock.json").write_bytes(sidecar.encode())
        return path

    def step(self, name, puts):
        """Learns for a second, marks, and leaves a checkpoint."""
        self.train("item", puts)
        return self.save(name, self.mark())

    def delta(self, until, *, who="run", named=()):
        return publish_newest_delta(dataclasses.replace(self.env, who=who), until=until, named=named, why="test")


def second(number):
    return NOW + number * SECOND


@pytest.fixture
def yard(tmp_path):
    found = Yard(tmp_path)
    found.published()
    yield found
    found.close()


def test_a_delta_covers_what_was_there_before_its_interval_ended(yard):
    yard.step("a", {1: 10.0})
    yard.step("b", {2: 20.0})
    first = yard.delta(second(2))
    assert (first.version, str(first.state), first.source) == (2, "1-2", "touched")
    assert rows_of(yard.env, first)["item"][2] == 2.0, "the run came late, and what came after its interval is not in it"
    second_run = yard.delta(second(3), who="later")
    assert (second_run.version, str(second_run.state)) == (3, "1-3")
    assert rows_of(yard.env, second_run)["item"] == yard.tables["item"]


def test_a_run_made_again_finds_its_version_and_another_one_nothing(yard):
    yard.step("a", {1: 10.0})
    made = yard.delta(second(10))
    assert yard.delta(second(10)) == made
    assert yard.delta(second(11), who="the next interval") is None
    assert yard.delta(second(1), who="a backfill") is None


def test_without_files_the_log_says_what_is_new_until_then(yard):
    yard.train("item", {1: 10.0})
    yard.mark()
    yard.train("item", {2: 20.0})
    yard.mark()
    made = yard.delta(second(2))
    assert (str(made.state), made.source) == ("1-2", "log")
    assert rows_of(yard.env, made)["item"][2] == 2.0
    assert str(yard.delta(second(9), who="later").state) == "1-3"


def test_a_checkpoint_that_an_event_names_is_there_whatever_clocks_say(yard):
    path = yard.step("a", {1: 10.0})
    assert yard.delta(second(0)) is None
    assert str(yard.delta(second(0), named={str(path)}).state) == "1-2"


@pytest.mark.parametrize("text", [b"", b'{"state": "1-', b'{"model": "another", "state": "1-2"}', b'{"state": "7-2"}', b"{}"])
def test_what_is_no_whole_checkpoint_of_this_model_is_passed_over(yard, text):
    path = yard.step("a", {1: 10.0})
    path.with_name(f"{path.name}.penstock.json").write_bytes(text)
    assert yard.delta(second(9)).source == "log"


def test_after_a_rollback_a_checkpoint_of_the_dead_timeline_is_not_published(yard):
    path = yard.step("a", {1: 666.0})
    env = yard.env
    execute(env, plan_rollback(env, before_event(yard.through)), why="poison")
    assert yard.delta(second(20)) is None
    assert yard.delta(second(20), named={str(path)}) is None
    assert choose_snapshot(yard.env, until=second(20), parts=2, name="run", why="test") is None


@pytest.fixture
def unmarked(tmp_path):
    """A yard whose newest checkpoint says only that it has learned for five seconds."""
    yard = Yard(tmp_path)
    yard.published()
    yard.updates.close()
    yard.updates = None
    yard.tables["item"][1] = 10.0
    yard.save("a", Sidecar(trained_through=format_time(second(5))))
    yield yard
    yard.close()


def test_a_checkpoint_that_nobody_marked_is_there_at_what_it_has_learned(unmarked):
    assert unmarked.delta(second(5)) is None
    made = unmarked.delta(second(6))
    assert made.trained_through == second(5)
    assert rows_of(unmarked.env, made)["item"][1] == 10.0
    assert unmarked.delta(second(6)) == made
    assert unmarked.delta(second(7), who="later") is None


def test_a_snapshot_of_one_that_nobody_marked_is_made_once(unmarked):
    made = snapshot(unmarked.env, until=second(6))
    assert made.trained_through == second(5)
    assert snapshot(unmarked.env, until=second(6)) == made
    assert snapshot(unmarked.env, until=second(6), name="another") is None


def test_a_delta_that_dies_at_any_call_is_finished_by_its_next_try(yard):
    yard.step("a", {1: 10.0, 9: 90.0})
    expected = dict(yard.tables["item"])

    def run(env):
        return publish_newest_delta(env, until=second(10), why="test")

    def check(env, manifest):
        assert str(manifest.state) == "1-2"
        assert env.catalog.history().newest == env.catalog.manifest(env.catalog.refs().ref("live").version) == manifest
        assert rows_of(env, manifest)["item"] == expected

    survives_every_failure(yard, run, check)


def snapshot(env, *, until, name="run", parts=3):
    """As the tasks do, one after the other."""
    chosen = choose_snapshot(env, until=until, parts=parts, name=name, why="test")
    if chosen is None:
        return None
    for part in range(1, parts + 1):
        slice_part(env, chosen, part)
    return commit_snapshot(env, chosen, why="test")


def test_a_snapshot_covers_the_newest_whole_checkpoint_of_its_interval(yard):
    yard.step("a", {1: 10.0})
    yard.step("b", {2: 20.0})
    made = snapshot(yard.env, until=second(2))
    assert (str(made.state), made.kind) == ("1-2", "snapshot")
    assert snapshot(yard.env, until=second(2)) == made, "cleared, it ends with the same version"
    assert snapshot(yard.env, until=second(2), name="another") is None, "nobody needs it twice"
    assert str(snapshot(yard.env, until=second(3), name="another").state) == "1-3"
    assert snapshot(yard.env, until=second(1), name="before all") is None


def test_a_snapshot_of_an_interval_that_deltas_have_passed_stands_beside_the_chain(yard):
    yard.step("a", {1: 10.0})
    yard.delta(second(2))
    yard.step("b", {2: 20.0})
    yard.delta(second(3), who="later")
    made = snapshot(yard.env, until=second(2))
    assert (str(made.state), made.kind) == ("1-2", "snapshot")
    assert yard.env.catalog.refs().ref("live").version == 3
    assert rows_of(yard.env, yard.env.catalog.history().newest)["item"] == yard.tables["item"]


def test_deltas_go_on_while_a_snapshot_is_sliced(yard):
    yard.step("a", {1: 10.0})
    chosen = choose_snapshot(yard.env, until=second(2), parts=2, name="run", why="test")
    slice_part(yard.env, chosen, 1)
    yard.step("b", {2: 20.0})
    assert str(yard.delta(second(3), who="another").state) == "1-3"
    slice_part(yard.env, chosen, 2)
    made = commit_snapshot(yard.env, chosen, why="test")
    assert (str(made.state), made.kind) == ("1-2", "snapshot")
    assert str(yard.env.catalog.history().newest.state) == "1-3"


@pytest.mark.slow
def test_a_snapshot_that_dies_at_any_call_is_finished_by_its_next_try(yard):
    yard.step("a", {1: 10.0})
    digests = set()

    def run(env):
        return snapshot(env, until=second(10))

    def check(env, manifest):
        assert str(manifest.state) == "1-2"
        assert env.catalog.history().bases[manifest.state] == manifest
        digests.add(committed(env, manifest).digest)

    survives_every_failure(yard, run, check)
    assert len(digests) == 1


@pytest.mark.slow
def test_a_snapshot_of_one_that_nobody_marked_dies_at_any_call_as_well(unmarked):
    def check(env, manifest):
        assert env.catalog.history().bases[manifest.state] == manifest
        assert rows_of(env, manifest)["item"] == unmarked.tables["item"]

    survives_every_failure(unmarked, lambda env: snapshot(env, until=second(6)), check)


def test_a_run_whose_checkpoint_has_changed_since_is_refused(yard):
    path = yard.step("a", {1: 10.0})
    chosen = choose_snapshot(yard.env, until=second(10), parts=2, name="run", why="test")
    slice_part(yard.env, chosen, 1)
    yard.tables["item"][77] = 1.0
    yard.save("a", Sidecar(state="1-2"))
    assert path.exists()
    with pytest.raises(Refused, match="another checkpoint"):
        slice_part(yard.env, chosen, 1)


def test_a_run_is_named_by_what_may_be_a_key(yard):
    yard.step("a", {1: 10.0})
    chosen = choose_snapshot(
        yard.env, until=second(10), parts=2, name="scheduled__2026-11-21T03:17:00+00:00" + "x" * 200, why="test"
    )
    assert len(chosen.run) <= 100
    assert set(chosen.run) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert msgspec.convert(msgspec.to_builtins(chosen), type(chosen)) == chosen
