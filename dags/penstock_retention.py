"""Removes what nothing needs any more, daily.

What goes is what no ref, pin, replica, running publish or recovery window needed when the data interval ended, and does not need
now. So a run that is late, or repeated, removes no more than it was meant to.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task
from penstock_declarations import acting, covered_until, declared, for_every_model, intervals, reason

from penstock.pipeline.config import ScheduleConfig


def declare(model: str, settings: ScheduleConfig) -> DAG:
    schedule = intervals(settings.retention, settings)
    with declared(model, "retention", settings, doc=__doc__, schedule=schedule, deadline=settings.care_deadline) as dag:

        @task(pool=settings.pool)
        def retain() -> dict[str, Any]:
            from penstock.pipeline.runs.care import retain as remove

            with acting(model) as env:
                plan = remove(env, until=covered_until(), why=reason())
                return {
                    "versions": list(plan.expired_versions),
                    "objects": len(plan.expired_objects),
                    "freed_bytes": plan.freed_bytes,
                    "delta_due": plan.delta_due,
                }

        retain()
    return dag


globals().update(for_every_model(declare))
