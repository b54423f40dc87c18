"""The first button to press when something is wrong: every replica stops where the log ends now.

Nothing is lost by it, and nothing is decided. A rollback thaws; `penstock_MODEL_thaw` does, where it was a false alarm. What
is frozen already stays where it is.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task
from penstock_declarations import acting, declared, for_every_model, reason

from penstock.pipeline.config import ScheduleConfig


def declare(model: str, settings: ScheduleConfig) -> DAG:
    params = {
        "reason": Param(type="string", minLength=1, title="Reason", description="It goes into the history."),
        "ref": Param("live", type="string", title="Ref", description="Its replicas stop."),
    }
    with declared(model, "freeze", settings, doc=__doc__, schedule=None, params=params, paused=False) as dag:

        @task(priority_weight=1000)
        def freeze() -> Any:
            from penstock.rollback.freezing import freeze as freeze_ref

            ref = get_current_context()["params"]["ref"]
            with acting(model) as env:
                found = freeze_ref(env, ref, why=reason()).ref(ref)
                return {"ref": ref, "version": found.version, "frozen": None if found.frozen is None else list(found.frozen)}

        freeze()
    return dag


globals().update(for_every_model(declare))
