"""Keeps the chain short: follows every version.

Once a newcomer would have to load more than `retention.max_chain` versions, their state is written as a whole beside the chain;
no ref moves. Before that the run is skipped.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException
from penstock_declarations import acting, declared, for_every_model, reason, told, version_asset

from penstock.pipeline.config import ScheduleConfig


def declare(model: str, settings: ScheduleConfig) -> DAG:
    schedule = [version_asset(model)]
    with declared(model, "compaction", settings, doc=__doc__, schedule=schedule, deadline=settings.care_deadline) as dag:

        @task(pool=settings.pool)
        def compact() -> Any:
            from penstock.pipeline.runs.care import compact_if_due
            from penstock.pipeline.runs.publishing import committed

            with acting(model) as env:
                made = compact_if_due(env, why=reason())
                if made is None:
                    raise AirflowSkipException("the chain is short enough")
                return told(committed(env, made))

        compact()
    return dag


globals().update(for_every_model(declare))
