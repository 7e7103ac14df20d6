"""Runs connections against the simulator and real DuckDB files, in this process; shared by the tests of orchestration."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb

from rmm_assets.orchestration.assets import build_connection_defs
from rmm_assets.orchestration.component import RmmConnection

KEY = "demo-key"
DATABASE = Path("data/rmm.duckdb")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

_ACME: dict[str, Any] = {
    "name": "acme",
    "client": {"auth": {"type": "api_key", "name": "api_key", "location": "query"}},
    "api_key": {"env": "ACME_API_KEY"},
    "retry": {"backoff_factor": 0.01},
    "limits": {"max_concurrency": 2},
    "resource_defaults": {
        "primary_key": "id",
        "write_disposition": "merge",
        "endpoint": {"data_selector": "data", "paginator": {"type": "offset", "limit": 100}},
    },
}


def devices(number: int, **changes: Any) -> list[dict[str, Any]]:
    """Returns rows with the ids 1, 2, ..., each online unless `changes` say otherwise."""
    return [{"id": i, "name": f"PC-{i:04}", "status": "online", **changes} for i in range(1, number + 1)]


def connection(
    base_url: str | None, resources: Sequence[str | Mapping[str, Any]] = ("devices",), **changes: Any
) -> RmmConnection:
    """Returns a connection `acme`; resources given as a name get an endpoint and some checks."""
    attributes = copy.deepcopy(_ACME) | changes
    if base_url is not None:
        attributes["client"] = {**attributes["client"], "base_url": base_url}
    attributes["resources"] = [
        {
            "name": resource,
            "endpoint": {"path": f"/v1/{resource}"},
            "columns": {"id": {"data_type": "bigint", "nullable": False}, "status": {"data_type": "text"}},
            "checks": {"not_null": ["status"], "accepted_values": {"status": ["online", "offline"]}},
        }
        if isinstance(resource, str)
        else resource
        for resource in resources
    ]
    return RmmConnection.from_attributes_dict(attributes=attributes)


def sync(
    target: RmmConnection, instance: dg.DagsterInstance, *, more: dg.Definitions | None = None
) -> dg.ExecuteInProcessResult:
    """Runs a connection's job.

    Args:
        more: Further definitions, whose assets are in the job.
    """
    definitions = dg.Definitions.merge(build_connection_defs(target), more or dg.Definitions())
    everything = dg.define_asset_job("everything", selection=dg.AssetSelection.all())
    definitions = dg.Definitions.merge(definitions, dg.Definitions(jobs=[everything]))
    return run(definitions, "everything", instance)


def check_alone(
    target: RmmConnection, instance: dg.DagsterInstance, *names: str, resource: str = "devices"
) -> dict[str, dg.AssetCheckEvaluation]:
    """Runs only some of a resource's checks, as the UI's button does."""
    keys = [dg.AssetCheckKey(dg.AssetKey([target.name, resource]), name) for name in names]
    job = dg.define_asset_job("alone", selection=dg.AssetSelection.checks(*keys))
    result = run(dg.Definitions.merge(build_connection_defs(target), dg.Definitions(jobs=[job])), "alone", instance)
    assert not result.get_asset_materialization_events()
    assert checks(result).keys() == set(names), failures(result)
    return checks(result)


def run(definitions: dg.Definitions, job: str, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    """Runs a job in this process."""
    return definitions.resolve_job_def(job).execute_in_process(
        instance=instance, raise_on_error=False, run_config=QUIET
    )


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """Returns the check evaluations of a run by name; the last one if resources share a name."""
    return {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}


def plain(metadata: Mapping[str, dg.MetadataValue[Any]]) -> dict[str, Any]:
    """Returns metadata without Dagster's wrappers."""
    return {name: value.value for name, value in metadata.items()}


def metadata(result: dg.ExecuteInProcessResult, resource: str = "devices") -> dict[str, Any]:
    """Returns the metadata of a resource's materialization in a run."""
    (event,) = [
        event
        for event in result.get_asset_materialization_events()
        if event.materialization.asset_key.path[-1] == resource
    ]
    return plain(event.materialization.metadata)


def materialized(result: dg.ExecuteInProcessResult) -> set[str]:
    """Returns the keys of the assets that a run materialized."""
    events = result.get_asset_materialization_events()
    return {event.materialization.asset_key.to_user_string() for event in events}


def failures(result: dg.ExecuteInProcessResult) -> list[str]:
    """Returns the failure descriptions of a run's steps."""
    data = [event.step_failure_data for event in result.get_step_failure_events()]
    return [(d.user_failure_data and d.user_failure_data.description) or str(d.error) for d in data]


def query(sql: str, *parameters: Any, database: Path = DATABASE) -> list[tuple[Any, ...]]:
    """Runs a query or statement in a DuckDB file and returns its rows."""
    with duckdb.connect(str(database)) as db:
        return db.execute(sql, list(parameters)).fetchall()


def table_rows(columns: Iterable[str], table: str = "acme.devices") -> list[tuple[Any, ...]]:
    """Returns the rows of a table, ordered by its first column."""
    return query(f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1")
