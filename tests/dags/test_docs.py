"""`docs/airflow.md` tells of every setting, and of every DAG."""

from __future__ import annotations

import re
from pathlib import Path

from penstock.pipeline.config import ScheduleConfig, parse_config

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "airflow.md").read_text()


def test_every_setting_is_told_with_its_default():
    told = {}
    for line in re.findall(r"^\| (`[a-z_`, ]+`) \| (.+?) \|", TEXT, re.MULTILINE):
        names, defaults = (re.findall(r"[^`, –][^`,]*", part) for part in line)
        told |= dict(zip(names, defaults * len(names) if len(defaults) == 1 else defaults or [""] * len(names), strict=True))
    actual = {name: getattr(ScheduleConfig(), name) for name in ScheduleConfig.__struct_fields__}
    assert told == {name: "" if value in (None, []) else str(value) for name, value in actual.items()}


def test_the_example_is_a_config():
    example = re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)[1]
    store = '[store]\nurl = "file:///srv"\n[log]\nurl = "file:///srv/log"\n'
    assert parse_config(store + example, "docs").models["retail"].schedule.parts == 8


def test_every_dag_is_told_of():
    kinds = {path.stem.removeprefix("penstock_") for path in (ROOT / "dags").glob("penstock_*.py")} - {"declarations"}
    assert set(re.findall(r"penstock_MODEL_([a-z]+)", TEXT)) - {"checkpoint"} == kinds
