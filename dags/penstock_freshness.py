"""Watches, every minute, how old the newest event is that what is served has learned from.

Fails, which raises an alarm, beyond `schedule.max_freshness`, or while a replica has stopped. Without that setting there is no
such DAG. It is about now, so it has no data interval, and makes up for nothing.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, task
from penstock_declarations import acting, declared, for_every_model, told

from penstock.pipeline.config import ScheduleConfig, microseconds


def declare(model: str, settings: ScheduleConfig) -> DAG | None:
    limit = settings.max_freshness
    if limit is None:
        return None
    schedule = CronTriggerTimetable("* * * * *", timezone="UTC")
    with declared(model, "freshness", settings, doc=__doc__, schedule=schedule, retries=0) as dag:

        @task
        def watch() -> Any:
            from penstock.pipeline.runs.care import check_fresh, freshness

            with acting(model) as env:
                found = freshness(env)
                check_fresh(found, microseconds(limit))
                return told(found)

        watch()
    return dag


globals().update(for_every_model(declare))
