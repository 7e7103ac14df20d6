"""Builds a connection's job and schedule; a tick is skipped while a run is in progress."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise

import dagster as dg

from rmm_assets.config import Connection, Resource
from rmm_assets.orchestration.dagster_internals import ticks

# One process for all resources of a run: a process each costs seconds of imports, several times what most resources
# take, and DuckDB lets one of them write at a time anyway. Pages are read ahead within each resource.
EXECUTOR = dg.in_process_executor

_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def job_name(connection: Connection) -> str:
    """Name of the job that materializes the whole connection."""
    return f"sync_{connection.name}"


def build_job(connection: Connection, keys: Sequence[dg.AssetKey]) -> dg.JobDefinition:
    """One job for all assets of a connection, with their checks."""
    return dg.define_asset_job(  # type: ignore[return-value]
        job_name(connection),
        selection=dg.AssetSelection.assets(*keys),
        description=f"Materializes every resource of {connection.name}, and checks it.",
        tags={"rmm_assets/connection": connection.name},
        executor_def=EXECUTOR,
    )


def build_schedule(connection: Connection, job: dg.JobDefinition) -> dg.ScheduleDefinition | None:
    """The connection's schedule; None where its file names none."""
    if connection.schedule is None:
        return None

    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        going = context.instance.get_run_records(
            dg.RunsFilter(job_name=job_name(connection), statuses=_UNDER_WAY), limit=1
        )
        if going:
            return dg.SkipReason(f"run {going[0].dagster_run.run_id[:8]} of {job_name(connection)} is in progress")
        return dg.RunRequest()

    return dg.ScheduleDefinition(
        name=f"{job_name(connection)}_schedule",
        job=job,
        cron_schedule=connection.schedule.cron,
        execution_timezone=connection.schedule.timezone,
        execution_fn=tick,
        default_status=(
            dg.DefaultScheduleStatus.RUNNING
            if connection.schedule.status == "running"
            else dg.DefaultScheduleStatus.STOPPED
        ),
        description=f"{connection.schedule.cron} ({connection.schedule.timezone}); skipped while a run is in progress.",
    )


def freshness(connection: Connection, resource: Resource) -> dg.FreshnessPolicy | None:
    """When the asset counts as stale: by the file's word, else after twice the schedule's longest pause."""
    if resource.fresh_within is not None:
        return dg.FreshnessPolicy.time_window(fail_window=timedelta(minutes=resource.fresh_within))
    if connection.schedule is None:
        return None
    return dg.FreshnessPolicy.time_window(fail_window=2 * _longest_pause(connection.schedule.cron))


def _longest_pause(cron: str) -> timedelta:
    """Returns the longest time between two of a thousand ticks."""
    pauses = [later - earlier for earlier, later in pairwise(ticks(cron, "UTC", 1000))]
    return max(pauses, default=timedelta(days=1))
