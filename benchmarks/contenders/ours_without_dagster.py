"""Contender e: the generic config as our connection file, one resource after the other, without Dagster."""

from __future__ import annotations

import os

import yaml

from benchmarks.contenders.ours_connection import connection_file
from benchmarks.contenders.task import API_KEY, task_from_arguments
from rmm_assets.config import Connection
from rmm_assets.loading.run import sync

if __name__ == "__main__":
    task = task_from_arguments()
    os.environ["RMM_DATABASE"] = str(task.database)
    connection = Connection.model_validate(yaml.safe_load(connection_file(task))["attributes"])
    for resource in connection.resources:
        sync(connection, resource, API_KEY)
