"""Alerts, dashboard and pages: what they name exists, and what exists is named."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest
import yaml

from penstock.pipeline.cli import alarms
from penstock.pipeline.metrics import SOURCES

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"
RULES = [rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES}
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
SERIES = {name for source in SOURCES for metric in source.metrics for name in metric.series}
LABELS = {label for source in SOURCES for metric in source.metrics for label in (*source.labels, *metric.labels)}
DASHBOARD = json.loads((MONITORING / "grafana/dashboards/penstock.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
QUERIES += [each["expr"] for each in DASHBOARD["annotations"]["list"]]


def script(name):
    """What a script of the folder defines."""
    return runpy.run_path(str(MONITORING / f"{name}.py"))


def copied(folder, rules):
    (folder / "alerts.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    (folder / "alerts_test.yml").write_text((MONITORING / "alerts_test.yml").read_text())
    return folder


def test_the_rules_are_rules(promtool):
    for arguments in (
        ("check", "rules", "alerts.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "alerts_test.yml"),
    ):
        is_well, said = promtool(*arguments, cwd=MONITORING)
        assert is_well, said


def test_every_rule_is_tested(promtool, tmp_path):
    tested = {case["name"].split()[0] for case in yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]}
    assert tested - {"what"} == ALERTS.keys()
    for name in ALERTS:
        is_well, _ = promtool("test", "rules", "alerts_test.yml", cwd=copied(tmp_path, [r for r in RULES if r["alert"] != name]))
        assert not is_well, f"without {name} the tests pass"


def test_every_alert_has_its_page_in_the_runbook_and_no_page_is_without_alert():
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == [*ALERTS]
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("warning", "critical")


@pytest.mark.parametrize("expr", [*(rule["expr"] for rule in RULES), *QUERIES])
def test_what_is_asked_for_is_measured(expr):
    names = set(re.findall(r"\bpenstock_\w+", expr))
    assert names <= SERIES
    assert names or "ALERTS" in expr or "process_" in expr or expr.startswith("up{")
    named = {label.strip() for found in re.findall(r"(?:by|on) \(([^)]*)\)", expr) for label in found.split(",")}
    assert named <= LABELS | {"le"}


def test_the_page_of_the_runbook_names_metrics_that_there_are():
    assert set(re.findall(r"penstock_\w+", RUNBOOK)) <= SERIES


def test_the_limits_are_those_of_the_status():
    limits = {
        "PenstockFreshnessStale": alarms.STALE_S, "PenstockUpdateLagHigh": alarms.LATE_S, "PenstockVersionsBehind": alarms.BEHIND,
        "PenstockLogHeadroomLow": alarms.RETENTION_USED, "PenstockPublisherSilent": alarms.SILENT_S,
        "PenstockRollbackOpen": alarms.UNDECIDED_S,
    }  # fmt: skip
    for name, limit in limits.items():
        assert f"> {limit:g}" in ALERTS[name]["expr"], name
    named = set(re.findall(r'Alarm\("(\w+)"', Path(alarms.__file__).read_text()))
    assert limits.keys() <= named <= ALERTS.keys()


def test_the_dashboard_is_the_one_of_the_code(promtool, tmp_path):
    assert script("dashboard")["dashboard"]() == DASHBOARD
    exprs = [query.replace("$__rate_interval", "1m").replace("$model", ".*").replace("$replica", ".*") for query in QUERIES]
    assert not [expr for expr in exprs if "$" in expr]
    rules = [{"record": f"panel:{at}", "expr": expr} for at, expr in enumerate(exprs)]
    is_well, said = promtool("check", "rules", "alerts.yml", cwd=copied(tmp_path, rules))
    assert is_well, said


def test_the_dashboard_shows_the_lag_first_and_fits_its_grid():
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert panels[0]["title"] == "Lag, p99"
    taken = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_grafana_finds_source_and_dashboard():
    source = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    assert {target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())} == {
        source["uid"]
    }
    provider = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/penstock.yml").read_text())["providers"][0]
    assert provider["options"]["path"]


def test_the_page_of_the_metrics_is_the_one_of_the_code():
    assert script("metrics_page")["page"]() == (ROOT / "docs/metrics.md").read_text()
