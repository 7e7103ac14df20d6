"""Builds the jobs and schedules of a connection and its resources; a tick is skipped while a run of its job is in progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import pairwise

import dagster as dg

from rmm_assets.config import Connection, Resource
from rmm_assets.config.schedule import Schedule
from rmm_assets.orchestration.dagster_internals import ticks
from rmm_assets.orchestration.lost_runs import IN_PROGRESS, end_lost_runs

# One process for all resources of a run: a process per resource would spend seconds on imports, several times as long as
# loading most resources takes, and DuckDB allows one writer at a time anyway. Pages are prefetched within a resource.
EXECUTOR = dg.in_process_executor

_IN_PROGRESS = [dg.DagsterRunStatus.QUEUED, *IN_PROGRESS]


def job_name(connection: Connection) -> str:
    """Returns the name of the job that materializes the whole connection."""
    return f"sync_{connection.name}"


def own_job_name(connection: str, resource: str) -> str:
    """Returns the name of the job of a resource with a schedule of its own; no connection's name has two underscores."""
    return f"sync_{connection}__{resource.replace('-', '_')}"


def job_names(connection: Connection) -> list[str]:
    """Returns the names of the jobs that materialize a connection's assets."""
    own = [each.name for each in connection.resources if each.schedule and each.selected]
    return [job_name(connection), *(own_job_name(connection.name, name) for name in own)]


def schedule_name(connection: str) -> str:
    """Returns the name of the schedule of a connection's job."""
    return f"sync_{connection}_schedule"


def own_schedule_name(connection: str, resource: str) -> str:
    """Returns the name of a resource's own schedule."""
    return f"{own_job_name(connection, resource)}_schedule"


def build_job(connection: Connection, keys: Sequence[dg.AssetKey]) -> dg.JobDefinition:
    """Builds the job that materializes and checks all assets of a connection."""
    return dg.define_asset_job(  # type: ignore[return-value]
        job_name(connection),
        selection=dg.AssetSelection.assets(*keys),
        description=f"Materializes and checks every resource of {connection.name}.",
        tags={**connection.run_tags, "rmm_assets/connection": connection.name},
        executor_def=executor_of(connection),
    )


def build_own_job(connection: Connection, resource: Resource, key: dg.AssetKey) -> dg.JobDefinition:
    """Builds the job that materializes and checks one resource, for its own schedule."""
    return dg.define_asset_job(  # type: ignore[return-value]
        own_job_name(connection.name, resource.name),
        selection=dg.AssetSelection.assets(key),
        description=f"Materializes and checks {resource.name} of {connection.name}.",
        tags={**connection.run_tags, "rmm_assets/connection": connection.name},
        executor_def=executor_of(connection),
    )


def executor_of(connection: Connection) -> dg.ExecutorDefinition | None:
    """Returns the executor of a connection's jobs; None for the code location's executor."""
    executors = {"in_process": EXECUTOR, "multiprocess": dg.multiprocess_executor, "location": None}
    return executors[connection.executor]


Requests = Callable[
    [Sequence[dg.AssetKey] | None, dg.ScheduleEvaluationContext], Iterable[dg.RunRequest | dg.SkipReason]
]


def build_schedule(
    schedule: Schedule | None, job: dg.JobDefinition, only: Sequence[dg.AssetKey] | None = None,
    requests: Requests | None = None,
) -> dg.ScheduleDefinition | None:  # fmt: skip
    """Builds a job's schedule; returns None if its file does not define one.

    Args:
        only: The assets of the job that it materializes; all of them if None.
        requests: Returns the runs of a tick, which materialize the assets in `only`; by default one.
    """
    if schedule is None:
        return None

    def tick(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        end_lost_runs(context.instance, job.name)
        running = context.instance.get_run_records(dg.RunsFilter(job_name=job.name, statuses=_IN_PROGRESS), limit=1)
        if running:
            yield dg.SkipReason(f"run {running[0].dagster_run.run_id[:8]} of {job.name} is in progress")
            return
        yield from [dg.RunRequest(asset_selection=only)] if requests is None else requests(only, context)

    return dg.ScheduleDefinition(
        name=f"{job.name}_schedule",
        job=job,
        cron_schedule=schedule.cron,
        execution_timezone=schedule.timezone,
        execution_fn=tick,
        default_status=(
            dg.DefaultScheduleStatus.RUNNING if schedule.status == "running" else dg.DefaultScheduleStatus.STOPPED
        ),
        description=f"{schedule.cron} ({schedule.timezone}); skipped while a run is in progress.",
    )


def freshness(connection: Connection, resource: Resource) -> dg.FreshnessPolicy | None:
    """Returns when the asset becomes stale: after `fresh_within`, or twice the schedule's longest interval.

    Without `fresh_within`, the assets of a schedule that the file stops have no policy.
    """
    window = fresh_within(connection, resource)
    return None if window is None else dg.FreshnessPolicy.time_window(fail_window=window)


def fresh_within(connection: Connection, resource: Resource) -> timedelta | None:
    """Returns how old the last load may be; None if it may be of any age."""
    if resource.fresh_within is not None:
        return timedelta(minutes=resource.fresh_within)
    schedule = resource.schedule or connection.schedule
    if schedule is None or schedule.status == "stopped":
        return None
    return 2 * longest_interval(schedule.cron)


def longest_interval(cron: str) -> timedelta:
    """Returns the longest interval between consecutive ticks, among the first thousand."""
    intervals = [later - earlier for earlier, later in pairwise(ticks(cron, "UTC", 1000))]
    return max(intervals, default=timedelta(days=1))
