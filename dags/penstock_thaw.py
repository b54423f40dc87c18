"""Lets the replicas of a frozen ref go on."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task
from penstock_declarations import acting, declared, for_every_model, reason

from penstock.pipeline.config import ScheduleConfig


def declare(model: str, settings: ScheduleConfig) -> DAG:
    params = {
        "reason": Param(type="string", minLength=1, title="Reason", description="It goes into the history."),
        "ref": Param("live", type="string", title="Ref", description="Its replicas go on."),
    }
    with declared(model, "thaw", settings, doc=__doc__, schedule=None, params=params, paused=False) as dag:

        @task(priority_weight=1000)
        def thaw() -> Any:
            from penstock.rollback.freezing import thaw as thaw_ref

            ref = get_current_context()["params"]["ref"]
            with acting(model) as env:
                return {"ref": ref, "version": thaw_ref(env, ref, why=reason()).ref(ref).version}

        thaw()
    return dag


globals().update(for_every_model(declare))
