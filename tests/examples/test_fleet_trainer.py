"""The fleet's trainer goes on wherever it was ended, and starts over from what is live once it was rolled back."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from penstock.examples.fleet import trainer as module
from penstock.examples.fleet.trainer import FleetTrainer
from penstock.examples.retail.evidence import Remembered
from penstock.examples.retail.model import TABLES
from penstock.examples.retail.online import DENSE_PREFIX
from penstock.examples.retail.staging import config_text
from penstock.examples.retail.story import SEED
from penstock.examples.retail.trainer import OnlineTrainer, fresh_state
from penstock.pipeline.config import parse_config
from penstock.pipeline.core.times import EventTime
from penstock.pipeline.environment import open_environment
from penstock.pipeline.ports.wall_clock import system_clock
from penstock.publishers.delta import publish_delta
from penstock.publishers.folding import publish_delta_from_log
from penstock.publishers.sources import checkpoint_source
from penstock.publishers.verification import verify
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import before_event
from penstock.slicer.sidecar import read_sidecar

WARM = 3
HOURS = np.arange(24)
TOLD_S = 60.0


class Place:
    """A config, a folder for checkpoints, and what an operator does."""

    def __init__(self, folder):
        text = config_text(
            model="retail", tables=TABLES, store=(folder / "store").as_uri(), log=(folder / "log").as_uri(), endpoint=None
        )
        self.config, self.folder = parse_config(text, "test"), folder / "checkpoints"
        self.journal = folder / "journal"
        self._trainers = []

    def trainer(self, **options):
        self._trainers.append(FleetTrainer(self.config, self.folder, **{"warm": WARM} | options))
        return self._trainers[-1]

    def close(self):
        """As a kill does: without a checkpoint."""
        for trainer in self._trainers:
            trainer._delivery.close()

    def open(self):
        return open_environment(self.config, "retail")

    def newest(self):
        return sorted(self.folder.glob("*.safetensors"))[-1]

    def publish(self):
        """The newest checkpoint, as a DAG does it."""
        with self.open() as env, checkpoint_source(self.newest(), env.model) as source:
            return publish_delta(env, source, sidecar=read_sidecar(self.newest()))

    def digest(self, version):
        with self.open() as env:
            return verify(env, version).digest


@pytest.fixture
def place(tmp_path):
    found = Place(tmp_path)
    yield found
    found.close()


def digest(place, trainer):
    """Of the trainer's own rows and weights."""
    state = trainer._trainer.state()
    dense = {DENSE_PREFIX + name: values for name, values in state.dense.items()}
    with place.open() as env:
        return Remembered(state, dense).digest(env.schema.buckets)


def test_what_it_leaves_is_what_it_has_learned(place):
    with place.journal.open("w") as journal:
        trainer = place.trainer(journal=journal)
        assert trainer.steps == WARM
        for _ in range(5):
            trainer.learn()
        trainer.close()
    assert place.digest(place.publish().version) == digest(place, trainer)
    lines = [json.loads(line) for line in place.journal.read_text().splitlines()]
    assert [line["batch"] for line in lines] == [3, 4, 5, 6, 7]
    assert not any(line["is_poisoned"] for line in lines)
    assert np.all(np.diff([line["through"] for line in lines]) >= 0)


def test_the_log_alone_has_all_of_it_too(place):
    trainer = place.trainer()
    trainer.learn()
    trainer.close()
    with place.open() as env:
        made = publish_delta_from_log(env)
    assert place.digest(made.version) == digest(place, trainer)


def test_ended_it_goes_on_from_its_newest_checkpoint(place):
    straight = place.trainer()
    for _ in range(2):
        straight.learn()
    straight.save()
    straight.learn()
    straight._delivery.close()  # as a kill does: what it has learned since is in the log, and in no checkpoint
    again = place.trainer()
    assert again.steps == WARM + 2
    again.learn()
    assert digest(place, again) == digest(place, straight)
    again.close()
    assert place.digest(place.publish().version) == digest(place, again)


def test_ended_before_its_first_checkpoint_it_begins_anew(place):
    place.trainer()._delivery.close()
    again = place.trainer()
    again.close()
    assert place.digest(place.publish().version) == digest(place, again)


def test_rolled_back_it_starts_over_from_what_is_live(place):
    trainer = place.trainer()
    trainer.learn()
    trainer.save()
    place.publish()
    good, poison = digest(place, trainer), EventTime(system_clock())
    trainer.learn()
    trainer.save()
    trainer._delivery.updates().flush()
    with place.open() as env:
        made = execute(env, plan_rollback(env, before_event(poison)), why="a test")
    assert place.digest(made.version) == good
    deadline = time.monotonic() + TOLD_S
    while digest(place, trainer) != good:
        trainer.learn()  # until it is told
        assert time.monotonic() < deadline
    at = trainer.steps
    trainer.learn()
    assert trainer.steps == at + 1
    trainer.close()
    made = place.publish()
    assert (made.timeline, place.digest(made.version)) == (2, digest(place, trainer))
    # The void checkpoints of timeline 1 are still there, and older than the newest one.
    assert place.trainer().steps == at + 1


def test_killed_after_a_rollback_it_finds_its_checkpoints_void(place):
    trainer = place.trainer()
    trainer.save()
    place.publish()
    good, poison = digest(place, trainer), EventTime(system_clock())
    trainer.learn()
    trainer.save()
    trainer._delivery.close()
    with place.open() as env:
        execute(env, plan_rollback(env, before_event(poison)), why="a test")
    again = place.trainer()
    assert (digest(place, again), again.steps) == (good, WARM + 1)


def test_only_the_newest_checkpoints_stay(place, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 2)
    trainer = place.trainer()
    for _ in range(4):
        trainer.learn()
        trainer.save()
    trainer.close()
    names = [f"step_{WARM + n:09}.safetensors" for n in (3, 4)]
    assert sorted(path.name for path in place.folder.iterdir()) == sorted(names + [f"{name}.penstock.json" for name in names])


def test_poison_lasts_as_long_as_its_file(place, tmp_path):
    poison = tmp_path / "poison"
    with place.journal.open("w") as journal:
        trainer = place.trainer(poison=poison, journal=journal)
        for is_poisoned in (False, True, True, False):
            poison.touch() if is_poisoned else poison.unlink(missing_ok=True)
            trainer.learn()
        trainer.close()
    lines = [json.loads(line) for line in place.journal.read_text().splitlines()]
    assert [line["is_poisoned"] for line in lines] == [False, True, True, False]
    clean = OnlineTrainer(fresh_state(seed=SEED))
    for number in range(WARM + 4):
        clean.learn(trainer._batch(number))
    assert not np.array_equal(clean.rows("hour", HOURS), trainer._trainer.rows("hour", HOURS))
