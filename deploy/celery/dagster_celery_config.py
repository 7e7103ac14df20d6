"""Configures Celery's workers: dagster-celery imports this module by its name, so its folder must be in PYTHONPATH."""

import os

broker_url = result_backend = os.environ["RMM_CELERY"]
task_default_queue = "dagster"
worker_concurrency = 2
worker_prefetch_multiplier = 1
# Each run has a new process, which reads the connection files as they are then. What takes long to import is imported before.
worker_max_tasks_per_child = 1
imports = ("rmm_assets.definitions",)
