"""The Grafana dashboard as code: `python monitoring/dashboard.py > monitoring/grafana/dashboards/penstock.json`. A test compares.
From the top: the lag at a glance, tiers, replicas, lookups, log and housekeeping."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

SOURCE = {"type": "prometheus", "uid": "penstock"}
WIDTH, HEIGHT = 24, 8
PICK = 'model=~"$model"'
ONE = f'{PICK}, replica=~"$replica"'


@dataclass(frozen=True)
class Panel:
    """`queries`: PromQL and legend. `red`: the value from which on a stat is red, as in alerts.yml."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    red: float | None = None
    text: str = ""

    def document(self, number: int, x: int, y: int, height: int) -> dict[str, object]:
        steps: list[dict[str, object]] = [{"color": "green", "value": None}]
        if self.red is not None:
            steps.append({"color": "red", "value": self.red})
        found: dict[str, object] = {
            "id": number, "title": self.title, "type": self.kind, "datasource": SOURCE, "description": self.text,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": height},
            "fieldConfig": {
                "defaults": {"unit": self.unit, "thresholds": {"mode": "absolute", "steps": steps}, "min": 0}, "overrides": [],
            },
            "targets": [
                {"refId": chr(65 + at), "expr": expr, "legendFormat": legend, "datasource": SOURCE, **self._format()}
                for at, (expr, legend) in enumerate(self.queries)
            ],
        }  # fmt: skip
        if self.kind == "stat":
            found["options"] = {"colorMode": "background", "reduceOptions": {"calcs": ["lastNotNull"]}}
        return found

    def _format(self) -> dict[str, object]:
        return {"format": "heatmap"} if self.kind == "heatmap" else {}


def quantile(share: float, metric: str, by: str, pick: str = ONE) -> str:
    return f"histogram_quantile({share}, sum by ({by}, le) (rate({metric}_bucket{{{pick}}}[$__rate_interval])))"


def rate(metric: str, by: str, pick: str = PICK) -> str:
    return f"sum by ({by}) (rate({metric}_total{{{pick}}}[$__rate_interval]))"


def counted(metric: str, value: int) -> str:
    return f"(count({metric}{{{PICK}}} == {value}) or vector(0))"


LAG, FRESHNESS, LOOKUP = "penstock_update_lag_seconds", "penstock_update_freshness_seconds", "penstock_lookup_seconds"
ROWS: tuple[tuple[str, int, tuple[Panel, ...]], ...] = (
    (
        "Update lag",
        5,
        (
            Panel("Lag, p99", ((quantile(0.99, LAG, "model"), "{{model}}"),), "s", "stat", 5, 5.0, "From written to readable."),
            Panel("Lag, p50", ((quantile(0.5, LAG, "model"), "{{model}}"),), "s", "stat", 4, 5.0),
            Panel(
                "Freshness of live",
                ((f'max(penstock_freshness_seconds{{{PICK}, ref="live"}})', ""),),
                "s",
                "stat",
                5,
                900.0,
                "Now less the newest event learned from, where that is worst.",
            ),
            Panel(
                "Replicas not ready or silent",
                ((f"{counted('penstock_presence_ready', 0)} + {counted('penstock_presence_silent', 1)}", ""),),
                "short",
                "stat",
                5,
                1.0,
            ),
            Panel("Alerts firing", (('count(ALERTS{alertstate="firing"}) or vector(0)', ""),), "short", "stat", 5, 1.0),
        ),
    ),
    (
        "",
        HEIGHT,
        (
            Panel(
                "Lag by table",
                ((quantile(0.99, LAG, "table"), "{{table}} p99"), (quantile(0.5, LAG, "table"), "{{table}} p50")),
                "s",
            ),
            Panel("Lag by replica", ((quantile(0.99, LAG, "replica"), "{{replica}} p99"),), "s"),
            Panel("Lag, all rows", ((f"sum by (le) (rate({LAG}_bucket{{{ONE}}}[$__rate_interval]))", "{{le}}"),), "s", "heatmap"),
            Panel("Lag by partition", ((quantile(0.99, LAG, "partition"), "{{partition}}"),), "s"),
            Panel("Freshness when readable", ((quantile(0.99, FRESHNESS, "table"), "{{table}} p99"),), "s"),
            Panel("Freshness served", ((f"max by (replica) (penstock_replica_freshness_seconds{{{ONE}}})", "{{replica}}"),), "s"),
        ),
    ),
    (
        "Tiers",
        HEIGHT,
        (
            Panel(
                "Rows published",
                (
                    (rate("penstock_publisher_acknowledged_rows", "publisher"), "realtime, {{publisher}}"),
                    (rate("penstock_published_rows", "tier"), "{{tier}}"),
                ),
                "rowsps",
            ),
            Panel(
                "Bytes published",
                (
                    (rate("penstock_publisher_acknowledged_bytes", "publisher"), "realtime, {{publisher}}"),
                    (rate("penstock_published_bytes", "tier"), "{{tier}}"),
                ),
                "Bps",
            ),
            Panel("Rows applied", ((rate("penstock_applied_rows", "tier", ONE), "{{tier}}"),), "rowsps"),
            Panel("Bytes applied", ((rate("penstock_applied_bytes", "tier", ONE), "{{tier}}"),), "Bps"),
            Panel(
                "Rows shed, and owed",
                (
                    (rate("penstock_publisher_shed_rows", "publisher"), "shed a second, {{publisher}}"),
                    (f"penstock_rows_owed{{{PICK}}}", "owed by the next delta"),
                ),
                "short",
            ),
            Panel(
                "Waiting to be sent",
                (
                    (f"penstock_publisher_queued_bytes{{{PICK}}}", "{{publisher}}"),
                    (f"penstock_publisher_queue_limit_bytes{{{PICK}}}", "bound, {{publisher}}"),
                ),
                "bytes",
            ),
            Panel("Errors to the trainer", ((rate("penstock_publisher_errors", "call, error"), "{{call}}: {{error}}"),), "ops"),
            Panel("Versions", ((f"penstock_ref_version{{{PICK}}}", "{{ref}}"), (f"penstock_trunk_version{{{PICK}}}", "newest"))),
            Panel("Age of the newest version", ((f"penstock_version_age_seconds{{{PICK}}}", "{{model}}"),), "s"),
        ),
    ),
    (
        "Replicas",
        HEIGHT,
        (
            Panel("Versions behind", ((f"penstock_presence_versions_behind{{{ONE}}}", "{{replica}}"),)),
            Panel("Digests agree", ((f"penstock_digests_agree{{{PICK}}}", "{{model}}"),)),
            Panel("Digests that disagreed", ((rate("penstock_replica_digest_disagreements", "replica", ONE), "{{replica}}"),)),
            Panel("Versions adopted", ((rate("penstock_replica_adoptions", "how", ONE), "{{how}}"),), "ops"),
            Panel("Records by outcome", ((rate("penstock_replica_records", "outcome", ONE), "{{outcome}}"),), "ops"),
            Panel(
                "Fences and gaps",
                (
                    (rate("penstock_replica_fences", "replica", ONE), "{{replica}} fences"),
                    (rate("penstock_replica_gaps", "replica", ONE), "{{replica}} gaps"),
                ),
                "ops",
            ),
            Panel("Records not read yet", ((f"sum by (replica) (penstock_replica_lag_records{{{ONE}}})", "{{replica}}"),)),
            Panel("Rows set back", ((rate("penstock_replica_undone_rows", "how", ONE), "{{how}}"),), "rowsps"),
            Panel(
                "Memory",
                (
                    (f"sum by (replica) (penstock_replica_table_bytes{{{ONE}}})", "{{replica}} tables"),
                    ('process_resident_memory_bytes{job=~"penstock.*"}', "{{instance}} process"),
                ),
                "bytes",
            ),
        ),
    ),
    (
        "Lookups",
        HEIGHT,
        (
            Panel("Lookups", ((rate("penstock_lookups", "replica", ONE), "{{replica}}"),), "reqps"),
            Panel("Keys", ((rate("penstock_lookup_keys", "replica", ONE), "{{replica}}"),), "ops"),
            Panel(
                "Latency",
                ((quantile(0.99, LOOKUP, "replica"), "{{replica}} p99"), (quantile(0.5, LOOKUP, "replica"), "{{replica}} p50")),
                "s",
            ),
            Panel(
                "Turned away",
                (
                    (rate("penstock_lookups_shed", "why", ONE), "{{why}}"),
                    (rate("penstock_lookups_refused", "replica", ONE), "refused, {{replica}}"),
                    (rate("penstock_lookups_failed", "replica", ONE), "failed, {{replica}}"),
                ),
                "reqps",
            ),
            Panel(
                "Under way",
                (
                    (f"penstock_lookups_running{{{ONE}}}", "{{replica}} run"),
                    (f"penstock_lookups_waiting{{{ONE}}}", "{{replica}} wait"),
                ),
            ),
            Panel("Rows held", ((f"max by (table) (penstock_replica_table_rows{{{ONE}}})", "{{table}}"),)),
        ),
    ),
    (
        "Log and housekeeping",
        HEIGHT,
        (
            Panel("Retention of the log used", ((f"penstock_log_retention_used_ratio{{{PICK}}}", "{{model}}"),), "percentunit"),
            Panel("Head-room", ((f"min by (model) (penstock_log_headroom_records{{{PICK}}})", "{{model}}"),)),
            Panel(
                "How far back a rollback can go",
                (
                    (f"penstock_recovery_reach_seconds{{{PICK}}}", "{{model}}"),
                    (f"penstock_recovery_window_seconds{{{PICK}}}", "asked for, {{model}}"),
                ),
                "s",
            ),
            Panel(
                "Chain",
                ((f"penstock_chain_length{{{PICK}}}", "{{model}}"), (f"penstock_chain_limit{{{PICK}}}", "bound, {{model}}")),
            ),
            Panel(
                "Frozen, rolling back, publishing",
                (
                    (f"penstock_ref_frozen{{{PICK}}}", "{{ref}} frozen"),
                    (f"penstock_rollback_open_seconds{{{PICK}}} > bool 0", "rollback open"),
                    (f"penstock_uploads_open{{{PICK}}}", "publishes under way"),
                ),
            ),
            Panel("Verify, retention, compaction", ((f"penstock_care_ok{{{PICK}}}", "{{work}} ok"),)),
        ),
    ),
)


def dashboard() -> dict[str, object]:
    panels: list[dict[str, object]] = []
    y = 0
    for title, height, row in ROWS:
        if title:
            position = {"x": 0, "y": y, "w": WIDTH, "h": 1}
            panels.append(
                {"id": len(panels) + 1, "title": title, "type": "row", "collapsed": False, "gridPos": position, "panels": []}
            )
            y += 1
        x = 0
        for panel in row:
            if x + panel.width > WIDTH:
                x, y = 0, y + height
            panels.append(panel.document(len(panels) + 1, x, y, height))
            x += panel.width
        y += height
    return {
        "uid": "penstock", "title": "Penstock", "tags": ["penstock"], "schemaVersion": 39, "version": 1, "editable": True,
        "refresh": "5s", "time": {"from": "now-30m", "to": "now"}, "timezone": "browser",
        "templating": {"list": [_variable("model", "penstock_up"), _variable("replica", "penstock_replica_ready")]},
        "annotations": {"list": [_moves()]},
        "panels": panels,
    }  # fmt: skip


def _variable(name: str, metric: str) -> dict[str, object]:
    query = f"label_values({metric}, {name})"
    return {
        "name": name, "type": "query", "datasource": SOURCE, "query": query, "definition": query, "refresh": 2,
        "includeAll": True, "multi": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


def _moves() -> dict[str, object]:
    """A mark wherever the timeline changes: a rollback."""
    expr = f"changes(penstock_timeline{{{PICK}}}[1m]) > 0"
    return {
        "name": "rollbacks",
        "datasource": SOURCE,
        "enable": True,
        "expr": expr,
        "iconColor": "red",
        "titleFormat": "rollback",
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dashboard(), indent=1) + "\n")
