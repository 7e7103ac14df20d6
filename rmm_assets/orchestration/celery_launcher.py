"""Launches runs as Celery tasks, and notices when the worker of a run is gone; needs the extra `celery`.

Celery keeps showing a task as started after its worker was killed, so that dagster-celery's own launcher (0.29.27) reports such a
run as healthy for ever.
"""

from __future__ import annotations

import dagster as dg
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from rmm_assets.orchestration.dagster_internals import CheckRunHealthResult, WorkerStatus

# Seconds for a worker to say whether it executes a task. Its main process answers, which executes none.
_ANSWERS_WITHIN = 15.0


class RmmCeleryRunLauncher(CeleryRunLauncher):  # type: ignore[misc]
    """dagster-celery's launcher, with the same settings, that asks the worker of a run whether it still executes it."""

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Returns whether the run's worker executes it; Dagster's run monitoring ends a run whose worker is gone."""
        health: CheckRunHealthResult = super().check_run_worker_health(run)
        if health.status is not WorkerStatus.RUNNING:
            return health
        task = run.tags[DAGSTER_CELERY_TASK_ID_TAG]
        worker = (self.celery.AsyncResult(task).info or {}).get("hostname")
        if worker is None:
            return health
        asked = self.celery.control.inspect(destination=[worker], timeout=_ANSWERS_WITHIN)
        answers = asked.query_task(task) or {}
        if worker not in answers:
            return CheckRunHealthResult(WorkerStatus.FAILED, f"the Celery worker {worker} does not answer")
        if task not in answers[worker] and self.celery.AsyncResult(task).state == "STARTED":
            return CheckRunHealthResult(WorkerStatus.FAILED, f"the Celery worker {worker} no longer executes the run")
        return health
