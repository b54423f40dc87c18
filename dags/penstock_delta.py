"""What has changed, every few minutes.

A run covers the newest checkpoint that was there before its data interval ended: its rows come from the checkpoint's files where
they are new, else from the update log. An event of the asset `penstock_MODEL_checkpoint` starts a run at once, for the checkpoint
that it names. Where there is nothing new the run is skipped.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException
from penstock_declarations import (
    acting,
    checkpoint_asset,
    covered_until,
    declared,
    for_every_model,
    intervals,
    reason,
    told,
    version_asset,
)

from penstock.pipeline.config import ScheduleConfig


def declare(model: str, settings: ScheduleConfig) -> DAG:
    schedule = AssetOrTimeSchedule(timetable=intervals(settings.delta, settings), assets=[checkpoint_asset(model)])
    with declared(model, "delta", settings, doc=__doc__, schedule=schedule, deadline=settings.delta_deadline) as dag:

        @task(outlets=[version_asset(model)], pool=settings.pool)
        def publish() -> Any:
            from penstock.pipeline.runs.publishing import committed, publish_newest_delta

            events = get_current_context()["triggering_asset_events"]
            named = {str(event.extra["path"]) for found in events.values() for event in found if "path" in event.extra}
            with acting(model) as env:
                made = publish_newest_delta(env, until=covered_until(), named=named, why=reason())
                if made is None:
                    raise AirflowSkipException("nothing new")
                return told(committed(env, made))

        publish()
    return dag


globals().update(for_every_model(declare))
