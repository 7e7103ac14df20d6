"""Builds a connection's audit job: one op per resource, which fails if the table and the API differ."""

# No `from __future__ import annotations`: Dagster inspects the type annotation of `context`.

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
from dlt.destinations.exceptions import DatabaseException, DestinationConnectionError

from rmm_assets.config import Connection, Resource
from rmm_assets.errors import RmmError
from rmm_assets.loading.run import store_of
from rmm_assets.orchestration.machines import refuse_files_of_one_machine
from rmm_assets.orchestration.resources import RmmApi
from rmm_assets.orchestration.schedules import executor_of

if TYPE_CHECKING:
    from rmm_assets.audit import Audit


def build_audit_job(connection: Connection, resource_key: str, api: RmmApi) -> dg.JobDefinition:
    """Builds the job that compares every table of a connection with the API, without changing any.

    Args:
        resource_key: Key of the connection's resource.
        api: The resource.
    """
    ops = [_audit_op(connection, resource, resource_key) for resource in connection.resources if resource.selected]

    @dg.job(
        name=f"audit_{connection.name}",
        description=f"Re-reads every resource of {connection.name} by a different route and compares it with its table. "
        "Writes nothing.",
        tags={"rmm_assets/audit": connection.name},
        resource_defs={resource_key: api},
        executor_def=executor_of(connection),
    )
    def job() -> None:
        for op in ops:
            op()

    return job


def _audit_op(connection: Connection, resource: Resource, resource_key: str) -> dg.OpDefinition:
    @dg.op(
        name=f"audit__{connection.name}__{resource.table}",
        description=f"Compares the table of {resource.name} with the API.",
        required_resource_keys={resource_key},
        out=dg.Out(dg.Nothing),
    )
    def run(context: dg.OpExecutionContext) -> None:
        refuse_files_of_one_machine(context.instance, context.job_def.executor_def.name, connection)
        api: RmmApi = getattr(context.resources, resource_key)
        result = audit_resource(connection, resource, api, context.log)
        if result.verdict == "differences":
            # Examples are only in the metadata, because the description is posted to the webhook.
            differences = "; ".join(result.sentences(examples=False))
            raise dg.Failure(f"{resource.name}: {differences}", metadata=_metadata(result), allow_retries=False)
        for sentence in result.sentences():
            context.log.warning("%s: %s", resource.name, sentence)
        context.add_output_metadata(_metadata(result))

    return run


def audit_resource(connection: Connection, resource: Resource, api: RmmApi, log: Any = None) -> "Audit":
    """Audits one resource with the connection's key.

    Raises:
        dagster.Failure: No secret is set, or the audit could not run.
    """
    # Imported here, because loading the code location does not need it.
    from rmm_assets.audit import audit

    with api.session() as (base_url, secret):
        try:
            return audit(connection, resource, secret, store=store_of(connection), base_url=base_url, log=log)
        except (RmmError, ValueError, DatabaseException, DestinationConnectionError, OSError) as error:
            problem = f"{resource.name}: {error}"
    raise dg.Failure(problem, allow_retries=False)


def _metadata(result: "Audit") -> Mapping[str, Any]:
    metadata = result.as_json()
    for key in ("connection", "resource", "loaded_at"):
        metadata.pop(key)
    metadata["unverified"] = list(result.unverified)
    metadata["examples"] = {kind: list(labels) for kind, labels in result.examples.items()}
    if result.loaded_at is not None:
        metadata["loaded_at"] = dg.MetadataValue.timestamp(result.loaded_at)
    return metadata
