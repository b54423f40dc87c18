"""The DAGs on a real Airflow: by schedule, by event and by hand, cut in the middle, approved and rejected."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest
from servers.airflow import until

from penstock.pipeline.catalog import keys
from penstock.pipeline.core.times import format_time
from penstock.pipeline.ports.wall_clock import system_clock
from penstock.serving.replica import Replica

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(1800)]
KINDS = ("snapshot", "delta", "compaction", "retention", "verification", "rollback", "freeze", "thaw")
ROWS = 400_000


@pytest.fixture(scope="module")
def airflow(plant):
    return plant.airflow


@pytest.fixture(scope="module")
def shop(plant):
    """The trainer of `shop`, with a first version."""
    trainer = plant.trainer("shop")
    trainer.delivery.publish_snapshot(trainer.save(), why="the first")
    return trainer


@pytest.fixture(scope="module")
def quiet(plant):
    """The trainer of `quiet`, with a first version."""
    trainer = plant.trainer("quiet")
    trainer.delivery.publish_snapshot(trainer.save(), why="the first")
    return trainer


def test_every_dag_of_every_model_is_there(airflow):
    expected = {f"penstock_{model}_{kind}" for model in ("shop", "cut", "quiet") for kind in KINDS} | {"penstock_shop_freshness"}
    until(lambda: expected <= set(airflow.dags()), 60, lambda: str((airflow.dags(), airflow.import_errors())))
    assert set(airflow.dags()) == expected
    assert airflow.import_errors() == []


def test_a_delta_by_schedule_covers_its_interval(airflow, shop):
    dag, before = "penstock_shop_delta", shop.live()
    shop.learn(3, 30.0)
    shop.save()
    saved = format_time(system_clock())
    airflow.unpause(dag)
    until(lambda: shop.live() > before, 60, lambda: str(airflow.runs(dag)))
    who, _, why = shop.moves()[-1]
    made = airflow.finished(dag, who.removeprefix(f"airflow:{dag}/"))
    assert (made["run_type"], made["state"]) == ("scheduled", "success")
    assert made["data_interval_start"] < made["data_interval_end"] >= saved[:19]
    assert why == f"{dag} up to {made['data_interval_end'].replace('Z', '+00:00')}"
    version = airflow.result(dag, made["dag_run_id"], "publish")
    assert (version["version"], version["kind"], version["rows"]) == (before + 1, "delta", 1)
    # Nothing is new for the interval that follows.
    later = until(lambda: [run for run in airflow.runs(dag) if run["run_after"] > made["run_after"]], 30, lambda: "no second run")
    airflow.finished(dag, later[0]["dag_run_id"])
    airflow.pause(dag)
    assert airflow.task(dag, later[0]["dag_run_id"], "publish")["state"] == "skipped"
    assert shop.live() == before + 1


def test_a_delta_follows_the_event_of_a_checkpoint(airflow, quiet):
    dag, before = "penstock_quiet_delta", quiet.live()
    airflow.unpause(dag)
    quiet.learn(4, 40.0)
    airflow.asset_event("penstock://models/quiet/checkpoint", {"path": str(quiet.save())})
    until(lambda: quiet.live() == before + 1, 60, lambda: str(airflow.runs(dag)))
    (run,) = [found for found in airflow.runs(dag) if found["run_type"] == "asset_triggered"]
    assert airflow.finished(dag, run["dag_run_id"])["state"] == "success"
    assert quiet.moves()[-1][0] == f"airflow:{dag}/{run['dag_run_id']}"


def test_a_backfill_publishes_nothing_that_was_not_there_then(airflow, quiet):
    dag, before = "penstock_quiet_delta", quiet.live()
    hour = 3600 * 1_000_000
    airflow.unpause(dag)
    quiet.learn(5, 50.0)
    quiet.save()
    airflow.backfill(dag, *(format_time(system_clock() - ago) for ago in (hour, hour - hour // 4)))
    runs = until(lambda: [run for run in airflow.runs(dag) if run["run_type"] == "backfill"], 60, lambda: str(airflow.runs(dag)))
    for run in runs:
        assert airflow.finished(dag, run["dag_run_id"])["state"] == "success"
        assert airflow.task(dag, run["dag_run_id"], "publish")["state"] == "skipped"
    assert quiet.live() == before


def test_a_run_that_passes_its_deadline_raises_an_alarm(plant, airflow, quiet):
    """The parts of its verification are in a pool that has no room."""
    dag = "penstock_quiet_verification"
    airflow.unpause(dag)
    run = airflow.trigger(dag)
    assert plant.alarm(f"{dag} is late") == [f"{dag} is late: {run}"]


def test_a_snapshot_whose_task_is_killed_ends_as_one_that_was_not(plant, airflow):
    trainer, dag = plant.trainer("cut", rows=ROWS), "penstock_cut_snapshot"
    path = trainer.save()
    for kind in ("snapshot", "compaction", "verification", "retention"):
        airflow.unpause(f"penstock_cut_{kind}")
    run = airflow.trigger(dag)
    _kill_a_part(airflow, trainer, dag, run)
    assert airflow.finished(dag, run)["state"] == "success", airflow.told(dag, run)
    tries = [task["try_number"] for task in airflow.tasks(dag, run) if task["task_id"] == "slice_part"]
    assert sorted(tries) == [1, 2]
    made = airflow.result(dag, run, "commit")
    assert (made["version"], made["rows"], made["digest_of"]) == (1, ROWS, "state")
    # Nobody else's digest: what the same rows have when they are read again, and published in one piece.
    assert trainer.delivery.publish_snapshot(path).version == 1
    assert trainer.digest(1) == made["digest"]

    airflow.clear(dag, run)
    until(lambda: airflow.run(dag, run)["state"] != "success", 30, lambda: "not cleared")
    assert airflow.finished(dag, run)["state"] == "success", airflow.told(dag, run)
    assert airflow.result(dag, run, "commit") == made

    # What follows a version, and what looks after it.
    (follows,) = until(lambda: airflow.runs("penstock_cut_compaction")[:1], 30, lambda: "no compaction")
    assert airflow.finished("penstock_cut_compaction", follows["dag_run_id"])["state"] == "success"
    assert airflow.task("penstock_cut_compaction", follows["dag_run_id"], "compact")["state"] == "skipped"
    runs = {kind: airflow.trigger(f"penstock_cut_{kind}") for kind in ("verification", "retention")}
    for kind, run in runs.items():
        found = airflow.finished(f"penstock_cut_{kind}", run)
        assert found["state"] == "success", airflow.told(f"penstock_cut_{kind}", run)
    assert airflow.result("penstock_cut_verification", runs["verification"], "compare")["digest"] == made["digest"]
    assert trainer.digest(1) == made["digest"]


def _kill_a_part(airflow, trainer, dag, run):
    """SIGKILL to the process of a task that slices, once the parts have been begun."""

    def running():
        found = airflow.tasks(dag, run)
        return [task["pid"] for task in found if task["task_id"] == "slice_part" and task["state"] == "running" and task["pid"]]

    pid = until(running, 120, lambda: airflow.told(dag, run))[0]
    deadline = time.monotonic() + 60
    with trainer.open() as env:
        while not list(env.catalog.store.list(keys.uploads(env.catalog.model))):
            assert time.monotonic() < deadline, airflow.told(dag, run)
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)


def test_a_rollback_is_shown_then_approved_and_confirmed_by_every_replica(airflow, shop):
    dag = "penstock_shop_rollback"
    with shop.open() as env:
        replica = Replica(env, name="replica-0")
        replica.start()
        try:
            poison = format_time(system_clock())
            shop.learn(5, 666.0)
            shop.delivery.updates().flush()
            until(lambda: served(replica, 5) == 666.0, 30, lambda: "the row did not arrive")
            before, generation = shop.live(), env.catalog.refs().generation

            run = airflow.trigger(dag, {"before": poison, "reason": "bot traffic"})
            (asked,) = until(lambda: airflow.questions(dag, run), 60, lambda: airflow.told(dag, run))
            assert "rows of the log that are lost: 1" in asked["body"]
            assert "replica-0" in asked["body"]
            assert env.catalog.refs().generation == generation, "nothing moves before it is approved"
            answered(airflow, dag, run, "Reject")
            assert airflow.task(dag, run, "commit")["state"] == "skipped"
            assert env.catalog.refs().generation == generation

            run = airflow.trigger(dag, {"before": poison, "reason": "bot traffic"})
            assert answered(airflow, dag, run, "Approve") == "success", airflow.told(dag, run)
            made = airflow.result(dag, run, "commit")
            assert (made["version"], made["kind"]) == (before + 1, "rollback")
            assert set(airflow.result(dag, run, "confirm")) == {"replica-0"}
            assert served(replica, 5) != 666.0
            who, what, why = shop.moves()[-1]
            assert who == f"airflow:{dag}/{run} by operator"
            assert why == "bot traffic (approved by operator)"
            assert "rollback" in what
        finally:
            replica.close()


def served(replica, key):
    return replica.lookup("item", np.array([key])).rows[0, 0]


def answered(airflow, dag, run, option):
    """Answers what the run asks, as often as it does: a task that is tried again asks again. Returns how the run has ended."""

    def look():
        for _ in airflow.questions(dag, run):
            airflow.answer(dag, run, "approve", option)
        state = airflow.run(dag, run)["state"]
        return state if state in ("success", "failed") else None

    return until(look, 240, lambda: airflow.told(dag, run))


def test_freeze_and_thaw_are_one_button_each(airflow, shop):
    with shop.open() as env:
        for kind, is_frozen in (("freeze", True), ("thaw", False)):
            run = airflow.trigger(f"penstock_shop_{kind}", {"reason": f"to {kind}"})
            assert airflow.finished(f"penstock_shop_{kind}", run)["state"] == "success"
            assert (env.catalog.refs().ref("live").frozen is not None) == is_frozen
            assert shop.moves()[-1][0].endswith("by operator")
            assert shop.moves()[-1][2] == f"to {kind}"


def test_a_refusal_is_not_tried_again_and_raises_an_alarm(plant, airflow, shop):
    dag = "penstock_shop_rollback"
    run = airflow.trigger(dag, {"reason": "which one?"})
    assert airflow.finished(dag, run)["state"] == "failed"
    assert airflow.task(dag, run, "plan")["try_number"] == 1
    plant.alarm(f"{dag} has failed: {run}")
