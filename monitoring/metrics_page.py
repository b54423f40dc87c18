"""docs/metrics.md, from the catalogue of metrics: `python monitoring/metrics_page.py > docs/metrics.md`. A test compares."""

from __future__ import annotations

import sys

from penstock.pipeline.metrics import SOURCES, Source

HEAD = """# Metrics

Prometheus scrapes three kinds of process:

| who | how | tells |
|---|---|---|
| replica | `penstock replica --health-port 8816`: `/metrics` beside `/healthz` and `/readyz` | lag, freshness, what was applied, lookups |
| trainer | `[metrics] listen = "0.0.0.0:9817"`, or `registry.register(delivery.metrics)` where it tells metrics already | what was put, shed, acknowledged |
| `penstock exporter --listen 0.0.0.0:9815` | one for all models of a config; looks every `--every` seconds | what lies in the store and the log |

`monitoring/prometheus.yml` scrapes them, `monitoring/alerts.yml` has the alerts (`docs/runbook.md` says what to do about each), and
`monitoring/grafana` a dashboard with its provisioning. `penstock status --watch` shows the same at a terminal.

State is read when somebody scrapes. Only the two histograms of updates are filled on the way of a row: once a record, each row counted.
What had been in the log before a replica began is not counted there. They have a series for each table, partition and bucket that has had
rows: 10 tables in 64 partitions are 22,000 series a replica; `metric_relabel_configs` can drop the label `partition`.

Each process also tells its own memory, CPU and open files (`process_…`). All ports are plain HTTP without a token: whoever may not see
table names and counts must not reach them.
"""  # noqa: E501


def page() -> str:
    return "\n".join([HEAD, *(section(source) for source in SOURCES)])


def section(source: Source) -> str:
    labels = ", ".join(f"`{label}`" for label in source.labels)
    lines = [
        f"## {source.name.capitalize()}\n",
        f"Each sample has {labels}.\n",
        "| metric | kind | labels | |",
        "|---|---|---|---|",
    ]
    for metric in source.metrics:
        name = metric.series[0] if metric.kind == "counter" else metric.name
        lines.append(f"| `{name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
