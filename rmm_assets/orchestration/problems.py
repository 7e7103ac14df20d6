"""Finds problems that no failed run reports: broken files, stale assets, runs that wait or hang."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from rmm_assets.orchestration.dagster_internals import schedule_is_running
from rmm_assets.orchestration.schedules import longest_interval, own_schedule_name, schedule_name
from rmm_assets.orchestration.webhook import Alert

BROKEN = "rmm_assets/broken"
"""Tag of an asset that replaces a broken connection; the metadata of this name says why it is not loaded."""

LOADS = "loads"
"""Name of the check of such an asset, which always fails."""

WAITS_TOO_LONG = timedelta(minutes=15)
RUNS_TOO_LONG = timedelta(hours=6)

_NOT_RUNNING_YET = [DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING]
_RUNNING = [DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]


def broken_files(repository: dg.RepositoryDefinition) -> Iterator[Alert]:
    """Yields the connections that are not loaded, and why."""
    for key, definition in repository.assets_defs_by_key.items():
        if problem := definition.specs_by_key[key].metadata.get(BROKEN):
            yield Alert(key.to_user_string(), f"is not loaded: {problem}")


def stale_assets(
    instance: DagsterInstance, repository: dg.RepositoryDefinition, location: str | None, now: datetime
) -> Iterator[Alert]:
    """Yields the assets that were last loaded longer ago than their window.

    The window is `fresh_within`, or twice the schedule's longest interval. An asset whose schedule is
    stopped is not stale, and neither is one that was never loaded.

    Args:
        location: Code location of the repository; None if it is not known.
    """
    windows: dict[str, timedelta | None] = {}
    for key, definition in repository.assets_defs_by_key.items():
        own = own_schedule_name(key.path[0], key.path[-1])
        name = own if repository.has_schedule_def(own) else schedule_name(key.path[0])
        if name not in windows:
            windows[name] = _window(instance, repository, name, location)
        spec, window = definition.specs_by_key[key], windows[name]
        if window is None or "dagster/table_name" not in spec.metadata:
            continue
        stated = getattr(spec.freshness_policy, "fail_window", None)
        limit = stated.to_timedelta() if stated is not None else window
        event = instance.get_latest_materialization_event(key) if limit else None
        if event is not None and (age := now - datetime.fromtimestamp(event.timestamp, UTC)) > limit:
            yield Alert(key.to_user_string(), f"is stale: last loaded {ago(age)}, expected every {span(limit)}")


def _window(
    instance: DagsterInstance, repository: dg.RepositoryDefinition, name: str, location: str | None
) -> timedelta | None:
    """Returns the window that a schedule allows, zero if there is no such schedule, None if it is stopped."""
    if not repository.has_schedule_def(name):
        return timedelta(0)
    schedule = repository.get_schedule_def(name)
    if not schedule_is_running(instance, schedule, location):
        return None
    return 2 * longest_interval(str(schedule.cron_schedule))


def waiting_runs(instance: DagsterInstance, location: str | None, now: datetime) -> Iterator[Alert]:
    """Yields the runs that have waited to start, or have been running, for too long."""
    waiting = dg.RunsFilter(statuses=_NOT_RUNNING_YET, created_before=now - WAITS_TOO_LONG)
    for record in instance.get_run_records(waiting):
        if is_ours(record.dagster_run, location):
            age = now - record.create_timestamp.replace(tzinfo=UTC)
            yield _of_run(record.dagster_run, f"has waited to start for {span(age)}")
    # Dagster cannot filter runs by their start time.
    running = dg.RunsFilter(statuses=_RUNNING, created_before=now - RUNS_TOO_LONG)
    for record in instance.get_run_records(running):
        age = now - datetime.fromtimestamp(record.start_time or now.timestamp(), UTC)
        if age > RUNS_TOO_LONG and is_ours(record.dagster_run, location):
            yield _of_run(record.dagster_run, f"has been running for {span(age)}")


def is_ours(run: DagsterRun, location: str | None) -> bool:
    """Returns whether a run belongs to a code location."""
    # A run that was executed in process, as `rmm sync` does, has no origin and belongs to no location.
    origin = run.remote_job_origin
    return origin is None or location is None or origin.location_name == location


def _of_run(run: DagsterRun, text: str) -> Alert:
    return Alert(f"run {run.run_id[:8]} of {run.job_name}", text, run.run_id)


def span(length: timedelta) -> str:
    """Returns a length of time in its largest unit: `3 days`, `90 minutes`."""
    minutes = int(length.total_seconds() // 60)
    for unit, size in (("day", 24 * 60), ("hour", 60)):
        if minutes >= 2 * size:
            return f"{minutes // size} {unit}s"
    return f"{minutes} minute{'' if minutes == 1 else 's'}"


def ago(age: timedelta) -> str:
    """Returns an age as text: `3 days ago`."""
    return f"{span(age)} ago"
