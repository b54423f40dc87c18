"""Proves, daily, that the model can be restored.

Replicas of this run's own restore the version that was live when the data interval ended, as a newcomer does: each of
`schedule.parts` tasks restores a range of the buckets, and needs the memory of that. Their digests are held against those that
the version states; then every byte that it needs is read once more.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, get_current_context, task
from penstock_declarations import acting, covered_until, declared, for_every_model, intervals, told

from penstock.pipeline.config import ScheduleConfig


def declare(model: str, settings: ScheduleConfig) -> DAG:
    schedule = intervals(settings.verification, settings)
    with declared(model, "verification", settings, doc=__doc__, schedule=schedule, deadline=settings.care_deadline) as dag:

        @task
        def choose() -> list[dict[str, int]]:
            from penstock.pipeline.runs.care import version_at

            with acting(model) as env:
                version = version_at(env, covered_until())
                return [{"version": version, "part": part, "of": settings.parts} for part in range(1, settings.parts + 1)]

        @task(pool=settings.slicing_pool)
        def restore(version: int, part: int, of: int) -> Any:
            from penstock.pipeline.core.ids import Version
            from penstock.pipeline.runs.care import restore as restore_part

            with acting(model) as env:
                name = f"verification-{get_current_context()['ti'].id}"
                return told(restore_part(env, Version(version), part=part, of=of, name=name))

        @task(pool=settings.slicing_pool)
        def compare(parts: Any, restored: Any) -> Any:
            import msgspec

            from penstock.pipeline.core.ids import Version
            from penstock.pipeline.runs.care import Restored
            from penstock.pipeline.runs.care import compare as compare_all

            with acting(model) as env:
                return told(compare_all(env, Version(parts[0]["version"]), msgspec.convert(list(restored), list[Restored])))

        parts = choose()
        compare(parts, restore.expand_kwargs(parts))
    return dag


globals().update(for_every_model(declare))
