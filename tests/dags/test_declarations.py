"""What the DAG files declare, without an Airflow that runs, in a process in which no socket can connect."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers.airflow import AirflowUnavailable
from servers.kafka import skip_or_fail

DAGS = Path(__file__).parents[2] / "dags"
FILES = sorted(path.stem for path in DAGS.glob("penstock_*.py") if path.stem != "penstock_declarations")
CONFIG = """
[store]
url = "s3://nowhere/penstock"
[log]
url = "kafka://nowhere:9092"
[models.plain.tables.item]
tensor = "item"
[models.full.tables.item]
tensor = "item"
[models.full.schedule]
checkpoints = "/srv/checkpoints/*"
delta = "0 * * * *"
snapshot = "30 2 * * *"
timezone = "Europe/Berlin"
catchup_from = "2026-11-01T00:00:00+00:00"
parts = 4
max_freshness = "10m"
pool = "commits"
slicing_pool = "slices"
approvers = ["alice", "bob"]
approval_timeout = "15m"
delta_deadline = "5m"
"""
READ = """
import json, socket, sys

import airflow.sdk
from airflow.providers.standard.operators import hitl
from airflow.sdk import DAG

class Nobody(socket.socket):
    def connect(self, address):
        raise AssertionError(f"an import connects to {address}")

socket.socket = Nobody
sys.path.insert(0, sys.argv[1])
found = {}
for file in sys.argv[2:]:
    known = set(sys.modules)
    module = __import__(file)
    dags = {}
    for dag in [value for value in vars(module).values() if isinstance(value, DAG)]:
        dags[dag.dag_id] = {
            "max_active_runs": dag.max_active_runs, "catchup": dag.catchup, "start": dag.start_date.isoformat(),
            "schedule": type(dag.timetable).__name__, "paused": dag.is_paused_upon_creation, "doc": dag.doc_md,
            "deadlines": [alert.interval.total_seconds() for alert in dag.deadline or ()], "params": sorted(dag.params),
            "tasks": {
                task.task_id: {
                    "after": sorted(task.upstream_task_ids), "pool": task.pool, "mapped": task.is_mapped,
                    "outlets": [asset.uri for asset in task.outlets],
                }
                for task in dag.tasks
            },
        }
    found[file] = {"dags": dags, "imported": sorted({name.split(".")[0] for name in set(sys.modules) - known})}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def declared(tmp_path_factory):
    """What each file declares, and imports."""
    if importlib.util.find_spec("airflow") is None:
        skip_or_fail(AirflowUnavailable("no Airflow: pip install 'penstock[airflow]'"))
    folder = tmp_path_factory.mktemp("declared")
    (folder / "penstock.toml").write_text(CONFIG)
    environment = os.environ | {"PENSTOCK_CONFIG": str(folder / "penstock.toml"), "AIRFLOW_HOME": str(folder / "airflow")}
    command = [sys.executable, "-c", READ, str(DAGS), *FILES]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def dags(declared):
    return {name: dag for found in declared.values() for name, dag in found["dags"].items()}


def test_no_file_imports_what_is_heavy_or_speaks_to_anybody(declared):
    heavy = {"numpy", "numba", "pyarrow", "boto3", "botocore", "kafka", "safetensors", "h5py"}
    for file, found in declared.items():
        assert not heavy & set(found["imported"]), file
    assert "penstock_declarations" in declared[FILES[0]]["imported"]


def test_no_file_is_named_as_a_package_that_a_task_imports():
    for path in DAGS.glob("*.py"):
        assert importlib.util.find_spec(path.stem) is None
        assert path.stem.startswith("penstock_")


def test_one_file_a_kind_and_one_dag_a_model(declared):
    for file, found in declared.items():
        kind = file.removeprefix("penstock_")
        models = ["full"] if kind in ("snapshot", "freshness") else ["full", "plain"]
        assert sorted(found["dags"]) == [f"penstock_{model}_{kind}" for model in models]


def test_two_runs_of_a_dag_do_not_race_and_every_one_says_what_it_is(dags):
    for name, dag in dags.items():
        # Of several rollbacks the first that is approved claims the timeline; the plans of the others are void.
        assert (dag["max_active_runs"] == 1) != name.endswith("rollback"), name
        assert dag["doc"].strip(), name


def test_what_an_operator_presses_is_never_paused(dags):
    for name, dag in dags.items():
        assert dag["paused"] != (name.rsplit("_", 1)[1] in ("rollback", "freeze", "thaw")), name


def test_intervals_and_not_clocks_decide_and_missed_ones_are_made_up_for_on_demand(dags):
    expected = {
        "snapshot": "CronDataIntervalTimetable", "retention": "CronDataIntervalTimetable",
        "verification": "CronDataIntervalTimetable", "delta": "AssetOrTimeSchedule", "freshness": "CronTriggerTimetable",
        "compaction": "AssetTriggeredTimetable", "rollback": "NullTimetable", "freeze": "NullTimetable", "thaw": "NullTimetable",
    }  # fmt: skip
    for name, dag in dags.items():
        _, model, kind = name.split("_")
        assert dag["schedule"] == expected[kind], name
        assert dag["catchup"] == (model == "full" and kind != "freshness"), name
        assert dag["start"].startswith("2026-11-01" if model == "full" else "2024-01-01"), name


def test_a_snapshot_fans_out_and_joins(dags):
    tasks = dags["penstock_full_snapshot"]["tasks"]
    assert {name: task["after"] for name, task in tasks.items()} == {
        "choose": [], "slice_part": ["choose"], "commit": ["choose", "slice_part"],
    }  # fmt: skip
    assert [name for name, task in tasks.items() if task["mapped"]] == ["slice_part"]
    assert (tasks["slice_part"]["pool"], tasks["commit"]["pool"]) == ("slices", "commits")


def test_a_rollback_is_planned_then_approved_then_committed_then_confirmed(dags):
    found = dags["penstock_full_rollback"]
    assert {name: task["after"] for name, task in found["tasks"].items()} == {
        "plan": [], "approve": ["plan"], "commit": ["approve", "plan"], "confirm": ["commit"],
    }  # fmt: skip
    assert found["params"] == ["before", "reason", "tables", "timeline", "to_checkpoint", "version", "written_before"]
    assert found["tasks"]["commit"]["pool"] == "default_pool", "it waits behind no snapshot"


def test_every_commit_tells_of_its_version_and_compaction_follows(dags):
    for name in ("delta", "snapshot", "rollback"):
        outlets = [uri for task in dags[f"penstock_full_{name}"]["tasks"].values() for uri in task["outlets"]]
        assert outlets == ["penstock://models/full/version"]


def test_what_runs_by_itself_has_a_deadline(dags):
    for kind, seconds in (
        ("delta", 300),
        ("snapshot", 21600),
        ("compaction", 21600),
        ("retention", 21600),
        ("verification", 21600),
    ):
        assert dags[f"penstock_full_{kind}"]["deadlines"] == [seconds]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ('snapshot = "at noon"', "snapshot"),
        ('delta = "* * * *"', "delta"),
        ('timezone = "Moon/Base"', "timezone"),
        ('max_freshness = "ten"', "models.plain.schedule.max_freshness"),
        ('catchup_from = "2026-11-01T00:00:00"', "models.plain.schedule.catchup_from"),
        ("parts = 0", "parts"),
        ('compaction = "daily"', "compaction"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_name(wrong, named):
    from penstock.pipeline.config import parse_config
    from penstock.pipeline.core.errors import InvalidInput

    text = CONFIG[: CONFIG.index("[models.full")] + f"[models.plain.schedule]\n{wrong}\n"
    with pytest.raises(InvalidInput, match=named):
        parse_config(text, "test")
