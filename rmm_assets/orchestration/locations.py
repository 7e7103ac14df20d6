"""Refuses scheduled runs of a connection that another code location has, too, under the same name and so in the same tables."""

from __future__ import annotations

import dagster as dg

# Dagster's own tags.
_SCHEDULE = "dagster/schedule_name"
_REPOSITORY = ".dagster/repository"


def refuse_tables_of_another_location(instance: dg.DagsterInstance, run: dg.DagsterRun, key: dg.AssetKey) -> None:
    """Makes sure that a scheduled run does not load a table in turn with another code location.

    A connection that has moved to another location, or whose location has another name, is not loaded by its former location
    any more. So it is two connections if this location has loaded it before, and another one has loaded the table since. Runs that
    a person or a command launches go on: after the next one, the table is this location's again.

    Args:
        key: The asset to load.

    Raises:
        dagster.Failure: Another location has loaded it since.
    """
    own = _location_of(run)
    if own is None or _SCHEDULE not in run.tags:
        return
    event = instance.get_latest_materialization_event(key)
    last = None if event is None else instance.get_run_by_id(event.run_id)
    other = None if last is None else _location_of(last)
    if other in (None, own):
        return
    ours = dg.RunsFilter(
        job_name=run.job_name, statuses=[dg.DagsterRunStatus.SUCCESS], tags={_REPOSITORY: run.tags[_REPOSITORY]}
    )
    if instance.get_run_records(ours, limit=1):
        raise dg.Failure(
            f"{key.to_user_string()}: the code location {other} has loaded this table since {own} did, so both have a connection "
            f"{key.path[0]}: give one of them another name, or another `dataset`. If {other} no longer has it, launch "
            f"{run.job_name} by hand once",
            allow_retries=False,
        )


def _location_of(run: dg.DagsterRun) -> str | None:
    """Returns the name of a run's code location; None for a run of a command, which has none."""
    return run.remote_job_origin.location_name if run.remote_job_origin is not None else None
