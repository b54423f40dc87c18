"""What the DAG files share: how a DAG is declared, who acts in a task, what a run covers, and what an error means to Airflow.

What tasks do is in `penstock.pipeline.runs`, and is imported when they run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Asset, CronDataIntervalTimetable, CronTriggerTimetable, get_current_context
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.exceptions import AirflowFailException

from penstock.pipeline.config import Config, ScheduleConfig, config_path, load_config, microseconds

if TYPE_CHECKING:
    from penstock.pipeline.core.times import WallTime
    from penstock.pipeline.environment import Environment

START = datetime(2024, 1, 1, tzinfo=UTC)
"""Before any interval that matters; what was missed since then is made up for only where the config says so."""
LONGEST_RETRY_DELAY = timedelta(minutes=10)


def config() -> Config:
    return load_config(config_path(None))


def for_every_model(declare: Callable[[str, ScheduleConfig], DAG | None]) -> dict[str, DAG]:
    """The DAGs that `declare` makes of the models in the config, by their ids."""
    found = [declare(name, model.schedule) for name, model in config().models.items()]
    return {dag.dag_id: dag for dag in found if dag is not None}


def span(duration: str) -> timedelta:
    return timedelta(microseconds=microseconds(duration))


def declared(
    model: str,
    what: str,
    settings: ScheduleConfig,
    *,
    doc: str | None,
    schedule: Any,
    deadline: str | None = None,
    params: Mapping[str, Any] | None = None,
    retries: int | None = None,
    active_runs: int = 1,
    paused: bool = True,
) -> DAG:
    """A DAG whose runs may be repeated, one at a time unless it says otherwise. An alarm is raised about a run that fails, or has
    not ended `deadline` after it was queued; a task that runs for twice as long is stopped, and tried again."""
    name = f"penstock_{model}_{what}"
    limit = None if deadline is None else span(deadline)

    def failed(context: Mapping[str, Any]) -> None:
        from penstock.pipeline.runs.alarms import alarm

        alarm(f"{name} has failed: {context['run_id']}", settings.alarm_url)

    late = AsyncCallback("penstock.pipeline.runs.alarms.late", {"text": f"{name} is late", "url": settings.alarm_url})
    return DAG(
        name,
        description=(doc or "").strip().splitlines()[0],
        doc_md=doc,
        schedule=schedule,
        start_date=START if settings.catchup_from is None else datetime.fromisoformat(settings.catchup_from),
        catchup=settings.catchup_from is not None and not isinstance(schedule, CronTriggerTimetable),
        max_active_runs=active_runs,
        is_paused_upon_creation=paused,
        tags={"penstock", model},
        params=dict(params or {}),
        on_failure_callback=failed,
        deadline=None if limit is None else DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, limit, late),
        default_args={
            "retries": settings.retries if retries is None else retries,
            "retry_delay": span(settings.retry_delay),
            "retry_exponential_backoff": 2,
            "max_retry_delay": max(span(settings.retry_delay), LONGEST_RETRY_DELAY),
            "execution_timeout": None if limit is None else 2 * limit,
        },
    )


def intervals(cron: str, settings: ScheduleConfig) -> CronDataIntervalTimetable:
    return CronDataIntervalTimetable(cron, timezone=settings.timezone)


def checkpoint_asset(model: str) -> Asset:
    """What a trainer has saved; whoever posts an event of it may say {"path": ...}."""
    return Asset(name=f"penstock_{model}_checkpoint", uri=f"penstock://models/{model}/checkpoint")


def version_asset(model: str) -> Asset:
    """What was committed."""
    return Asset(name=f"penstock_{model}_version", uri=f"penstock://models/{model}/version")


@contextmanager
def acting(model: str) -> Iterator[Environment]:
    """The model's environment, in which the DAG run acts, in the name of who has triggered it. What a retry cannot help ends the
    task at once."""
    from penstock.pipeline.core.errors import PenstockError
    from penstock.pipeline.environment import open_environment

    run = get_current_context()["dag_run"]
    by = f" by {run.triggering_user_name}" if run.triggering_user_name else ""
    try:
        with open_environment(config(), model, who=f"airflow:{run.dag_id}/{run.run_id}{by}") as env:
            yield env
    except PenstockError as error:
        if error.retriable:
            raise
        raise AirflowFailException(f"{error} ({error.hint})" if error.hint else str(error)) from error


def covered_until() -> WallTime:
    """The end of the run's data interval; of a run that has none, the moment that it was meant for. Never the time at which a
    task happens to run."""
    from penstock.pipeline.core.times import WallTime
    from penstock.pipeline.core.times import microseconds as since_epoch

    # Airflow's own kind of datetime cannot be divided.
    return WallTime(since_epoch(datetime.fromisoformat(_end(get_current_context()).isoformat())))


def reason() -> str:
    """Why, for the history: what the operator has said, or which interval it was for."""
    context = get_current_context()
    said = context["params"].get("reason")
    return str(said) if said else f"{context['dag'].dag_id} up to {_end(context).isoformat(timespec='seconds')}"


def _end(context: Mapping[str, Any]) -> datetime:
    end: datetime = context.get("data_interval_end") or context["dag_run"].run_after
    return end


def told(found: object) -> Any:
    """A document, as a task returns it."""
    import msgspec

    return msgspec.to_builtins(found)
