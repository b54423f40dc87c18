"""The whole model, at a quiet hour.

The newest whole checkpoint that was there before the data interval ended is sliced by as many tasks as `schedule.parts` says,
side by side, and one commits what all have written. Its state is committed as a delta before that, so that the snapshot
stands beside the chain, and deltas go on meanwhile. A part that is tried again finds what it has written. Without
`schedule.checkpoints` there is no such DAG.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException
from penstock_declarations import (
    acting,
    covered_until,
    declared,
    for_every_model,
    intervals,
    reason,
    told,
    version_asset,
)

from penstock.pipeline.config import ScheduleConfig


def declare(model: str, settings: ScheduleConfig) -> DAG | None:
    if settings.checkpoints is None:
        return None
    schedule = intervals(settings.snapshot, settings)
    with declared(model, "snapshot", settings, doc=__doc__, schedule=schedule, deadline=settings.snapshot_deadline) as dag:

        @task(pool=settings.pool)
        def choose() -> list[dict[str, Any]]:
            from penstock.pipeline.runs.publishing import choose_snapshot

            with acting(model) as env:
                name = get_current_context()["run_id"]
                chosen = choose_snapshot(env, until=covered_until(), parts=settings.parts, name=name, why=reason())
                if chosen is None:
                    raise AirflowSkipException("no whole checkpoint is there whose snapshot is not")
                return [{"chosen": told(chosen), "part": part} for part in range(1, chosen.parts + 1)]

        @task(pool=settings.slicing_pool)
        def slice_part(chosen: dict[str, Any], part: int) -> int:
            from penstock.pipeline.runs.publishing import Chosen
            from penstock.pipeline.runs.publishing import slice_part as slice_one

            with acting(model) as env:
                return slice_one(env, Chosen(**chosen), part).rows

        @task(outlets=[version_asset(model)], pool=settings.pool)
        def commit(parts: Any) -> Any:
            from penstock.pipeline.runs.publishing import Chosen, commit_snapshot, committed

            with acting(model) as env:
                return told(committed(env, commit_snapshot(env, Chosen(**parts[0]["chosen"]), why=reason())))

        parts = choose()
        slice_part.expand_kwargs(parts) >> commit(parts)
    return dag


globals().update(for_every_model(declare))
