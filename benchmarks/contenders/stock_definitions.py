"""Defines the code location of contender c: ``@dlt_assets`` as in dagster-dlt's documentation, with one op."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import dlt
from dagster_dlt import DagsterDltResource, dlt_assets
from dlt.sources.rest_api import rest_api_source

from benchmarks.contenders.generic import rest_api_config
from benchmarks.contenders.task import DATASET, task_from_environment

_task = task_from_environment()


@dlt_assets(
    dlt_source=rest_api_source(rest_api_config(_task)),
    dlt_pipeline=dlt.pipeline("stock", destination=dlt.destinations.duckdb(str(_task.database)), dataset_name=DATASET),
)
def bench(context: dg.AssetExecutionContext, dlt_resource: DagsterDltResource) -> Iterator[Any]:
    """Loads every resource of the generic config."""
    yield from dlt_resource.run(context=context)


defs = dg.Definitions(assets=[bench], resources={"dlt_resource": DagsterDltResource()})
