"""Refuses runs on several machines that would coordinate by files, which only one machine sees."""

from __future__ import annotations

import os

import dagster as dg

from rmm_assets.config import Connection
from rmm_assets.config.store import store_of
from rmm_assets.http.shared_limit import FILES, LIMITS_VARIABLE, shared_limits_url

# Dagster's own executors, which start processes on the machine of the run.
_LOCAL_EXECUTORS = ("in_process", "multiprocess", "multi_or_in_process_executor", "execute_in_process_executor")


def refuse_files_of_one_machine(instance: dg.DagsterInstance, executor: str, connection: Connection) -> None:
    """Makes sure that a run coordinates with the runs on other machines, if there are any.

    Runs are on several machines if the launcher or the executor is not one of Dagster's own, unless `RMM_RATE_LIMITS` is
    `files`, which says that all workers share their working folder.

    Args:
        executor: Name of the run's executor.

    Raises:
        dagster.Failure: The rate limits, or the locks of the destination, are files.
    """
    spread = _spread_by(instance, executor)
    if spread is None or os.environ.get(LIMITS_VARIABLE, "").strip() == FILES:
        return
    try:
        shared = shared_limits_url()
    except ValueError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    problems = []
    if shared is None:
        problems.append(f"set {LIMITS_VARIABLE} to a Redis server that all of them reach, as rate limits are in files")
    store = store_of(connection)
    if store.locks_in_files:
        problems.append(f"use a database server as the destination, as runs that load into {store.place()} lock files")
    if problems:
        raise dg.Failure(
            f"{connection.name}: {spread} starts runs on several machines, which share no files: {'; '.join(problems)}. "
            f"If all workers are on one machine and share its folders, set {LIMITS_VARIABLE}={FILES}",
            allow_retries=False,
        )


def _spread_by(instance: dg.DagsterInstance, executor: str) -> str | None:
    launcher = type(instance.run_launcher)
    if launcher.__module__.partition(".")[0] != "dagster":
        return f"the run launcher {launcher.__name__}"
    return None if executor in _LOCAL_EXECUTORS else f"the executor {executor}"
