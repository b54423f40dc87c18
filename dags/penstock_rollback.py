"""Goes back to before the poison: fill in the form, read the plan, approve it.

`plan` changes nothing; its result, and the question of `approve`, show what will be lost. `commit` makes a new version on a new
timeline. `confirm` waits until every replica that has a live presence record has reported the digest of that version, or its
lease has ended. Who rejects, or does not answer in `schedule.approval_timeout`, leaves everything as it is.

To stop the poison while you think, trigger `penstock_MODEL_freeze` first.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param, PokeReturnValue, get_current_context, task
from penstock_declarations import acting, declared, for_every_model, reason, span, told, version_asset

from penstock.pipeline.config import ScheduleConfig

PARAMS = {
    "reason": Param(type="string", minLength=1, title="Reason", description="What went wrong; it goes into the history."),
    "before": Param(
        None, type=["null", "string"], format="date-time", title="Before", description="The first event that was poison."
    ),
    "version": Param(None, type=["null", "integer"], minimum=0, title="Version", description="Or: to this version."),
    "to_checkpoint": Param(
        False, type="boolean", title="To the checkpoint", description="Or: to the newest finished checkpoint of the trainer."
    ),
    "written_before": Param(
        None, type=["null", "string"], format="date-time", title="Written before", description="Or: to what the log held then."
    ),
    "tables": Param([], type=["null", "array"], items={"type": "string"}, title="Tables", description="Only these; empty: all."),
    "timeline": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        title="Timeline",
        description="Of the time; by default the live one.",
    ),
}


def declare(model: str, settings: ScheduleConfig) -> DAG:
    # Several may be asked for at once: whoever is approved first claims the timeline, and the plans of the others are void.
    with declared(model, "rollback", settings, doc=__doc__, schedule=None, params=PARAMS, active_runs=8, paused=False) as dag:

        @task(priority_weight=1000)
        def plan() -> Any:
            from penstock.pipeline.runs.rolling_back import Wish, propose

            wish = {name: given for name, given in get_current_context()["params"].items() if given is not None}
            with acting(model) as env:
                return told(propose(env, Wish(**wish | {"tables": tuple(wish.get("tables", ()))})))

        approve = ApprovalOperator(
            task_id="approve",
            subject=f"Roll {model} back?",
            body="{{ ti.xcom_pull(task_ids='plan')['text'] }}",
            defaults="Reject",
            response_timeout=span(settings.approval_timeout),
            assigned_users=[{"id": each, "name": each} for each in settings.approvers] or None,
        )

        @task(outlets=[version_asset(model)], priority_weight=1000)
        def commit(proposal: Any) -> Any:
            import msgspec

            from penstock.pipeline.runs.publishing import committed
            from penstock.pipeline.runs.rolling_back import Proposal, carry_out

            answer = get_current_context()["ti"].xcom_pull(task_ids="approve")
            why = f"{reason()} (approved by {answer['responded_by_user']['name']})"
            with acting(model) as env:
                return told(committed(env, carry_out(env, msgspec.convert(proposal, Proposal), why=why)))

        @task.sensor(poke_interval=1, timeout=span(settings.confirm_timeout).total_seconds(), priority_weight=1000)
        def confirm(version: Any) -> PokeReturnValue:
            from penstock.pipeline.core.ids import Version
            from penstock.pipeline.runs.rolling_back import confirmed_by_all

            with acting(model) as env:
                found = confirmed_by_all(env, Version(version["version"]))
                return PokeReturnValue(is_done=found is not None, xcom_value=found)

        planned = plan()
        made = commit(planned)
        planned >> approve >> made
        confirm(made)
    return dag


globals().update(for_every_model(declare))
