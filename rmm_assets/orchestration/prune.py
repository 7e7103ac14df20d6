"""Deletes old runs with their events and logs, old ticks of schedules and sensors, and old rows of `rmm_syncs`.

It keeps what the current state depends on, however old: the run of each asset's last materialization and of each check's
last result, and the last runs of each job. It deletes no runs of other code locations in the same Dagster instance.
"""

# No `from __future__ import annotations`: Dagster inspects the type annotation of `context`.

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from rmm_assets.config import Connection
from rmm_assets.config.store import store_of
from rmm_assets.orchestration.dagster_internals import delete_run, purge_ticks, runs_of_last_checks
from rmm_assets.orchestration.lost_runs import PROCESS_TAG
from rmm_assets.orchestration.schedules import job_names
from rmm_assets.tables import syncs

PRUNE_VARIABLE = "RMM_PRUNE_AFTER"
KEEP_LAST = 10
JOB = "prune"

_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_UNITS = {"d": "days", "w": "weeks", "h": "hours"}


@dataclass(frozen=True)
class Pruned:
    """What a call of `prune` deleted.

    Attributes:
        runs: Number of deleted runs.
        syncs: Number of deleted rows of `rmm_syncs`.
        problems: Why rows could not be deleted, by connection.
    """

    runs: int
    syncs: int
    problems: Mapping[str, str]


def age_of(text: str) -> timedelta:
    """Parses an age such as `90d`, `12w` or `36h`.

    Raises:
        ValueError: The text is not an age.
    """
    found = re.fullmatch(r"(\d+)([dwh])", text.strip().lower())
    if found is None:
        raise ValueError(f"`{text}` is not a valid age; write days, weeks or hours, such as 90d, 12w or 36h")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def prune(
    instance: dg.DagsterInstance, connections: Iterable[Connection], before: datetime, keep_last: int = KEEP_LAST
) -> Pruned:
    """Deletes runs, ticks and rows of `rmm_syncs` that are older than `before`.

    Args:
        keep_last: How many runs of each job, and rows of each resource, to keep however old they are.
    """
    known, deleted = list(connections), 0
    jobs = {name for each in known for name in (*job_names(each), f"audit_{each.name}")} | {JOB}
    names = {connection.name for connection in known}
    for run_id in _old_runs(instance, jobs, names, before, keep_last):
        delete_run(instance, run_id)
        deleted += 1
    purge_ticks(instance, before)
    rows, problems = 0, {}
    for connection in known:
        store = store_of(connection)
        if store.is_missing:
            continue
        try:
            with store.changing(f"{connection.name}__prune") as client:
                rows += syncs.prune(client, before, keep_last)
        except Exception as error:  # each database raises its own; the next call may succeed
            problems[connection.name] = str(error).splitlines()[0]
    return Pruned(deleted, rows, problems)


def _old_runs(
    instance: dg.DagsterInstance, jobs: set[str], names: set[str], before: datetime, keep_last: int
) -> list[str]:
    filters = dg.RunsFilter(statuses=_FINISHED, created_before=before)
    old = [run for run in instance.get_runs(filters) if run.job_name in jobs or _loads_one_of(names, run)]
    kept = set(runs_of_last_checks(instance))
    for key in instance.all_asset_keys():
        event = instance.get_latest_materialization_event(key)
        if event is not None:
            kept.add(event.run_id)
    for job in {run.job_name for run in old}:
        kept |= {run.run_id for run in instance.get_runs(dg.RunsFilter(job_name=job), limit=keep_last)}
    return [run.run_id for run in old if run.run_id not in kept]


def _loads_one_of(names: set[str], run: dg.DagsterRun) -> bool:
    """Returns whether a run of another job loads a connection of these names; other code locations may have connections, too."""
    if PROCESS_TAG not in run.tags or not run.tags.keys().isdisjoint(("rmm_assets/connection", "rmm_assets/audit")):
        return False
    return run.asset_selection is None or any(key.path[0] in names for key in run.asset_selection)


def build_prune_job(connections: Iterable[Connection]) -> tuple[dg.JobDefinition, dg.ScheduleDefinition]:
    """Builds the job that prunes, and its schedule, which is on if `RMM_PRUNE_AFTER` is set."""
    known = list(connections)

    @dg.op(out=dg.Out(dg.Nothing), description=f"Deletes everything older than {PRUNE_VARIABLE} (default 90d).")
    def delete_old(context: dg.OpExecutionContext) -> None:
        before = datetime.now(UTC) - age_of(os.environ.get(PRUNE_VARIABLE) or "90d")
        pruned = prune(context.instance, known, before)
        context.log.info("deleted %d runs and %d rows of %s", pruned.runs, pruned.syncs, syncs.SYNCS)
        for name, problem in pruned.problems.items():
            context.log.warning("%s: %s", name, problem)

    @dg.job(name=JOB, description="Deletes old runs, their logs, old ticks and old rows of rmm_syncs.",
            executor_def=dg.in_process_executor)  # fmt: skip
    def job() -> None:
        delete_old()

    schedule = dg.ScheduleDefinition(
        name="prune_schedule",
        job=job,
        cron_schedule="30 3 * * *",
        default_status=(
            dg.DefaultScheduleStatus.RUNNING if os.environ.get(PRUNE_VARIABLE) else dg.DefaultScheduleStatus.STOPPED
        ),
        description=f"Every night; on if {PRUNE_VARIABLE} is set.",
    )
    return job, schedule
