"""Contender b: like contender a, with load files in parquet, the single setting that speeds up dlt most."""

from __future__ import annotations

import dlt
from dlt.sources.rest_api import rest_api_source

from benchmarks.contenders.generic import rest_api_config
from benchmarks.contenders.task import DATASET, task_from_arguments

if __name__ == "__main__":
    task = task_from_arguments()
    pipeline = dlt.pipeline("parquet", destination=dlt.destinations.duckdb(str(task.database)), dataset_name=DATASET)
    pipeline.run(rest_api_source(rest_api_config(task)), loader_file_format="parquet")
